"""Pack documents into a token store: tokenise in batches, append to one file, remember where each
begins."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tinylm.artifact import atomic_directory
from tinylm.corpus.document import Document
from tinylm.corpus.store import (
    COUNTED,
    DOCUMENTS,
    TOKENS,
    TokenStore,
    open_store,
    tokenizer_hash,
    write_header,
)
from tinylm.errors import InputError
from tinylm.terminal import progress_bar

# handed to the tokenizer (which is parallel inside) at a time; a document is never split
BATCH_CHARACTERS = 16_000_000

# texts -> the ids of all of them, one text after the other, and how many each has
Encode = Callable[[list[str]], tuple[np.ndarray, np.ndarray]]


def pack(
    documents: Iterable[Document | str],
    tokenizer: Any,
    out: str | Path,
    *,
    encode: Encode | None = None,
    separator: str | None = None,
    replace: bool = False,
) -> TokenStore:
    """Tokenise ``documents`` with ``tokenizer`` (a fast `transformers` one) into a token store at
    ``out``.

    Every document is followed by ``separator`` (by default ``<|endoftext|>`` where the tokenizer
    has it, else its end-of-text token), and begins with BOS where the tokenizer itself puts one
    (Llama, Gemma). ``encode`` tokenises in the tokenizer's place, faster:
    :func:`tinylm.tokenizer.engines.engine_of`. Memory stays constant.

    Raises:
        InputError: zero documents, a tokenizer without a separator, and an ``out`` that exists
            already (unless ``replace``).
    """
    vocab_size = len(tokenizer)
    separator_id, start = find_separator(tokenizer, separator), find_start(tokenizer)
    encode = encode or _by_tokenizer(tokenizer)
    dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
    starts, text_bytes = [np.zeros(1, dtype=np.int64)], 0
    by_path: list[int] = []  # documents of each path
    with atomic_directory(Path(out), replace=replace) as folder:
        counted = _Counted(folder / COUNTED)
        with open(folder / TOKENS, "wb") as file, progress_bar("packing", None, "documents") as bar:
            for batch in _batches(documents, by_path):
                texts = [text for row in batch for text, _ in row]
                ids, lengths = encode(texts)
                flags = np.repeat([counts for row in batch for _, counts in row], lengths)
                lengths = np.add.reduceat(lengths, np.cumsum([0, *map(len, batch)])[:-1])
                tokens, ends = _with_ends(ids, lengths, start, separator_id)
                tokens.astype(dtype).tofile(file)
                counted.write(flags, lengths, int(start is not None))
                starts.append(starts[-1][-1] + ends)
                text_bytes += sum(map(_utf8_length, texts))
                bar.advance(len(batch), f"{starts[-1][-1] / 1e6:.1f}M tokens")
        offsets = np.concatenate(starts)
        if len(offsets) == 1:
            raise InputError("the corpus has no document with text in it: nothing to pack")
        np.save(folder / DOCUMENTS, offsets)
        ends = offsets[np.cumsum(by_path)].tolist()
        write_header(
            folder,
            **({"source_ends": ends} if len(ends) > 1 else {}),
            vocab_size=vocab_size,
            num_tokens=int(offsets[-1]),
            num_documents=len(offsets) - 1,
            dtype=dtype.str,
            separator=separator_id,
            start=start,
            tokenizer_hash=tokenizer_hash(tokenizer),
            text_bytes=text_bytes,
        )
    return open_store(out)


def _by_tokenizer(tokenizer: Any) -> Encode:
    def encode(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        rows = []
        for first in range(0, len(texts), 256):  # lists of Python's integers: few at a time
            found = tokenizer(texts[first : first + 256], add_special_tokens=False)["input_ids"]
            rows += [np.asarray(ids, dtype=np.int64) for ids in found]
        return np.concatenate(rows), np.array([len(row) for row in rows], dtype=np.int64)

    return encode


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


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def find_separator(tokenizer: Any, separator: str | None = None) -> int:
    """The id that ends a document.

    ``<|endoftext|>`` comes first because chat models name their end-of-turn token as ``eos_token``.
    """
    vocabulary = tokenizer.get_vocab()
    if separator is not None and separator not in vocabulary:
        raise InputError(
            f"separator {separator!r} is not a token of this tokenizer: give one of its special"
            " tokens"
        )
    for token in (separator, "<|endoftext|>", tokenizer.eos_token, tokenizer.bos_token):
        if token is not None and token in vocabulary:
            return vocabulary[token]
    raise InputError("the tokenizer has no end-of-text token: name one of its tokens as separator")


def find_start(tokenizer: Any) -> int | None:
    """The BOS id that the tokenizer puts before every text, if it does."""
    first = tokenizer("a")["input_ids"][:1]
    return first[0] if first == [tokenizer.bos_token_id] else None


class _Counted:
    """The file that says which tokens count in training: made when the first one does not."""

    def __init__(self, path: Path) -> None:
        self.path, self.before = path, 0  # tokens so far, all of which count

    def write(self, flags: np.ndarray, lengths: np.ndarray, starts: int) -> None:
        """Of documents whose tokens are bool ``flags``, ``lengths`` each; the token before a
        document (``starts``: 1 or 0) and its separator count."""
        total = int(lengths.sum()) + (starts + 1) * len(lengths)
        if flags.all() and not self.path.exists():
            self.before += total
            return
        every = np.ones(total, dtype=np.uint8)
        first = np.cumsum(lengths + starts + 1) - lengths - 1
        place = np.arange(len(flags)) + np.repeat(first - np.cumsum(lengths) + lengths, lengths)
        every[place] = flags
        with open(self.path, "ab") as file:
            while self.before:  # never a corpus of ones at once
                part = min(self.before, 2**24)
                file.write(b"\x01" * part)
                self.before -= part
            every.tofile(file)


def _batches(
    documents: Iterable[Document | str], by_path: list[int]
) -> Iterator[list[list[tuple[str, bool]]]]:
    """The pieces of documents that are not blank; ``by_path`` gets how many documents each path of
    the corpus has, whose documents come one path after the other."""
    batch: list[list[tuple[str, bool]]] = []
    characters = 0
    for document in documents:
        text, path = (document, 0) if isinstance(document, str) else (document.text, document.path)
        if not text.strip():
            continue
        by_path += [0] * (path + 1 - len(by_path))
        by_path[path] += 1
        if batch and characters + len(text) > BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
        batch.append([(document, True)] if isinstance(document, str) else document.pieces())
        characters += len(text)
    if batch:
        yield batch
