"""Old ids -> new ids without the text: for token stores on disk and for cached teacher logits.

A kept token becomes its new id; a removed one becomes the new ids of its string. The decoded text stays the same. The
result can differ from tokenizing the text again where a piece could now merge with its neighbour; that made text
0.02 % longer when measured (docs/tokenizer.md).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinylm.artifact import atomic_file
from tinylm.errors import InputError
from tinylm.tokenizer.source import Source

CHUNK = 4_000_000  # tokens at a time


@dataclass(frozen=True)
class Expansion:
    """Old id t becomes ``pieces[starts[t] : starts[t + 1]]`` (an id that is no token becomes nothing)."""

    starts: np.ndarray  # int64[V_old + 1]
    pieces: np.ndarray  # uint32[...]

    @staticmethod
    def between(parent: Source, child: Source, kept: np.ndarray) -> "Expansion":
        """The expansion from ``parent`` to a ``child`` that kept the old ids ``kept``."""
        new_ids = np.full(parent.size, -1, dtype=np.int64)
        new_ids[kept] = np.arange(len(kept))
        tokenizer = child.fast
        rows: list[list[int]] = [[] for _ in range(parent.size)]
        for old, string in parent.strings.items():
            if new_ids[old] >= 0:
                rows[old] = [int(new_ids[old])]
            elif old in parent.added:
                rows[old] = tokenizer.encode(string, add_special_tokens=False).ids
            else:
                rows[old] = [token.id for token in tokenizer.model.tokenize(string)]
        starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        return Expansion(starts, np.array([i for row in rows for i in row], dtype=np.uint32))

    @property
    def lengths(self) -> np.ndarray:
        """int64[V_old]: new tokens per old token."""
        return np.diff(self.starts)

    def apply(self, tokens: np.ndarray) -> np.ndarray:
        """uint32[...]: the new ids of a flat array of old ids."""
        tokens = np.asarray(tokens, dtype=np.int64)
        if tokens.size and not (tokens.min() >= 0 and tokens.max() < len(self.lengths)):
            raise InputError(f"token id {int(tokens.max())} is not of the old tokenizer ({len(self.lengths)} ids)")
        lengths = self.lengths[tokens]
        ends = np.cumsum(lengths)
        # Position of every output token inside `pieces`: start of its row + how far into the row it is.
        within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
        return self.pieces[np.repeat(self.starts[tokens], lengths) + within]

    def growth(self, emitted: np.ndarray) -> float:
        """Tokens after / before for text with these old counts (int64[V_old])."""
        return float(self.lengths @ emitted / max(1, emitted.sum()))

    def save(self, path: Path) -> None:
        with atomic_file(path) as scratch, open(scratch, "wb") as file:
            np.savez_compressed(file, starts=self.starts, pieces=self.pieces)

    @staticmethod
    def load(path: str | Path) -> "Expansion":
        """Read expansion.npz of a directory that `tinylm tokenizer compress` wrote (or that directory)."""
        path = Path(path)
        path = path / "expansion.npz" if path.is_dir() else path
        try:
            with np.load(path, allow_pickle=False) as data:
                return Expansion(data["starts"], data["pieces"])
        except Exception as error:  # missing file, zip and key errors
            raise InputError(f"{path} is no expansion of `tinylm tokenizer compress` ({error})") from error


def remap_file(
    tokens: Path,
    out: Path,
    expansion: Expansion,
    vocab_size: int,
    dtype: str = "uint16",
    offsets: np.ndarray | None = None,
) -> tuple[np.ndarray | None, int]:
    """Remap a raw array of ``dtype`` tokens on disk into ``out`` (uint16 when ``vocab_size`` allows, else uint32).

    ``offsets``: document starts in tokens (int64[D + 1]); returned for the new file. Also returns its token count.
    Reads and writes a chunk at a time.
    """
    old = np.memmap(tokens, dtype=dtype, mode="r")
    new_dtype = np.uint16 if vocab_size <= 2**16 else np.uint32
    before, cuts = 0, [] if offsets is None else [np.asarray(offsets, dtype=np.int64)]
    new_offsets = np.zeros(len(cuts[0]) if cuts else 0, dtype=np.int64)
    with atomic_file(out) as scratch, open(scratch, "wb") as file:
        for start in range(0, len(old), CHUNK):
            chunk = np.asarray(old[start : start + CHUNK], dtype=np.int64)
            if cuts:
                inside = (cuts[0] >= start) & (cuts[0] < start + len(chunk))
                sums = np.concatenate([[0], np.cumsum(expansion.lengths[chunk])])
                new_offsets[inside] = before + sums[cuts[0][inside] - start]
            new = expansion.apply(chunk).astype(new_dtype)
            file.write(new.tobytes())
            before += len(new)
    if cuts:
        new_offsets[cuts[0] == len(old)] = before
    return (new_offsets if cuts else None), before


def remap_logits(ids: np.ndarray, logits: np.ndarray, kept: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cached top-k teacher logits in the new vocabulary: ids [..., k] old -> new, removed ones get logit -inf, id 0.

    A softmax over the result is the teacher restricted to the kept tokens. ``size`` is the old vocabulary's.
    """
    new_ids = np.full(size, -1, dtype=np.int64)
    new_ids[kept] = np.arange(len(kept))
    mapped = new_ids[ids]
    gone = mapped < 0
    return np.where(gone, 0, mapped), np.where(gone, -np.inf, logits)
