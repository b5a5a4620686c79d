"""Where a compact vocabulary costs: bits per byte of text by how frequent the teacher's token for
it is.

Two tokenizers cut the same text differently, so a comparison token by token makes no sense. Here
every byte of the text belongs to the band of the reference (teacher's) token that covers it, and
every model's bits are spread evenly over the bytes of its own tokens. The bands then hold the same
bytes for every model, and sum to its bits per byte.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinylm.corpus.read import Document
from tinylm.errors import InputError
from tinylm.evaluate.bits_per_byte import token_bits

EDGES = (1000, 4000, 16000, 48000)  # ranks by frequency; the last band is everything rarer


def frequency_ranks(counts: np.ndarray) -> np.ndarray:
    """Rank of each token by count, 0 the most frequent, int64 [V]; equal counts by id."""
    ranks = np.empty(len(counts), dtype=np.int64)
    ranks[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return ranks


def byte_bands(
    reference: PreTrainedTokenizerBase,
    counts: np.ndarray,
    texts: Sequence[str],
    edges: Sequence[int] = EDGES,
) -> list[np.ndarray]:
    """Band of every UTF-8 byte of every text, int64 [texts][bytes]: how many ``edges`` its token
    reaches."""
    if len(counts) < len(reference):
        raise InputError(
            f"the counts have {len(counts)} tokens, the reference tokenizer {len(reference)}: not"
            " the same"
        )
    ranks = frequency_ranks(counts)
    bands = []
    for text in texts:
        ids, spans = _spans(reference, text)
        band = np.zeros(len(text.encode("utf-8", "surrogatepass")), dtype=np.int64)
        for token, (start, end) in zip(ids, spans):
            band[start:end] = np.searchsorted(edges, ranks[token], side="right")
        bands.append(band)
    return bands


def bits_by_band(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Document],
    bands: Sequence[np.ndarray],
    context: int = 512,
    *,
    edges: Sequence[int] = EDGES,
    batch_tokens: int = 8192,
    dtype: torch.dtype | None = None,
) -> dict[str, dict[str, Any]]:
    """{band: {bits_per_byte, bytes, share_of_bits}} of ``documents``; ``bands`` are from
    :func:`byte_bands`."""
    encoded = [_spans(tokenizer, document.text) for document in documents]
    tokens = [np.array(ids, dtype=np.int64) for ids, _ in encoded]
    bits = token_bits(model, tokenizer, tokens, context, batch_tokens=batch_tokens, dtype=dtype)
    spent, size = np.zeros(len(edges) + 1), np.zeros(len(edges) + 1, dtype=np.int64)
    for (_, spans), row, band in zip(encoded, bits, bands):
        size += np.bincount(band, minlength=len(size))
        for (start, end), value in zip(spans, row):
            inside = np.bincount(band[start:end], minlength=len(size))
            spent += value * inside / max(end - start, 1)
    return {
        name: {
            "bits_per_byte": float(spent[n] / size[n]) if size[n] else None,
            "bytes": int(size[n]),
            "share_of_bits": float(spent[n] / spent.sum()),
        }
        for n, name in enumerate(band_names(edges))
    }


def band_names(edges: Sequence[int] = EDGES) -> list[str]:
    """ "rank 1-1000", "rank 1001-4000", ..., "rank over 48000"."""
    starts = [1, *[edge + 1 for edge in edges]]
    return [f"rank {start}-{edge}" for start, edge in zip(starts, edges)] + [
        f"rank over {edges[-1]}"
    ]


def _spans(
    tokenizer: PreTrainedTokenizerBase, text: str
) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids and their (start, end) in bytes, which cover the text. What lies between two
    offsets (a space that the tokenizer trims) belongs to the token after it; tokens that are parts
    of one character share its bytes."""
    encoding = tokenizer(
        text,
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=True,
        verbose=False,
    )
    lengths = [len(character.encode("utf-8", "surrogatepass")) for character in text]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(int)
    spans, covered = [], 0  # characters
    for start, end in encoding["offset_mapping"]:
        start = min(start, covered, len(text) - 1)
        covered = max(covered, end, start + 1)
        spans.append((int(offsets[start]), int(offsets[max(end, start + 1)])))
    if spans:
        spans[-1] = (spans[-1][0], int(offsets[-1]))
    return encoding["input_ids"], spans
