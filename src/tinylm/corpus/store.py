"""TokenStore: a packed corpus on disk, memory-mapped. Opening one costs nothing, whatever its size.

A store is a directory of these files:

- ``tokens.bin``     every token id in corpus order, little-endian uint16 (vocabulary up to 65,536)
  or uint32
- ``documents.npy``  int64[documents + 1], where each document begins; the last entry is the number
  of tokens
- ``store.json``     sizes, checksums, and which tokenizer made it

and, where some tokens do not count in training (what a user says to the model):

- ``counted.bin``    a byte a token: 1 where it is a target, 0 where it is only read
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tinylm.artifact import file_hash, read_json, write_json
from tinylm.errors import InputError

TOKENS, DOCUMENTS, HEADER = "tokens.bin", "documents.npy", "store.json"
COUNTED = "counted.bin"


@dataclass(frozen=True)
class TokenStore:
    """Read access to a packed corpus. Made by :func:`tinylm.corpus.pack.pack`, opened by
    :func:`open_store`."""

    path: Path
    vocab_size: int
    num_tokens: int
    num_documents: int
    dtype: str
    separator: int  # id of the token that ends every document
    tokenizer_hash: str
    checksums: dict[str, str]
    text_bytes: int
    # id of the token that every text begins with, where the tokenizer has one
    start: int | None = None
    # where the text of each path of the corpus ends, in tokens; empty: of one path, or not told
    source_ends: tuple[int, ...] = ()

    @cached_property
    def tokens(self) -> np.ndarray:
        """All token ids, a read-only memory map [num_tokens]."""
        return np.memmap(self.path / TOKENS, dtype=self.dtype, mode="r")

    @cached_property
    def counted(self) -> np.ndarray | None:
        """Whether each token is a target in training, uint8 [num_tokens], memory-mapped; None: all
        are."""
        path = self.path / COUNTED
        return np.memmap(path, dtype=np.uint8, mode="r") if COUNTED in self.checksums else None

    def counted_targets(self, indices: Iterable[int], length: int) -> np.ndarray | None:
        """Whether the targets of :meth:`windows` count, bool [len(indices), length]; None: all."""
        if self.counted is None:
            return None
        starts = np.asarray(list(indices), dtype=np.int64) * length
        return self.counted[starts[:, None] + np.arange(1, length + 1)].astype(bool)

    @cached_property
    def documents(self) -> np.ndarray:
        """Where each document begins, int64[num_documents + 1], memory-mapped."""
        return np.load(self.path / DOCUMENTS, mmap_mode="r", allow_pickle=False)

    @property
    def fingerprint(self) -> str:
        """What identifies the content: equal for equal tokens, whatever the folder is called."""
        return "-".join(
            self.checksums[name] for name in (TOKENS, COUNTED) if name in self.checksums
        )

    def num_sequences(self, length: int) -> int:
        """How many windows of ``length`` inputs (and as many targets, one further) the store
        holds."""
        return max(0, (self.num_tokens - 1) // length)

    def windows(self, indices: Iterable[int], length: int) -> np.ndarray:
        """Windows number ``indices``: int64[len(indices), length + 1]; window i starts at token i *
        length.

        The first token is replaced by ``start``, if there is one: models trained with BOS fail
        without it (Gemma).
        """
        starts = np.asarray(list(indices), dtype=np.int64) * length
        windows = self.tokens[starts[:, None] + np.arange(length + 1)].astype(np.int64)
        if self.start is not None:
            windows[:, 0] = self.start
        return windows

    def positions(self, indices: Iterable[int], length: int) -> np.ndarray:
        """Position of every window token inside its document, int64[len(indices), length].

        A window that begins inside a document counts from 0 at its own first token, for nothing
        before it is visible.
        """
        starts = np.asarray(list(indices), dtype=np.int64) * length
        token = starts[:, None] + np.arange(length)
        document_start = self.documents[np.searchsorted(self.documents, token, side="right") - 1]
        return token - np.maximum(document_start, starts[:, None])

    def verify(self) -> None:
        """Read everything once and compare checksums; a difference is an InputError that names the
        file."""
        for name, expected in self.checksums.items():
            if file_hash(self.path / name) != expected:
                raise InputError(
                    f"{self.path / name} is damaged (checksum differs): pack the corpus again"
                )


def open_store(path: str | Path) -> TokenStore:
    """Open the store at ``path``; a missing, truncated or inconsistent one is an InputError."""
    path = Path(path)
    if not (path / HEADER).exists():
        raise InputError(
            f"{path} is not a token store (no {HEADER}): make one with `tinylm corpus pack`"
        )
    header = read_json(path / HEADER)
    try:
        names = TokenStore.__dataclass_fields__.keys() - {"path", "start", "source_ends"}
        store = TokenStore(
            path,
            **{name: header[name] for name in names},
            start=header.get("start"),
            source_ends=tuple(header.get("source_ends", ())),
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{path / HEADER} lacks {error}: pack the corpus again") from error
    width = np.dtype(store.dtype).itemsize
    for name, size in (
        (TOKENS, store.num_tokens * width),
        (DOCUMENTS, (store.num_documents + 1) * 8),
        *([(COUNTED, store.num_tokens)] if COUNTED in store.checksums else []),
    ):
        found = (path / name).stat().st_size if (path / name).exists() else -1
        if found < size or (name != DOCUMENTS and found != size):
            raise InputError(
                f"{path / name} is truncated ({max(found, 0)} of {size} bytes): pack the corpus"
                " again"
            )
    return store


def write_header(path: Path, **values: Any) -> None:
    """The last step of packing: checksums of the data files, then the header that makes the folder
    a store."""
    names = [name for name in (TOKENS, DOCUMENTS, COUNTED) if (path / name).exists()]
    checksums = {name: file_hash(path / name) for name in names}
    write_json(path / HEADER, {**values, "checksums": checksums})


def tokenizer_hash(tokenizer: Any) -> str:
    """16 hex digits naming what a tokenizer does to text: its vocabulary, merges, normaliser and
    pre-tokeniser.

    Padding, truncation and chat templates do not count: they change no token of plain text.
    """
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = {
        name: parts.get(name) for name in ("model", "normalizer", "pre_tokenizer", "added_tokens")
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]
