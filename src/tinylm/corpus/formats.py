"""The files of a corpus: which kinds are read, and how each becomes texts.

A file is read in chunks that do not need each other, so that many processes can read one corpus:
some megabytes of whole lines, a row group of a parquet file, a whole file of another kind.
"""

import bz2
import codecs
import gzip
import json
import lzma
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinylm.corpus import conversation
from tinylm.corpus.document import Document
from tinylm.errors import InputError

TEXT_KEYS = ("text", "content")  # where a record's text is looked for unless another key is named
TEXT, LINES, JSON, PARQUET = (".txt", ".md"), (".jsonl", ".ndjson"), (".json",), (".parquet",)
PACKED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": None}
ENDINGS = ", ".join([*TEXT, *LINES, *JSON, *PARQUET]) + f" (also with {', '.join(PACKED)})"
BLOCK = 2**20  # bytes read at a time
CHUNK = 2**22  # bytes of lines that are read together


@dataclass(frozen=True)
class Chunk:
    """A part of a file that can be read alone."""

    path: Path
    lines: bytes | None = None  # whole lines of a file of records; None: a file of another kind
    offset: int = 0  # bytes of the file before them
    number: int = 0  # lines of the file before them
    group: int = 0  # of a parquet file


def chunks(path: Path) -> Iterator[Chunk]:
    """What to read one after the other for the texts of ``path``. Raises InputError for a file
    that cannot be read."""
    kind, _ = kind_of(path)
    with _errors_told(path):
        if kind in PARQUET:
            yield from (Chunk(path, group=group) for group in range(_parquet_groups(path)))
        elif kind in LINES or (kind in JSON and not _is_list(path)):
            yield from _line_chunks(path)
        else:
            yield Chunk(path)


def read_chunk(chunk: Chunk, text_key: str) -> Iterator[Document]:
    """The documents of ``chunk``: of texts and of conversations; blank texts are left out."""
    kind, _ = kind_of(chunk.path)
    with _errors_told(chunk.path):
        if chunk.lines is not None:
            texts = _texts_of_lines(chunk, text_key)
        elif kind in PARQUET:
            texts = _texts_of_group(chunk, text_key)
        elif kind in JSON:
            texts = _texts_of_list(chunk.path, text_key)
        else:
            texts = iter([b"".join(_blocks(chunk.path)).decode("utf-8-sig")])
        yield from as_documents(texts, chunk.path.name)


def read_file(path: Path, text_key: str) -> Iterator[Document]:
    """All documents of one file, in constant memory where its kind allows it."""
    for chunk in chunks(path):
        yield from read_chunk(chunk, text_key)


@contextmanager
def _errors_told(path: Path) -> Iterator[None]:
    """What reading ``path`` can raise, as an InputError."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text at byte {error.start}: convert it first"
        ) from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def kind_of(path: Path) -> tuple[str, str]:
    """(".jsonl", ".gz") of a name in any case; the second is "" where nothing is packed, the first
    "" where the kind is not read."""
    name = path.name.lower()
    packed = next((ending for ending in PACKED if name.endswith(ending)), "")
    base = name.removesuffix(packed)
    kinds = (*TEXT, *LINES, *JSON, *(() if packed else PARQUET))
    return next((kind for kind in kinds if base.endswith(kind)), ""), packed


def as_documents(texts: Iterable[Any], source: str) -> Iterator[Document]:
    """Documents of texts and of conversations (lists of messages); blank texts are left out."""
    for text in texts:
        if isinstance(text, list):
            turns = tuple((_clean(one["role"]), _clean(one["content"])) for one in text)
            yield Document("", source, messages=turns)
        elif text.strip():
            yield Document(_clean(text), source)


def _clean(text: str) -> str:
    """``text`` with U+FFFD for lone surrogates, which JSON can hold and no UTF-8 can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _is_list(path: Path) -> bool:
    """Whether a .json file is one list; else it is lines, as many data sets call theirs."""
    first = next((block.lstrip(codecs.BOM_UTF8 + b" \t\r\n") for block in _blocks(path)), b"")
    return first.startswith(b"[")


def _line_chunks(path: Path) -> Iterator[Chunk]:
    """Some megabytes of whole lines at a time; a line ends with \n alone."""
    waiting: list[bytes] = []  # blocks behind the last line's end
    offset = number = size = 0
    for block in _blocks(path):
        waiting.append(block)
        size += len(block)
        end = block.rfind(b"\n") + 1
        if size >= CHUNK and end:
            lines, rest = b"".join([*waiting[:-1], block[:end]]), block[end:]
            yield Chunk(path, lines, offset, number)
            offset, number = offset + len(lines), number + lines.count(b"\n")
            waiting, size = [rest], len(rest)
    yield Chunk(path, b"".join(waiting), offset, number)


def _texts_of_lines(chunk: Chunk, text_key: str) -> Iterator[Any]:
    offset, lines = chunk.offset, chunk.lines or b""
    for number, raw in enumerate(lines.split(b"\n"), start=chunk.number + 1):
        start = codecs.BOM_UTF8 if not offset else b""
        try:
            line = raw.removeprefix(start).decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{chunk.path} is not UTF-8 text at byte {offset + error.start}: convert it first"
            ) from error
        offset += len(raw) + 1
        if line.strip():
            where = f"{chunk.path} line {number}"
            text = _text_of(_parsed(line, where), text_key, where)
            if text is not None:
                yield text


def _texts_of_list(path: Path, text_key: str) -> Iterator[Any]:
    """Of a .json file that is one list of records or texts."""
    records = _parsed(b"".join(_blocks(path)).decode("utf-8-sig"), str(path))
    for number, record in enumerate(records, start=1):
        text = _text_of(record, text_key, f"{path} record {number}")
        if text is not None:
            yield text


def _text_of(record: Any, text_key: str, where: str) -> Any:
    """The text of a record, or its list of messages; None where it holds null."""
    if isinstance(record, str):
        return record
    if not isinstance(record, dict):
        raise InputError(f"{where} is {type(record).__name__}, an object with a text is needed")
    key = find_key(record, text_key, where)
    text = record[key]
    if key == conversation.KEY and text is not None:
        return conversation.check_messages(text, where)
    if text is not None and not isinstance(text, str):
        raise InputError(f"{where}: {key!r} is {type(text).__name__}, text is needed")
    return text


def find_key(names: Iterable[str], text_key: str, where: str) -> str:
    """``text_key``, or what it is called otherwise, among the ``names`` of a record."""
    names = list(names)
    # of a mixture some records may be plain text
    either = text_key in (TEXT_KEYS[0], conversation.KEY)
    keys = tuple(dict.fromkeys((text_key, *TEXT_KEYS))) if either else (text_key,)
    found = [key for key in keys if key in names]
    if not found:
        wanted = " or ".join(map(repr, keys))
        raise InputError(
            f"{where} has no {wanted}; it has {', '.join(names[:12])}: name the text"
            " (corpus.text_key in a recipe) or rename it"
        )
    return found[0]


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    # also numbers of thousands of digits, nesting without end
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({getattr(error, 'msg', error)})") from error


def _blocks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, unpacked."""
    packed = kind_of(path)[1]
    if packed == ".zst":
        yield from _zst_blocks(path)
        return
    with PACKED[packed](path, "rb") if packed else open(path, "rb") as file:
        while block := file.read(BLOCK):
            yield block


def _zst_blocks(path: Path) -> Iterator[bytes]:
    """The bytes of a .zst file of one or more frames. (The library's stream reader is silent about
    a truncated frame.)"""
    import zstandard

    # written with --long=31
    decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)
    with open(path, "rb") as file:
        frame = decompressor.decompressobj()
        block, started = b"", False
        try:
            while block := block or file.read(BLOCK):
                yield frame.decompress(block)
                block = b""
                started = not frame.eof
                if frame.eof:
                    block = frame.unused_data
                    frame = decompressor.decompressobj()
        except zstandard.ZstdError as error:
            raise InputError(f"{path} is not a zstd file or is damaged ({error})") from error
    if started:
        raise InputError(f"{path} is cut short: its last zstd frame does not end; copy it again")


def _parquet_groups(path: Path) -> int:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path).num_row_groups
    except pyarrow.ArrowException as error:
        raise InputError(f"{path} is not a readable parquet file ({error})") from error


def _texts_of_group(chunk: Chunk, text_key: str) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    path = chunk.path
    try:
        file = pyarrow.parquet.ParquetFile(path)
        key = find_key(file.schema_arrow.names, text_key, str(path))
        for batch in file.iter_batches(batch_size=256, row_groups=[chunk.group], columns=[key]):
            for text in batch.column(0).to_pylist():
                if key == conversation.KEY and text is not None:
                    text = conversation.check_messages(text, str(path))
                elif text is not None and not isinstance(text, str):
                    kind = file.schema_arrow.field(key).type
                    raise InputError(
                        f"{path}: column {key!r} is {kind}, text is needed: name another column"
                    )
                if text is not None:
                    yield text
    except pyarrow.ArrowException as error:
        raise InputError(f"{path} is not a readable parquet file ({error})") from error
