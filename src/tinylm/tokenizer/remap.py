"""Old ids -> new ids without the text: for token stores on disk and for cached teacher logits.

A kept token becomes its new id; a removed one becomes the new ids of its string. The decoded text
stays the same. The result can differ from tokenizing the text again where a piece could now merge
with its neighbour.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinylm.artifact import atomic_directory, atomic_file, optional_json
from tinylm.corpus.store import (
    DOCUMENTS,
    TOKENS,
    TokenStore,
    open_store,
    tokenizer_hash,
    write_header,
)
from tinylm.errors import InputError
from tinylm.models.teacher import load_tokenizer
from tinylm.tokenizer.source import Source

CHUNK = 4_000_000  # tokens at a time


@dataclass(frozen=True)
class Expansion:
    """Old id t becomes ``pieces[starts[t] : starts[t + 1]]`` (an id that is no token becomes
    nothing)."""

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
            raise InputError(
                f"token id {int(tokens.max())} is not of the old tokenizer ({len(self.lengths)}"
                " ids)"
            )
        lengths = self.lengths[tokens]
        ends = np.cumsum(lengths)
        # Position of every output token inside `pieces`: start of its row + how far into the row it
        # is.
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
        """Read expansion.npz of a directory that `tinylm tokenizer compress` wrote (or that
        directory)."""
        path = Path(path)
        path = path / "expansion.npz" if path.is_dir() else path
        try:
            with np.load(path, allow_pickle=False) as data:
                return Expansion(data["starts"], data["pieces"])
        except Exception as error:  # missing file, zip and key errors
            raise InputError(
                f"{path} is no expansion of `tinylm tokenizer compress` ({error})"
            ) from error


def remap_file(
    tokens: Path,
    out: Path,
    expansion: Expansion,
    vocab_size: int,
    dtype: str,
    starts: np.ndarray,
) -> tuple[np.ndarray, int]:
    """Remap a raw array of ``dtype`` tokens on disk into ``out`` (uint16 when ``vocab_size``
    allows, else uint32).

    ``starts``: positions in the old file (int64[D + 1], e.g. of documents). Returns where they are
    in the new file, and its number of tokens. Reads and writes a chunk at a time.
    """
    old = np.memmap(tokens, dtype=dtype, mode="r")
    new_dtype = np.uint16 if vocab_size <= 2**16 else np.uint32
    new_starts, written = np.zeros(len(starts), dtype=np.int64), 0
    with atomic_file(out) as scratch, open(scratch, "wb") as file:
        for first in range(0, len(old), CHUNK):
            chunk = np.asarray(old[first : first + CHUNK], dtype=np.int64)
            inside = (starts >= first) & (starts < first + len(chunk))
            sums = np.concatenate([[0], np.cumsum(expansion.lengths[chunk])])
            new_starts[inside] = written + sums[starts[inside] - first]
            new = expansion.apply(chunk).astype(new_dtype)
            file.write(new.tobytes())
            written += len(new)
    new_starts[starts == len(old)] = written
    return new_starts, written


def remap_store(store_dir: str | Path, compact_dir: str | Path, out: str | Path) -> TokenStore:
    """A packed store in the tokens of ``compact_dir`` (made by `tinylm tokenizer compress`),
    without its text.

    Raises InputError when the store has ids that the compact tokenizer's parent did not have.
    """
    store, expansion = open_store(store_dir), Expansion.load(compact_dir)
    if store.vocab_size > len(expansion.lengths):
        raise InputError(
            f"store {store_dir} has a vocabulary of {store.vocab_size}, the parent of {compact_dir}"
            f" only {len(expansion.lengths)}: they do not belong together"
        )
    parent = optional_json(Path(compact_dir) / "tinylm.json").get(
        "parent_store_hash", store.tokenizer_hash
    )
    if parent != store.tokenizer_hash:
        raise InputError(
            f"store {store_dir} was packed with another tokenizer than the parent of {compact_dir}"
        )
    tokenizer = load_tokenizer(compact_dir)
    separator = expansion.apply(np.array([store.separator]))
    with atomic_directory(Path(out)) as folder:
        dtype = "uint16" if len(tokenizer) <= 2**16 else "uint32"
        starts, total = remap_file(
            store.path / TOKENS,
            folder / TOKENS,
            expansion,
            len(tokenizer),
            store.dtype,
            np.asarray(store.documents),
        )
        np.save(folder / DOCUMENTS, starts)
        write_header(
            folder,
            vocab_size=len(tokenizer),
            num_tokens=total,
            num_documents=store.num_documents,
            dtype=dtype,
            separator=int(separator[0]),
            start=None if store.start is None else int(expansion.apply(np.array([store.start]))[0]),
            tokenizer_hash=tokenizer_hash(tokenizer),
            text_bytes=store.text_bytes,
        )
    return open_store(out)


def remap_logits(
    ids: np.ndarray, logits: np.ndarray, kept: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cached top-k teacher logits in the new vocabulary: ids [..., k] old -> new, removed ones get
    logit -inf, id 0.

    A softmax over the result is the teacher restricted to the kept tokens. ``size`` is the old
    vocabulary's.
    """
    new_ids = np.full(size, -1, dtype=np.int64)
    new_ids[kept] = np.arange(len(kept))
    mapped = new_ids[ids]
    gone = mapped < 0
    return np.where(gone, 0, mapped), np.where(gone, -np.inf, logits)
