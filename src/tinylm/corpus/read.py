"""Documents from txt, jsonl (plain, .gz, .zst), parquet, a hub dataset or the embedded corpus, in
constant memory.

A document is one text: a whole .txt file, one line of a jsonl file, one row of a parquet file.
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tinylm.corpus.document import Document
from tinylm.corpus.embedded import NAME as EMBEDDED
from tinylm.corpus.embedded import embedded_documents
from tinylm.errors import InputError

__all__ = ["Document", "documents", "expand"]

TEXT_KEYS = ("text", "content")  # where a record's text is looked for unless another key is named
SUFFIXES = (".txt", ".md", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")


def expand(paths: Sequence[str | Path]) -> list[Path]:
    """The corpus files named by ``paths``: files as they are, folders searched for known suffixes,
    sorted."""
    files: list[Path] = []
    for name in paths:
        path = Path(name)
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES))
            if not found:
                raise InputError(f"corpus folder {path} holds no {', '.join(SUFFIXES)} file")
            files += found
        elif path.is_file():
            if not path.name.endswith(SUFFIXES):
                raise InputError(
                    f"corpus file {path} has an unknown ending: use one of {', '.join(SUFFIXES)}"
                )
            files.append(path)
        else:
            raise InputError(
                f"corpus {path} does not exist: give a file or folder of {', '.join(SUFFIXES)}"
            )
    return files


def documents(paths: Sequence[str | Path], text_key: str = "text") -> Iterator[Document]:
    """All non-empty documents of ``paths`` in the order given.

    Besides files and folders: ``hub:NAME[@CONFIG][:SPLIT]`` streams a hub dataset, ``embedded`` is
    the demo's corpus. ``text_key`` names the text in a record of a jsonl, parquet or hub corpus;
    "text" means "content" too. Raises InputError for a path that is missing, of an unknown kind, or
    damaged.
    """
    if not paths:
        raise InputError("no corpus given")
    for name in paths:
        if str(name) == EMBEDDED:
            yield from embedded_documents()
        elif str(name).startswith("hub:"):
            yield from _read_hub(str(name), text_key)
        else:
            for file in expand([name]):
                yield from _read_file(file, text_key)


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
    names, keys = list(names), TEXT_KEYS if text_key == TEXT_KEYS[0] else (text_key,)
    found = [key for key in keys if key in names]
    if not found:
        wanted = " or ".join(map(repr, keys))
        raise InputError(
            f"{where} has no {wanted}; it has {', '.join(names[:12])}: name the text"
            " (corpus.text_key in a recipe) or rename it"
        )
    return found[0]


def _read_file(path: Path, text_key: str) -> Iterator[Document]:
    try:
        if path.name.endswith((".txt", ".md")):
            texts: Iterator[str] = iter([path.read_text(encoding="utf-8-sig")])
        elif path.name.endswith(".parquet"):
            texts = _parquet_texts(path, text_key)
        else:
            texts = _jsonl_texts(path, text_key)
        for text in texts:
            if text.strip():
                yield Document(_clean(text), path.name)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text at byte {error.start}: convert it first"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _clean(text: str) -> str:
    """``text`` with U+FFFD for lone surrogates, which JSON can hold and no UTF-8 can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _jsonl_texts(path: Path, text_key: str) -> Iterator[str]:
    for number, line in enumerate(_open_lines(path), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        # also numbers of thousands of digits, nesting without end
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{path} line {number} is not JSON ({getattr(error, 'msg', error)})"
            ) from error
        if not isinstance(record, dict):
            raise InputError(
                f"{path} line {number} is {type(record).__name__}, an object with a text is needed"
            )
        key = _find_key(record, text_key, f"{path} line {number}")
        text = record[key]
        if text is None:
            continue
        if not isinstance(text, str):
            raise InputError(
                f"{path} line {number}: {key!r} is {type(text).__name__}, text is needed"
            )
        yield text


def _open_lines(path: Path) -> Iterator[str]:
    if path.name.endswith(".gz"):
        with gzip.open(path, "rt", encoding="utf-8-sig") as file:
            yield from file
    elif path.name.endswith(".zst"):
        yield from _zst_lines(path)
    else:
        with open(path, encoding="utf-8-sig") as file:
            yield from file


def _zst_lines(path: Path) -> Iterator[str]:
    """Lines of a .zst file of one or more frames. (The library's stream reader is silent about a
    truncated frame.)"""
    import zstandard

    # written with --long=31
    rest, decompressor = b"", zstandard.ZstdDecompressor(max_window_size=2**31)
    with open(path, "rb") as file:
        frame = decompressor.decompressobj()
        block, started = b"", False
        try:
            while block := block or file.read(2**20):
                *whole, rest = (rest + frame.decompress(block)).split(b"\n")
                yield from (line.decode("utf-8") for line in whole)
                block = b""
                started = not frame.eof
                if frame.eof:
                    block = frame.unused_data
                    frame = decompressor.decompressobj()
        except zstandard.ZstdError as error:
            raise InputError(f"{path} is not a zstd file or is damaged ({error})") from error
    if started:
        raise InputError(f"{path} is cut short: its last zstd frame does not end; copy it again")
    yield rest.decode("utf-8")


def _parquet_texts(path: Path, text_key: str) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        key = _find_key(file.schema_arrow.names, text_key, str(path))
        for batch in file.iter_batches(batch_size=256, columns=[key]):
            for text in batch.column(0).to_pylist():
                if text is not None and not isinstance(text, str):
                    kind = file.schema_arrow.field(key).type
                    raise InputError(
                        f"{path}: column {key!r} is {kind}, text is needed: name another column"
                    )
                if text is not None:
                    yield text
    except pyarrow.ArrowException as error:
        raise InputError(f"{path} is not a readable parquet file ({error})") from error


def _read_hub(name: str, text_key: str) -> Iterator[Document]:
    from datasets import load_dataset

    _, place, *split = name.split(":")
    dataset, _, config = place.partition("@")
    try:
        rows = load_dataset(
            dataset, config or None, split=split[0] if split else "train", streaming=True
        )
        for row in rows:
            text = row[_find_key(row, text_key, f"hub dataset {place}")]
            if isinstance(text, str) and text.strip():
                yield Document(_clean(text), dataset)
    # RuntimeError: a data set with code of its own, never run
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"cannot stream hub dataset {dataset!r}: {error}") from error
