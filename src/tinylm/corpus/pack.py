"""Pack documents into a token store: tokenise in batches, append to one file, remember where each
begins."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tinylm.artifact import resumable_directory
from tinylm.corpus.document import Document
from tinylm.corpus.journal import Batch, Journal
from tinylm.corpus.store import TokenStore, open_store, tokenizer_hash, write_header
from tinylm.errors import InputError
from tinylm.terminal import progress_bar

# handed to the tokenizer (which is parallel inside) at a time; a document is never split
BATCH_CHARACTERS = 16_000_000

Encoded = tuple[np.ndarray, np.ndarray]  # ids of texts one after the other, how many each has
# batches of texts -> what each becomes, in their order
Encode = Callable[[Iterator[list[str]]], Iterator[Encoded]]


def pack(
    documents: Iterable[Document | str],
    tokenizer: Any,
    out: str | Path,
    *,
    encode: Encode | None = None,
    separator: str | None = None,
    sources: int = 1,
    replace: bool = False,
) -> TokenStore:
    """Tokenise ``documents`` with ``tokenizer`` (a fast `transformers` one) into a token store at
    ``out``.

    Every document is followed by ``separator`` (by default ``<|endoftext|>`` where the tokenizer
    has it, else its end-of-text token), and begins with BOS where the tokenizer itself puts one
    (Llama, Gemma). ``sources``: how many paths the documents are from, where a mixture tells them
    apart. ``encode`` tokenises in the tokenizer's place, faster or on other machines:
    :func:`tinylm.tokenizer.encoders.encoder_of`. Memory stays constant. A packing that was killed
    goes on: the text is read again, what the store has already is not tokenised again.

    Raises:
        InputError: zero documents, a tokenizer without a separator, and an ``out`` that exists
            already (unless ``replace``).
    """
    vocab_size = len(tokenizer)
    start, end = find_start(tokenizer), find_separator(tokenizer, separator)
    dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
    made_by = {"tokenizer": tokenizer_hash(tokenizer), "start": start, "separator": end}
    read = _Read(sources)
    with resumable_directory(Path(out), replace=replace) as folder:
        journal = Journal(folder, made_by, dtype)
        waiting: deque[Batch] = deque()  # read, and not tokenised yet

        def texts() -> Iterator[list[str]]:
            for batch in read.batches(documents):
                if not journal.has(batch):
                    waiting.append(batch)
                    yield batch.texts

        with progress_bar("packing", None, "documents") as bar:
            for ids, lengths in (encode or _by_tokenizer(tokenizer))(texts()):
                batch = waiting.popleft()
                journal.write(batch, ids, lengths, start, end)
                bar.advance(len(batch.documents), f"{journal.tokens / 1e6:.1f}M tokens")
        if not journal.documents:
            raise InputError("the corpus has no document with text in it: nothing to pack")
        offsets = journal.close()
        ends = offsets[np.cumsum(read.by_path)].tolist()
        write_header(
            folder,
            **({"source_ends": ends} if len(ends) > 1 else {}),
            vocab_size=vocab_size,
            num_tokens=int(offsets[-1]),
            num_documents=len(offsets) - 1,
            dtype=dtype.str,
            separator=end,
            start=start,
            tokenizer_hash=made_by["tokenizer"],
            text_bytes=read.bytes,
        )
    return open_store(out)


def _by_tokenizer(tokenizer: Any) -> Encode:
    def encode(texts: list[str]) -> Encoded:
        rows = []
        for first in range(0, len(texts), 256):  # lists of Python's integers: few at a time
            found = tokenizer(texts[first : first + 256], add_special_tokens=False)["input_ids"]
            rows += [np.asarray(ids, dtype=np.int64) for ids in found]
        return np.concatenate(rows), np.array([len(row) for row in rows], dtype=np.int64)

    return lambda batches: map(encode, batches)


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


class _Read:
    """What was read of a corpus: bytes, and how many documents each of its paths has, which come
    one path after the other."""

    def __init__(self, sources: int) -> None:
        self.bytes = 0
        self.by_path = [0] * sources

    def batches(self, documents: Iterable[Document | str]) -> Iterator[Batch]:
        """The documents that are not blank, in pieces."""
        batch: list[list[tuple[str, bool]]] = []
        characters = 0
        for item in documents:
            document = Document(item, "") if isinstance(item, str) else item
            if not document.text.strip():
                continue
            self.by_path += [0] * (document.path + 1 - len(self.by_path))
            self.by_path[document.path] += 1
            self.bytes += _utf8_length(document.text)
            if batch and characters + len(document.text) > BATCH_CHARACTERS:
                yield Batch(batch)
                batch, characters = [], 0
            batch.append(document.pieces())
            characters += len(document.text)
        if batch:
            yield Batch(batch)
