"""Mixtures: each source of a store has a share of the training text, whatever its size.

The pool of sequences stays a pure function of the store, the seed and the settings: every source
gives its quota in a random order of its own (over again in a new order where it holds less), and
all are shuffled together.
"""

from collections.abc import Sequence

import numpy as np

from tinylm.corpus.store import TokenStore
from tinylm.errors import InputError
from tinylm.train.draws import generator


def mixed_order(
    store: TokenStore, length: int, mixture: Sequence[float], count: int, seed: int
) -> np.ndarray:
    """Numbers of ``count`` sequences of ``length`` tokens, int64, in the order of training.

    Raises:
        InputError: another number of shares than the store has sources, or a source that shall be
            read and has not one whole sequence.
    """
    first, sources = 0, store.source_ends or (store.num_tokens,)
    if len(sources) != len(mixture):
        raise InputError(
            f"train.mixture has {len(mixture)} shares, {store.path} holds {len(sources)} sources:"
            " pack them in one command, one path each, and give one share to each"
        )
    parts = []
    for number, (end, quota) in enumerate(zip(sources, quotas(mixture, count))):
        # a sequence belongs to the source of its first token
        last = min(-(-end // length), store.num_sequences(length))
        if quota:
            if last <= first:
                raise InputError(
                    f"source {number + 1} of the mixture holds no whole sequence of {length}"
                    " tokens: add text, or give it the weight 0"
                )
            passes = [
                generator(seed, "pool", number, epoch).permutation(last - first)
                for epoch in range(-(-quota // (last - first)))
            ]
            parts.append(first + np.concatenate(passes)[:quota])
        first = max(first, last)
    return generator(seed, "pool").permutation(np.concatenate(parts)).astype(np.int64)


def quotas(mixture: Sequence[float], count: int) -> list[int]:
    """``count`` in parts that are to each other as ``mixture``, by the largest remainder."""
    exact = np.array(mixture, dtype=np.float64) / sum(mixture) * count
    whole = np.floor(exact).astype(np.int64)
    whole[np.argsort(whole - exact, kind="stable")[: count - int(whole.sum())]] += 1
    return whole.tolist()


def passes(store: TokenStore, mixture: Sequence[float], tokens: int) -> list[tuple[int, float]]:
    """(tokens of text, how often ``tokens`` of training read it) of every source."""
    sizes = np.diff([0, *store.source_ends]).tolist()
    shares = [share / sum(mixture) for share in mixture]
    return [
        (size, share * tokens / size if size else 0.0)
        for size, share in zip(sizes, shares, strict=True)
    ]
