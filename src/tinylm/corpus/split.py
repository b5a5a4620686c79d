"""Train / valid split by the hash of a document's own text.

The same text always falls on the same side, whatever file it is in or however often it is there, so
a duplicate can never stand on both sides, and adding documents moves none of the old ones. Exact
duplicates are kept once.
"""

import errno
import hashlib
import io
import json
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import zstandard

from tinylm.corpus.document import Document
from tinylm.errors import InputError

PARTS = ("train", "valid")
MANY_SOURCES = 16
SEEN = ".seen"


def is_valid(text: str, valid_fraction: float, seed: int = 0) -> bool:
    """True when the document belongs to the held-out part. White space at the ends does not
    count."""
    return _is_low(_digest(text, seed), valid_fraction)


def _is_low(digest: bytes, fraction: float) -> bool:
    return int.from_bytes(digest, "little") < fraction * 2**64


def write_split(
    documents: Iterable[Document],
    folder: Path,
    valid_fraction: float,
    seed: int = 0,
    reader: Callable[[Iterator[Document]], Any] = lambda documents: None,
) -> dict:
    """Write train.jsonl.zst and valid.jsonl.zst ({"text", "source"} a line) into ``folder``.
    ``reader`` is given the documents of the train part as they are written: what it learns of them
    costs no second reading.

    Returns:
        {"documents", "duplicates", "train": {"documents", "bytes"}, "valid": {...}, "sources":
        {source: bytes}, "paths": documents of the train part from each path of the corpus}.

    Raises:
        InputError: no document at all, or none on one of the sides.
    """
    facts: dict = {
        "documents": 0,
        "duplicates": 0,
        "sources": {},
        "paths": [0],
        **{p: {"documents": 0, "bytes": 0} for p in PARTS},
    }
    writers = {part: _writer(folder / f"{part}.jsonl.zst") for part in PARTS}

    def train_part() -> Iterator[Document]:
        for document, digest, is_new in _told_apart(documents, folder / SEEN, seed):
            facts["documents"] += 1
            if not is_new:
                facts["duplicates"] += 1
                continue
            part = "valid" if _is_low(digest, valid_fraction) else "train"
            values: dict = {"text": document.text, "source": document.source}
            values |= {"path": document.path} if document.path else {}
            values |= {"taught": document.taught} if document.taught else {}
            line = json.dumps(values, ensure_ascii=False)
            writers[part].write(line.encode("utf-8", "surrogatepass") + b"\n")
            size = len(document.text.encode("utf-8", "surrogatepass"))
            facts[part]["documents"] += 1
            facts[part]["bytes"] += size
            facts["paths"] += [0] * (document.path + 1 - len(facts["paths"]))
            facts["paths"][document.path] += part == "train"
            facts["sources"][document.source] = facts["sources"].get(document.source, 0) + size
            if part == "train":
                yield document

    try:
        reader(written := train_part())
        deque(written, maxlen=0)  # what the reader left
    finally:
        for writer in writers.values():
            writer.close()
    if facts["documents"] == 0:
        raise InputError("the corpus is empty: not one document with text in it")
    for part in PARTS:
        if facts[part]["documents"] == 0:
            different = facts["documents"] - facts["duplicates"]
            raise InputError(
                f"the corpus has {different} different document(s), none of which falls into the"
                f" {part} part at valid_fraction {valid_fraction}: give more documents (one a line"
                " in a .jsonl file)"
            )
    return facts


def _told_apart(
    documents: Iterable[Document], path: Path, seed: int
) -> Iterator[tuple[Document, bytes, bool]]:
    """Each document, the digest of its text, and whether that is new. The digests are in a file at
    ``path`` while it lasts: a corpus may have more of them than memory holds."""
    try:
        with _digests(path) as seen:
            for document in documents:
                digest = _digest(document.text, seed)
                number = int.from_bytes(digest, "little", signed=True)
                added = seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", (number,))
                yield document, digest, added.rowcount == 1
    except sqlite3.OperationalError as error:
        raise OSError(errno.ENOSPC, str(error)) from error


@contextmanager
def _digests(path: Path) -> Iterator[sqlite3.Connection]:
    """An empty table of whole numbers in a file that goes when the context ends."""
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as base:
        for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -65536"):
            base.execute(f"PRAGMA {setting}")
        base.execute("CREATE TABLE seen (digest INTEGER PRIMARY KEY)")
        base.execute("BEGIN")
        try:
            yield base
        finally:
            path.unlink()


def read_part(folder: Path, part: str) -> Iterator[Document]:
    """The documents of one part, in the order they were read."""
    with (
        open(folder / f"{part}.jsonl.zst", "rb") as raw,
        zstandard.ZstdDecompressor().stream_reader(raw) as stream,
    ):
        for line in io.TextIOWrapper(stream, encoding="utf-8", errors="surrogatepass"):
            values = json.loads(line)
            taught = tuple((start, end) for start, end in values.get("taught", ()))
            yield Document(values["text"], values["source"], values.get("path", 0), taught=taught)


def spread(documents: Iterable[Document], total_bytes: int) -> list[Document]:
    """At most about ``total_bytes`` of documents, an equal share for each source, in order: a cheap
    held-out set.

    A source's first document is taken whole. Of many sources (a folder of books) the first by the
    hash of their names are taken until the bytes are there.
    """
    by_source: dict[str, list[Document]] = {}
    held: dict[str, int] = {}
    for document in documents:
        # never more of one source than could be taken, so never all of a large part in memory
        if held.get(document.source, 0) < total_bytes:
            by_source.setdefault(document.source, []).append(document)
            held[document.source] = held.get(document.source, 0) + len(document.text)
    chosen, taken = [], 0
    many = len(by_source) > MANY_SOURCES
    for source in sorted(by_source, key=lambda name: _digest(name, 0)) if many else by_source:
        if many and taken >= total_bytes:
            break
        left = total_bytes / len(by_source)
        for document in by_source[source]:
            if left <= 0:
                break
            chosen.append(document)
            size = len(document.text.encode("utf-8", "surrogatepass"))
            left, taken = left - size, taken + size
    return chosen


def _digest(text: str, seed: int) -> bytes:
    data = text.strip().encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=8, salt=f"tinylm{seed}".encode()[:16]).digest()


def _writer(path: Path):
    return zstandard.ZstdCompressor(level=3).stream_writer(open(path, "wb"), closefd=True)
