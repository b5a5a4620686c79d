"""A token store while it is written: batch after batch, with a line for each, so that a packing
that was killed goes on behind the last whole batch."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinylm.corpus.store import COUNTED, DOCUMENTS, TOKENS

JOURNAL, ENDS = "packed.jsonl", "ends.bin"
BLOCK = 2**24  # bytes or numbers that are moved at a time


@dataclass(frozen=True)
class Batch:
    """Some megabytes of documents, each in pieces that count in training or not."""

    documents: Sequence[Sequence[tuple[str, bool]]]

    @property
    def texts(self) -> list[str]:
        return [text for pieces in self.documents for text, _ in pieces]

    def digest(self) -> str:
        """Names the content."""
        hasher = hashlib.blake2b(digest_size=12)
        for pieces in self.documents:
            for text, counts in pieces:
                data = text.encode("utf-8", "surrogatepass")
                hasher.update(b"%d %d " % (len(data), counts) + data)
            hasher.update(b"\n")
        return hasher.hexdigest()


class Journal:
    """The store in ``folder``. ``made_by`` is what decides how text becomes tokens: a journal of
    something else is begun anew."""

    def __init__(self, folder: Path, made_by: dict[str, Any], dtype: np.dtype) -> None:
        self.folder, self.dtype = folder, dtype
        self.tokens = self.documents = 0
        self._first = json.dumps(made_by)
        self._known = self._read()  # (digest, tokens, documents) up to and with each batch
        self._place, self._writes = 0, False

    def has(self, batch: Batch) -> bool:
        """Whether ``batch`` is the next one that was written before; after the first that is not,
        none is."""
        if not self._writes and self._place < len(self._known):
            digest, tokens, documents = self._known[self._place]
            if digest == batch.digest():
                self._place += 1
                self.tokens, self.documents = tokens, documents
                return True
        self._begin()
        return False

    def write(
        self, batch: Batch, ids: np.ndarray, lengths: np.ndarray, start: int | None, separator: int
    ) -> None:
        """Append ``batch``, whose pieces have become ``ids``, so many each."""
        pieces = [len(document) for document in batch.documents]
        counts = [count for document in batch.documents for _, count in document]
        flags = np.repeat(counts, lengths)
        lengths = np.add.reduceat(lengths, np.cumsum([0, *pieces])[:-1])
        tokens, ends = _with_ends(ids, lengths, start, separator)
        self._append(TOKENS, tokens.astype(self.dtype))
        self._append(ENDS, self.tokens + ends)
        self._count(flags, lengths, int(start is not None))
        self.tokens += len(tokens)
        self.documents += len(ends)
        line = json.dumps([batch.digest(), self.tokens, self.documents])
        with open(self.folder / JOURNAL, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def close(self) -> np.ndarray:
        """Leave the files of a store; where each document begins, memory-mapped."""
        self._begin()
        path = self.folder / DOCUMENTS
        size = (self.documents + 1,)
        offsets = np.lib.format.open_memmap(path, mode="w+", dtype=np.int64, shape=size)
        ends = np.memmap(self.folder / ENDS, dtype=np.int64, mode="r")
        for place in range(0, len(ends), BLOCK):
            offsets[place + 1 : place + 1 + BLOCK] = ends[place : place + BLOCK]
        offsets.flush()
        del offsets, ends
        (self.folder / ENDS).unlink()
        (self.folder / JOURNAL).unlink()
        return np.load(path, mmap_mode="r", allow_pickle=False)

    def _read(self) -> list[tuple[str, int, int]]:
        path = self.folder / JOURNAL
        first, *lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else [""]
        if first != self._first:
            return []
        known = []
        for line in lines:
            try:
                digest, tokens, documents = json.loads(line)
            except ValueError:  # the kill came while it was written
                break
            sizes = {TOKENS: tokens * self.dtype.itemsize, ENDS: documents * 8}
            if any(_size(self.folder / name) < size for name, size in sizes.items()):
                break
            known.append((digest, tokens, documents))
        return known

    def _begin(self) -> None:
        """Take away what is behind the batches that were found again."""
        if self._writes:
            return
        self._writes = True
        kept = [self._first, *(json.dumps(list(line)) for line in self._known[: self._place])]
        path = self.folder / JOURNAL
        scratch = path.with_suffix(".new")
        scratch.write_text("\n".join(kept) + "\n", encoding="utf-8")
        os.replace(scratch, path)
        sizes = {TOKENS: self.tokens * self.dtype.itemsize, ENDS: self.documents * 8}
        if (self.folder / COUNTED).exists():
            sizes[COUNTED] = self.tokens
        for name, size in sizes.items():
            with open(self.folder / name, "ab") as file:
                file.truncate(size)

    def _append(self, name: str, values: np.ndarray) -> None:
        with open(self.folder / name, "ab") as file:
            values.tofile(file)

    def _count(self, flags: np.ndarray, lengths: np.ndarray, starts: int) -> None:
        """Say which tokens count: ``flags`` of documents of ``lengths``; the token before a
        document (``starts``: 1 or 0) and its separator do. The file is made when the first does
        not."""
        path = self.folder / COUNTED
        if flags.all() and not path.exists():
            return
        every = np.ones(int(lengths.sum()) + (starts + 1) * len(lengths), dtype=np.uint8)
        first = np.cumsum(lengths + starts + 1) - lengths - 1
        place = np.arange(len(flags)) + np.repeat(first - np.cumsum(lengths) + lengths, lengths)
        every[place] = flags
        with open(path, "ab") as file:
            missing = self.tokens - _size(path)
            while missing > 0:  # never a corpus of ones at once
                part = min(missing, BLOCK)
                file.write(b"\x01" * part)
                missing -= part
            every.tofile(file)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _with_ends(
    ids: np.ndarray, lengths: np.ndarray, start: int | None, separator: int
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of all documents, each between ``start`` (where there is one) and ``separator``,
    and where each document ends."""
    before = int(start is not None)
    ends = np.cumsum(lengths + before + 1)
    tokens = np.full(int(ends[-1]), separator, dtype=np.int64)
    inside = np.ones(len(tokens), dtype=bool)
    inside[ends - 1] = False
    if start is not None:
        firsts = ends - lengths - 2
        inside[firsts], tokens[firsts] = False, start
    tokens[inside] = ids
    return tokens, ends
