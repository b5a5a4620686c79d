"""Documents in shards of some megabytes: the unit that is counted, named by its content and
resumed."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from tinylm.corpus.document import Document

SHARD_BYTES = 64_000_000


@dataclass(frozen=True)
class Shard:
    """Some megabytes of text."""

    texts: list[str]
    bytes: int
    documents: int

    def digest(self) -> str:
        """Names the content. A sixth of the counting time, so only asked for where counts are
        kept."""
        hasher = hashlib.blake2b(digest_size=12)
        for text in self.texts:
            data = text.encode()
            hasher.update(len(data).to_bytes(8, "little") + data)
        return hasher.hexdigest()


def even_places(sizes: np.ndarray, parts: int) -> np.ndarray:
    """Which of ``parts`` stretches of about one length each of the consecutive ``sizes`` is in."""
    return ((np.cumsum(sizes) - sizes / 2) * parts / max(1, sizes.sum())).astype(int)


def shards(items: Iterable[Document], shard_bytes: int) -> Iterator[Shard]:
    texts: list[str] = []
    size = 0
    for item in items:
        text, length = _as_utf8(item.text)
        texts.append(text)
        size += length
        if size >= shard_bytes:
            yield Shard(texts, size, len(texts))
            texts, size = [], 0
    if texts:
        yield Shard(texts, size, len(texts))


def _as_utf8(text: str) -> tuple[str, int]:
    """The text and its length in bytes. A lone surrogate is no text: it becomes "?"."""
    if text.isascii():
        return text, len(text)
    try:
        return text, len(text.encode())
    except UnicodeEncodeError:
        data = text.encode("utf-8", "replace")
        return data.decode(), len(data)
