"""Documents from text, JSON lines, parquet (also compressed), a hub dataset or the embedded corpus,
in constant memory.

A document is one text: a whole .txt or .md file, one line of a JSON-lines file, one element of a
JSON list, one row of a parquet file. It is read as it stands: line ends are not changed.
"""

import bz2
import codecs
import gzip
import json
import lzma
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tinylm.corpus import conversation
from tinylm.corpus.document import Document
from tinylm.corpus.embedded import CHAT, embedded_conversations, embedded_documents
from tinylm.corpus.embedded import NAME as EMBEDDED
from tinylm.errors import InputError
from tinylm.terminal import console

__all__ = ["Document", "documents", "expand"]

TEXT_KEYS = ("text", "content")  # where a record's text is looked for unless another key is named
TEXT, LINES, JSON, PARQUET = (".txt", ".md"), (".jsonl", ".ndjson"), (".json",), (".parquet",)
PACKED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": None}
ENDINGS = ", ".join([*TEXT, *LINES, *JSON, *PARQUET]) + f" (also with {', '.join(PACKED)})"
BLOCK = 2**20  # bytes read at a time


def kind_of(path: Path) -> tuple[str, str]:
    """(".jsonl", ".gz") of a name in any case; the second is "" where nothing is packed, the first
    "" where the kind is not read."""
    name = path.name.lower()
    packed = next((ending for ending in PACKED if name.endswith(ending)), "")
    base = name.removesuffix(packed)
    kinds = (*TEXT, *LINES, *JSON, *(() if packed else PARQUET))
    return next((kind for kind in kinds if base.endswith(kind)), ""), packed


def expand(paths: Sequence[str | Path], text_key: str = TEXT_KEYS[0]) -> list[Path]:
    """The corpus files named by ``paths``: files as they are, folders searched (through links too),
    sorted.

    A bare .json in a folder may be settings or an index: it is read where its first record has a
    text. What is left out of a folder is told, once.
    """
    files: list[Path] = []
    for name in paths:
        path = Path(name)
        if path.is_dir():
            files += _search(path, text_key)
        elif path.is_file():
            if not kind_of(path)[0]:
                raise InputError(f"corpus file {path} has an unknown ending: use one of {ENDINGS}")
            files.append(path)
        else:
            raise InputError(f"corpus {path} does not exist: give a file or folder of {ENDINGS}")
    return files


_told: set[Path] = set()  # folders whose left-out files were named


def _search(folder: Path, text_key: str) -> list[Path]:
    everything = sorted(_walk(folder, ()))
    found = [path for path in everything if _is_corpus(path, folder, text_key)]
    if not found:
        raise InputError(f"corpus folder {folder} holds no {ENDINGS} file")
    left_out = sorted(set(everything) - set(found))
    if left_out and folder not in _told:
        _told.add(folder)
        kinds = Counter(path.suffix or path.name for path in left_out).most_common(6)
        count = f"{len(left_out)} files are" if len(left_out) > 1 else "1 file is"
        console.print(
            f"corpus {folder}: {count} not read"
            f" ({', '.join(f'{kind} {number}' for kind, number in kinds)}), first"
            f" {left_out[0].relative_to(folder)}",
            markup=False,
            highlight=False,
        )
    return found


def _is_corpus(path: Path, folder: Path, text_key: str) -> bool:
    kind, packed = kind_of(path)
    if not kind or any(part.startswith(".") for part in path.relative_to(folder).parts):
        return False
    if kind not in JSON or packed:
        return True
    try:
        return next(_json_texts(path, text_key), None) is not None
    except (InputError, UnicodeDecodeError):
        return False


def _walk(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
    """All files below ``folder``; a link to a folder that it lies in ends there."""
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise InputError(f"corpus folder {folder} cannot be read: {error.strerror}") from error
    for entry in entries:
        if entry.is_dir():
            yield from _walk(Path(entry.path), (*above, real))
        elif entry.is_file():
            yield Path(entry.path)
        elif entry.is_symlink():
            raise InputError(f"corpus file {entry.path} is a link that leads nowhere: remove it")


def documents(paths: Sequence[str | Path], text_key: str = "text") -> Iterator[Document]:
    """All non-empty documents of ``paths`` in the order given.

    Besides files and folders: ``hub:NAME[@CONFIG][:SPLIT]`` streams a hub dataset, ``embedded`` is
    the demo's corpus, ``embedded-chat`` conversations. ``text_key`` names the text in a record of a
    jsonl, parquet or hub corpus; "text" means "content" too. Raises InputError for a path that is
    missing, of an unknown kind, or damaged.
    """
    if not paths:
        raise InputError("no corpus given")
    for name in paths:
        if str(name) == EMBEDDED:
            yield from embedded_documents()
        elif str(name) == CHAT:
            if text_key != conversation.KEY:
                raise InputError(
                    f"corpus {CHAT} holds conversations: say text_key = {conversation.KEY!r}"
                    " ([corpus] of a recipe, --text-key of `corpus pack`)"
                )
            yield from embedded_conversations()
        elif str(name).startswith("hub:"):
            yield from _read_hub(str(name), text_key)
        else:
            for file in expand([name], text_key):
                yield from _read_file(file, text_key)


def by_path(
    paths: Sequence[str | Path],
    text_key: str = TEXT_KEYS[0],
    limits: Sequence[int] = (),
    needed: Sequence[float] = (),
) -> Iterator[Document]:
    """:func:`documents` that remember which of ``paths`` they are from; of each path the first
    documents of about so many bytes (0: all). InputError for a ``needed`` path without text."""
    for number, path in enumerate(paths):
        empty = True
        found = first_bytes(documents([path], text_key), limits[number] if limits else 0)
        for document in found:
            yield replace(document, path=number)
            empty = False
        if empty and needed and needed[number]:
            raise InputError(f"corpus {path} holds no text: leave it out of the mixture")


def first_bytes(documents: Iterable[Document], limit: int) -> Iterator[Document]:
    """The first documents of about ``limit`` bytes of text; 0: all."""
    if not limit:
        yield from documents
        return
    taken = 0
    for document in documents:
        yield document
        taken += len(document.text.encode("utf-8", "surrogatepass"))
        if taken >= limit:
            return


def _find_key(names: Iterable[str], text_key: str, where: str) -> str:
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


def _read_file(path: Path, text_key: str) -> Iterator[Document]:
    kind, _ = kind_of(path)
    try:
        if kind in TEXT:
            texts: Iterator[Any] = iter([b"".join(_blocks(path)).decode("utf-8-sig")])
        elif kind in PARQUET:
            texts = _parquet_texts(path, text_key)
        elif kind in JSON:
            texts = _json_texts(path, text_key)
        else:
            texts = _jsonl_texts(path, text_key)
        yield from _as_documents(texts, path.name)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text at byte {error.start}: convert it first"
        ) from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _as_documents(texts: Iterable[Any], source: str) -> Iterator[Document]:
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


def _jsonl_texts(path: Path, text_key: str) -> Iterator[Any]:
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            where = f"{path} line {number}"
            text = _text_of(_parsed(line, where), text_key, where)
            if text is not None:
                yield text


def _json_texts(path: Path, text_key: str) -> Iterator[Any]:
    """A .json file: one list of records or texts; or lines, as many data sets call theirs."""
    first = next((block.lstrip(codecs.BOM_UTF8 + b" \t\r\n") for block in _blocks(path)), b"")
    if not first.startswith(b"["):
        yield from _jsonl_texts(path, text_key)
        return
    records = _parsed(b"".join(_blocks(path)).decode("utf-8-sig"), str(path))
    for number, record in enumerate(records, start=1):
        text = _text_of(record, text_key, f"{path} record {number}")
        if text is not None:
            yield text


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    # also numbers of thousands of digits, nesting without end
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({getattr(error, 'msg', error)})") from error


def _text_of(record: Any, text_key: str, where: str) -> Any:
    """The text of a record, or its list of messages; None where it holds null."""
    if isinstance(record, str):
        return record
    if not isinstance(record, dict):
        raise InputError(f"{where} is {type(record).__name__}, an object with a text is needed")
    key = _find_key(record, text_key, where)
    text = record[key]
    if key == conversation.KEY and text is not None:
        return conversation.check_messages(text, where)
    if text is not None and not isinstance(text, str):
        raise InputError(f"{where}: {key!r} is {type(text).__name__}, text is needed")
    return text


def _lines(path: Path) -> Iterator[str]:
    """Lines without their ends, which are \\n alone."""
    rest, done, start = b"", 0, codecs.BOM_UTF8
    for block in _blocks(path):
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            yield _decoded(line.removeprefix(start) if not done else line, path, done)
            done += len(line) + 1
    yield _decoded(rest.removeprefix(start) if not done else rest, path, done)


def _decoded(line: bytes, path: Path, offset: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text at byte {offset + error.start}: convert it first"
        ) from error


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


def _parquet_texts(path: Path, text_key: str) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        key = _find_key(file.schema_arrow.names, text_key, str(path))
        for batch in file.iter_batches(batch_size=256, columns=[key]):
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


def hub_parts(name: str) -> tuple[str, str, str]:
    """("NAME", "CONFIG" or "", "SPLIT", by default train) of hub:NAME[@CONFIG][:SPLIT]."""
    _, place, *split = name.split(":")
    dataset, _, config = place.partition("@")
    return dataset, config, split[0] if split else "train"


def _read_hub(name: str, text_key: str) -> Iterator[Document]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise InputError(
            f"corpus {name} is a hub dataset: pip install 'tinylm[hub]', or give files"
        ) from error
    dataset, config, split = hub_parts(name)
    try:
        rows = load_dataset(dataset, config or None, split=split, streaming=True)
        for row in rows:
            where = f"hub dataset {dataset}{config and f'@{config}'}"
            key = _find_key(row, text_key, where)
            text = row[key]
            if key == conversation.KEY and text is not None:
                text = conversation.check_messages(text, where)
            if isinstance(text, (str, list)):
                yield from _as_documents([text], dataset)
    # RuntimeError: a data set with code of its own, never run
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"cannot stream hub dataset {dataset!r}: {error}") from error
