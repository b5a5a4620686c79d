"""Calibration text: how it is packed into chunks, and how many tokens each score needs.

Scores read the first chunks and repairs are judged on the last ones, so the order matters: every
part of it is spread over the whole text (:func:`spread_order`), whatever source lies where.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinylm.corpus.pack import find_separator, find_start
from tinylm.corpus.read import documents, first_bytes
from tinylm.errors import InputError

DEPTH_TOKENS = 8192  # for layer scores: they cost a forward pass a layer
CHOSEN_FROM = 32  # times the text that is needed is read, and what is used is spread over it
BYTES_A_TOKEN = 4


def spread_order(count: int, seed: int = 0) -> np.ndarray:
    """The numbers 0 to ``count`` - 1, int64[count], so that every run of them is spread over the
    whole range: steps of the golden ratio from a place that ``seed`` draws."""
    start = np.random.default_rng(seed).random()
    steps = (start + np.arange(count) * (5**0.5 - 1) / 2) % 1
    return np.argsort(np.argsort(steps, kind="stable"), kind="stable")


def calibration_chunks(paths: Sequence[str], tokenizer, chunks: int, length: int) -> Tensor:
    """int64 [chunks, length] of packed text, no padding, from all of ``paths`` alike. A document
    gives at most a 16th of it where that will do."""
    separator, start, needed = find_separator(tokenizer), find_start(tokenizer), chunks * length
    texts = list(_spread_texts(paths, CHOSEN_FROM * BYTES_A_TOKEN * needed))
    most, clipped = max(length, needed // 16), True
    while clipped and most < 4 * needed:
        ids: list[int] = []
        clipped = False
        for whole in texts:
            # a token is rarely longer; spares tokenizing whole books
            text = whole[: most * 16]
            found = tokenizer.encode(text, add_special_tokens=False)
            clipped = clipped or len(found) > most or len(text) < len(whole)
            ids += [*found[:most], separator]
            if len(ids) >= needed:
                packed = torch.tensor(ids[:needed]).view(chunks, length)
                if start is not None:
                    packed[:, 0] = start
                return packed[torch.from_numpy(spread_order(chunks))]
        most *= 4  # a few books: take more of each
    raise InputError(
        f"calibration is too short: {len(ids)} tokens, {chunks} chunks of {length} need {needed}; "
        "give more text or fewer --chunks"
    )


def _spread_texts(paths: Sequence[str], most_bytes: int) -> Iterator[str]:
    """The texts in the first ``most_bytes`` of ``paths``, each path's spread over its own, the
    paths taking turns."""
    columns = []
    for path in paths:
        read = first_bytes(documents([path]), max(1, most_bytes // len(paths)))
        texts = [document.text for document in read]
        columns.append([texts[place] for place in spread_order(len(texts))])
    return (text for text in chain.from_iterable(zip_longest(*columns)) if text is not None)


def usable_chunks(ids: Tensor | None, what: str) -> Tensor:
    """All of ``ids`` int64 [N, T] in whole groups of four chunks. InputError, naming ``what`` needs
    them, where there are none or too few."""
    if ids is None:
        raise InputError(f"{what} needs calibration text: give --calibration FILE...")
    if ids.dim() != 2 or len(ids) < 4 or ids.shape[1] < 8:
        raise InputError(
            f"calibration is too short for {what}: {tuple(ids.shape)} tokens, 4 chunks of 8 are the"
            " least"
        )
    return ids[: len(ids) // 4 * 4]


def first_chunks(ids: Tensor | None, what: str, tokens: int) -> Tensor:
    """The first ``tokens`` of the calibration, four chunks at least."""
    chunks = usable_chunks(ids, what)
    return chunks[: max(4, tokens // chunks.shape[1])]


@torch.no_grad()
def chunks_with_numbers(stack: Any, ids: Tensor) -> Tensor:
    """The numbers of the chunks of ``ids`` int64 [N, T] that leave the last layer of ``stack``
    without NaN or infinity, int64 [at most N]."""
    finite = []
    for group in stack.groups(ids.to(stack.model.device).split(4)):
        for step in stack.walk(group):
            after = step.after
        finite += [torch.isfinite(state).flatten(1).all(1).cpu() for state in after]
    return torch.cat(finite).nonzero()[:, 0]
