"""Tokens per byte before and after, measured exactly on text that was not counted, per source."""

from collections.abc import Iterable
from typing import Any

from tinylm.corpus.document import Document
from tinylm.tokenizer.engines import Engine
from tinylm.tokenizer.source import Source

BATCH_BYTES = 8_000_000


def growth_by_source(
    parent: Source, child: Source, texts: Iterable[Document]
) -> dict[str, dict[str, Any]]:
    """{source: bytes, tokens_before, tokens_after, growth, tokens_per_byte_before,
    tokens_per_byte_after} and "all"."""
    engines = (Engine(parent), Engine(child))
    totals: dict[str, list[int]] = {}
    waiting: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for document in texts:
        text = document.text.encode("utf-8", "replace").decode()
        waiting.setdefault(document.source, []).append(text)
        sizes[document.source] = sizes.get(document.source, 0) + len(text)
        if sizes[document.source] > BATCH_BYTES:
            _add(totals, engines, document.source, waiting.pop(document.source))
            sizes[document.source] = 0
    for source, batch in waiting.items():
        _add(totals, engines, source, batch)
    totals["all"] = [sum(column) for column in zip(*totals.values())] or [0, 0, 0]
    return {source: _row(*total) for source, total in totals.items()}


def _add(
    totals: dict[str, list[int]], engines: tuple[Engine, Engine], source: str, batch: list[str]
) -> None:
    found = [
        sum(len(text.encode()) for text in batch),
        *(int(engine.count(batch).sum()) for engine in engines),
    ]
    totals[source] = [a + b for a, b in zip(totals.get(source, [0, 0, 0]), found)]


def _row(size: int, before: int, after: int) -> dict[str, Any]:
    return {
        "bytes": size,
        "tokens_before": before,
        "tokens_after": after,
        "growth": after / max(1, before),
        "tokens_per_byte_before": before / max(1, size),
        "tokens_per_byte_after": after / max(1, size),
    }
