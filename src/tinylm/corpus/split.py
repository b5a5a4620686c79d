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
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Prepared:
    """Some documents with what the split needs of them. Making it is most of the work, and needs
    nothing of other documents: any process can."""

    documents: list[Document]
    digests: list[int]  # of their texts: equal ones are duplicates
    sizes: list[int]  # UTF-8 bytes of their texts
    held_out: list[bool]
    frames: dict[str, bytes]  # their lines by part, {"text", "source", ...} each, zstd


def prepare(documents: Iterable[Document], valid_fraction: float, seed: int = 0) -> Prepared:
    """``documents``, some megabytes of them, for :func:`write_split`."""
    ready = Prepared([], [], [], [], {})
    lines: dict[str, list[bytes]] = {part: [] for part in PARTS}
    for document in documents:
        digest = _digest(document.text, seed)
        ready.documents.append(document)
        ready.digests.append(int.from_bytes(digest, "little", signed=True))
        ready.sizes.append(len(document.text.encode("utf-8", "surrogatepass")))
        ready.held_out.append(_is_low(digest, valid_fraction))
        values: dict = {"text": document.text, "source": document.source}
        values |= {"path": document.path} if document.path else {}
        values |= {"taught": document.taught} if document.taught else {}
        line = json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogatepass")
        lines[PARTS[ready.held_out[-1]]].append(line + b"\n")
    ready.frames.update({part: _frame(lines[part]) for part in PARTS})
    return ready


def write_split(
    prepared: Iterable[Prepared],
    folder: Path,
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
    with ExitStack() as files:
        written = {p: files.enter_context(open(folder / f"{p}.jsonl.zst", "wb")) for p in PARTS}
        is_new = files.enter_context(_digests(folder / SEEN))

        def train_part() -> Iterator[Document]:
            for ready in prepared:
                new = [is_new(digest) for digest in ready.digests]
                for number, part in enumerate(PARTS):
                    kept = [n for n, held in zip(new, ready.held_out) if held == number]
                    written[part].write(_without(ready.frames[part], kept))
                _add(facts, ready, new)
                for document, held_out, keep in zip(ready.documents, ready.held_out, new):
                    if keep and not held_out:
                        yield document

        reader(train := train_part())
        deque(train, maxlen=0)  # what the reader left
    if facts["documents"] == 0:
        raise InputError("the corpus is empty: not one document with text in it")
    for part in PARTS:
        if facts[part]["documents"] == 0:
            different = facts["documents"] - facts["duplicates"]
            raise InputError(
                f"the corpus has {different} different document(s), none of which falls into the"
                f" {part} part: give more documents (one a line in a .jsonl file) or another"
                " valid_fraction"
            )
    return facts


def _add(facts: dict, ready: Prepared, new: list[bool]) -> None:
    facts["documents"] += len(new)
    facts["duplicates"] += new.count(False)
    for document, size, held_out, keep in zip(ready.documents, ready.sizes, ready.held_out, new):
        if keep:
            facts[PARTS[held_out]]["documents"] += 1
            facts[PARTS[held_out]]["bytes"] += size
            facts["paths"] += [0] * (document.path + 1 - len(facts["paths"]))
            facts["paths"][document.path] += not held_out
            facts["sources"][document.source] = facts["sources"].get(document.source, 0) + size


def _frame(lines: list[bytes]) -> bytes:
    return zstandard.compress(b"".join(lines), level=3) if lines else b""


def _without(frame: bytes, kept: list[bool]) -> bytes:
    """``frame`` with those of its lines that are kept."""
    if all(kept):
        return frame
    lines = zstandard.decompress(frame).split(b"\n")
    return _frame([line + b"\n" for line, keep in zip(lines, kept) if keep])


@contextmanager
def _digests(path: Path) -> Iterator[Callable[[int], bool]]:
    """Whether a digest is new, asked once for each document. The digests are in a file at ``path``
    while the context lasts: a corpus may have more of them than memory holds."""
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as base:
        for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -65536"):
            base.execute(f"PRAGMA {setting}")
        base.execute("CREATE TABLE seen (digest INTEGER PRIMARY KEY)")
        base.execute("BEGIN")

        def is_new(digest: int) -> bool:
            added = base.execute("INSERT OR IGNORE INTO seen VALUES (?)", (digest,))
            return added.rowcount == 1

        try:
            yield is_new
        except sqlite3.OperationalError as error:
            raise OSError(errno.ENOSPC, str(error)) from error
        finally:
            path.unlink()


def read_part(folder: Path, part: str) -> Iterator[Document]:
    """The documents of one part, in the order they were read."""
    with (
        open(folder / f"{part}.jsonl.zst", "rb") as raw,
        zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as stream,
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
