"""Scoring plan: token sequences as a prefix tree, so that every distinct prefix goes through the
model once.

The four choices of a question share its prompt, and all questions of a subject share their few-shot
examples. Put as one tree, both savings are the same thing. The tree is cut into steps that the
model runs one after another:

- a *pack* is a subtree laid out in one row. A tree attention mask lets each token see its own
  ancestors only, so a row holds many branches without padding and without copies of what they
  share;
- a *header* is a long run of tokens above a subtree that is too large for one pack. Its keys and
  values stay in the cache while the packs below it run.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

# tokens; a shorter shared prefix is cheaper to run again in each pack than to cache
MIN_HEADER = 32


@dataclass(frozen=True)
class Target:
    """Token ``token`` is scored at the step's token number ``row``, for sequence ``sequence``."""

    row: int
    token: int
    sequence: int


@dataclass
class Step:
    """One forward pass. ``base`` tokens of the path above are in the cache."""

    base: int
    header: bool  # its keys and values stay in the cache for the steps that follow
    tokens: list[int] = field(default_factory=list)
    # row of the token before; -1: the last one in the cache
    parents: list[int] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)

    def positions(self) -> np.ndarray:
        """Distance of each token from the start of its sequence, int64 [rows]."""
        depth = np.empty(len(self.tokens), dtype=np.int64)
        for row, parent in enumerate(self.parents):
            depth[row] = self.base if parent < 0 else depth[parent] + 1
        return depth

    @property
    def linear(self) -> bool:
        """One path without branches: the model's ordinary causal mask is right."""
        return all(parent == row - 1 for row, parent in enumerate(self.parents))

    def visible(self) -> np.ndarray:
        """bool [rows, base + rows]: the whole cache, a token's ancestors, and itself."""
        rows = len(self.tokens)
        mask = np.zeros((rows, self.base + rows), dtype=bool)
        mask[:, : self.base] = True
        for row, parent in enumerate(self.parents):
            if parent >= 0:
                mask[row, self.base :] = mask[parent, self.base :]
            mask[row, self.base + row] = True
        return mask


@dataclass(frozen=True)
class Scored:
    """A sequence to score: the tokens that go in, and the targets that follow the last
    ``len(targets)`` of them."""

    inputs: tuple[int, ...]
    targets: tuple[int, ...]


class Plan:
    """The steps of ``sequences``, each row of at most ``pack_tokens`` tokens unless a single branch
    is longer.

    Iterating gives the steps in the order in which they must run: when a step comes, the cache
    (cropped to the step's ``base``) holds exactly the tokens it needs.
    """

    def __init__(self, sequences: Sequence[Scored], pack_tokens: int) -> None:
        self.sequences = sequences
        self.pack_tokens = pack_tokens
        self.order = sorted(range(len(sequences)), key=lambda index: sequences[index].inputs)
        self.inputs = [sequences[index].inputs for index in self.order]
        # with the one before
        self.shared = [0] + [_common(a, b) for a, b in zip(self.inputs, self.inputs[1:])]

    def __iter__(self) -> Iterator[Step]:
        yield from self._fill(0, len(self.order), base=0, depth=0)

    @property
    def tokens(self) -> int:
        """Tokens of the tree: what has to be computed when every prefix is computed once."""
        return self._tokens(0, len(self.order), 0) if self.order else 0

    def _fill(self, first: int, last: int, base: int, depth: int) -> Iterator[Step]:
        """Steps of the sorted sequences [first, last). They share ``depth`` tokens, of which
        ``base`` are cached.

        The branches below ``depth`` are put into packs in order; one that is too large gets steps
        of its own.
        """
        start, waiting = first, 0
        for branch, end in self._branches(first, last, depth):
            size = self._tokens(branch, end, base)
            if waiting and waiting + size > self.pack_tokens:
                yield self._step(start, branch, base)
                start, waiting = branch, 0
            if size > self.pack_tokens:
                yield from self._split(branch, end, base)
                start = end
            else:
                waiting += size
        if waiting:
            yield self._step(start, last, base)

    def _split(self, first: int, last: int, base: int) -> Iterator[Step]:
        """A branch too large for a pack: what its sequences share becomes a header if it is long
        enough."""
        common = _common(self.inputs[first], self.inputs[last - 1])
        if common - base < MIN_HEADER and last - first > 1:
            yield from self._fill(first, last, base, common)
            return
        ended = first  # sequences that are all header are scored in it and done
        while ended < last and len(self.inputs[ended]) == common:
            ended += 1
        yield self._step(first, last, base, until=common, header=ended < last)
        yield from self._fill(ended, last, common, common)

    def _branches(self, first: int, last: int, depth: int) -> Iterator[tuple[int, int]]:
        """Ranges of sequences that also agree in the token after ``depth``."""
        start = first
        for index in range(first + 1, last):
            if self.shared[index] <= depth:
                yield start, index
                start = index
        if start < last:
            yield start, last

    def _tokens(self, first: int, last: int, base: int) -> int:
        """Tokens of the subtree below the ``base`` cached ones."""
        fresh = (len(self.inputs[i]) - max(self.shared[i], base) for i in range(first + 1, last))
        return len(self.inputs[first]) - base + sum(fresh)

    def _step(
        self, first: int, last: int, base: int, until: int | None = None, header: bool = False
    ) -> Step:
        """The subtree of [first, last) from depth ``base`` to ``until`` (None: to its leaves) laid
        out in one row."""
        step = Step(base, header)
        path: list[int] = []  # rows of the current sequence, by depth - base
        for index in range(first, last):
            tokens = self.inputs[index]
            end = len(tokens) if until is None else min(until, len(tokens))
            if index > first:
                del path[max(self.shared[index] - base, 0) :]
            for depth in range(base + len(path), end):
                step.parents.append(path[-1] if path else -1)
                path.append(len(step.tokens))
                step.tokens.append(tokens[depth])
            number = self.order[index]
            targets = self.sequences[number].targets
            offset = len(tokens) - len(targets)
            for depth in range(max(base, offset), end):
                step.targets.append(Target(path[depth - base], targets[depth - offset], number))
        return step


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Length of the longest common prefix."""
    limit = min(len(a), len(b))
    if a[:limit] == b[:limit]:
        return limit
    low, high = 0, limit  # a[:low] is equal, a[:high] is not
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
