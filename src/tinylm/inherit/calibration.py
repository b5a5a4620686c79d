"""Calibration text: how it is packed into chunks, and how many tokens each score needs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tinylm.corpus.pack import find_separator, find_start
from tinylm.corpus.read import documents
from tinylm.errors import InputError

TAYLOR_TOKENS = 8192  # for unit scores: the ranking hardly moves beyond
DEPTH_TOKENS = 2048  # for layer scores: they cost a forward pass a layer


def calibration_chunks(paths: Sequence[str], tokenizer, chunks: int, length: int) -> Tensor:
    """int64 [chunks, length] of packed text, no padding. A document gives at most a 16th of it
    where that will do."""
    separator, start, needed = find_separator(tokenizer), find_start(tokenizer), chunks * length
    most, clipped = max(length, needed // 16), True
    while clipped and most < 4 * needed:
        ids: list[int] = []
        clipped = False
        for document in documents(list(paths)):
            # a token is rarely longer; spares tokenizing whole books
            text = document.text[: most * 16]
            found = tokenizer.encode(text, add_special_tokens=False)
            clipped = clipped or len(found) > most or len(text) < len(document.text)
            ids += [*found[:most], separator]
            if len(ids) >= needed:
                packed = torch.tensor(ids[:needed]).view(chunks, length)
                if start is not None:
                    packed[:, 0] = start
                return packed
        most *= 4  # a few books: take more of each
    raise InputError(
        f"calibration is too short: {len(ids)} tokens, {chunks} chunks of {length} need {needed}; "
        "give more text or fewer --chunks"
    )


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
