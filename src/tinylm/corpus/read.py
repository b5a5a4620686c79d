"""Documents from text, JSON lines, parquet (also compressed), a hub dataset or the embedded corpus,
in constant memory.

A document is one text: a whole .txt or .md file, one line of a JSON-lines file, one element of a
JSON list, one row of a parquet file. It is read as it stands: line ends are not changed.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tinylm.corpus import conversation
from tinylm.corpus.document import Document
from tinylm.corpus.embedded import CHAT, embedded_conversations, embedded_documents
from tinylm.corpus.embedded import NAME as EMBEDDED
from tinylm.corpus.formats import (
    ENDINGS,
    JSON,
    TEXT_KEYS,
    as_documents,
    find_key,
    kind_of,
    read_file,
)
from tinylm.errors import InputError
from tinylm.terminal import console

__all__ = ["Document", "documents", "expand"]


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
        return next(read_file(path, text_key), None) is not None
    except InputError:
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


def is_local(name: str) -> bool:
    """Whether ``name`` is a file or folder, not a corpus of a package or the hub."""
    return name not in (EMBEDDED, CHAT) and not name.startswith("hub:")


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
                yield from read_file(file, text_key)


def by_path(paths: Sequence[str | Path], text_key: str = TEXT_KEYS[0]) -> Iterator[Document]:
    """:func:`documents` that remember which of ``paths`` they are from."""
    for number, path in enumerate(paths):
        for document in documents([path], text_key):
            yield replace(document, path=number)


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
            key = find_key(row, text_key, where)
            text = row[key]
            if key == conversation.KEY and text is not None:
                text = conversation.check_messages(text, where)
            if isinstance(text, (str, list)):
                yield from as_documents([text], dataset)
    # RuntimeError: a data set with code of its own, never run
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"cannot stream hub dataset {dataset!r}: {error}") from error
