"""Pack documents into a token store: tokenise in parallel batches, append to one file, remember
where each begins."""

from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tinylm.artifact import atomic_directory
from tinylm.corpus.read import Document
from tinylm.corpus.store import (
    DOCUMENTS,
    TOKENS,
    TokenStore,
    open_store,
    tokenizer_hash,
    write_header,
)
from tinylm.errors import InputError
from tinylm.terminal import progress_bar

BATCH = 512  # documents handed to the tokenizer (which is parallel inside) at a time
BATCH_CHARACTERS = 8_000_000  # at most, or one document: its tokens take some hundred bytes each


def pack(
    documents: Iterable[Document | str],
    tokenizer: Any,
    out: str | Path,
    *,
    separator: str | None = None,
    replace: bool = False,
) -> TokenStore:
    """Tokenise ``documents`` with ``tokenizer`` (a fast `transformers` one) into a token store at
    ``out``.

    Every document is followed by ``separator`` (by default ``<|endoftext|>`` where the tokenizer
    has it, else its end-of-text token), and begins with BOS where the tokenizer itself puts one
    (Llama, Gemma). Memory stays constant. Raises InputError for zero documents, for a tokenizer
    without a separator, and when ``out`` exists already (unless ``replace``).
    """
    vocab_size = len(tokenizer)
    separator_id, start = find_separator(tokenizer, separator), find_start(tokenizer)
    before = [] if start is None else [start]
    dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
    starts, text_bytes = array("q", [0]), 0
    with atomic_directory(Path(out), replace=replace) as folder:
        with open(folder / TOKENS, "wb") as file, progress_bar("packing", None, "documents") as bar:
            for batch in _batches(documents, BATCH):
                for text, ids in zip(
                    batch, tokenizer(batch, add_special_tokens=False)["input_ids"], strict=True
                ):
                    file.write(np.asarray([*before, *ids, separator_id], dtype=dtype).tobytes())
                    starts.append(starts[-1] + len(before) + len(ids) + 1)
                    text_bytes += len(text.encode("utf-8", "surrogatepass"))
                bar.advance(len(batch), f"{starts[-1] / 1e6:.1f}M tokens")
        if len(starts) == 1:
            raise InputError("the corpus has no document with text in it: nothing to pack")
        np.save(folder / DOCUMENTS, np.asarray(starts, dtype=np.int64))
        write_header(
            folder,
            vocab_size=vocab_size,
            num_tokens=starts[-1],
            num_documents=len(starts) - 1,
            dtype=dtype.str,
            separator=separator_id,
            start=start,
            tokenizer_hash=tokenizer_hash(tokenizer),
            text_bytes=text_bytes,
        )
    return open_store(out)


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


def _batches(documents: Iterable[Document | str], size: int) -> Iterator[list[str]]:
    texts = (document if isinstance(document, str) else document.text for document in documents)
    texts = (text for text in texts if text.strip())
    batch: list[str] = []
    characters = 0
    for text in texts:
        if batch and (len(batch) == size or characters + len(text) > BATCH_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(text)
        characters += len(text)
    if batch:
        yield batch
