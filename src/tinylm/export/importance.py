"""An importance matrix: how much each input of a matrix matters, so that a narrow format spends its
few bits where they count.

The weight of a column is the mean square of what comes in there, over a text of the kind that the
model is for; llama.cpp's packers minimise the error of each block weighed so. The head of a tied
embedding has none, as in llama.cpp.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tinylm.errors import InputError
from tinylm.machine import fast_dtype
from tinylm.models.teacher import load_model, load_tokenizer
from tinylm.models.tokenizer import start_ids
from tinylm.terminal import track

Importance = dict[str, np.ndarray]  # name of a weight -> float32[columns]
TOKENS = 32_768  # of text at most
WINDOW = 512  # tokens that see each other


def measure(model_dir: str | Path, texts: Iterable[str]) -> Importance:
    """The mean square of each matrix's inputs over ``texts``; InputError where they hold less than
    one window."""
    dtype = fast_dtype(torch.device("cpu"))
    model, tokenizer = load_model(model_dir, dtype), load_tokenizer(model_dir)
    windows = _windows(tokenizer, texts)
    sums: dict[str, torch.Tensor] = {}

    def listen(name: str):
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            squares = inputs[0].detach().float().square().flatten(0, -2).sum(0).double()
            sums[name] = sums.get(name, 0.0) + squares

        return hook

    tied = model.config.get_text_config().tie_word_embeddings
    for name, part in model.named_modules():
        if isinstance(part, nn.Linear) and not (tied and part is model.get_output_embeddings()):
            part.register_forward_pre_hook(listen(f"{name}.weight"))
    with torch.no_grad():
        for ids in track(windows, "importance of inputs"):
            model(input_ids=torch.tensor([ids]), use_cache=False)
    count = sum(map(len, windows))
    return {name: (total / count).float().numpy() for name, total in sums.items()}


def _windows(tokenizer, texts: Iterable[str]) -> list[list[int]]:
    """Token ids of the texts one behind the other, in windows that begin as a text does."""
    start = start_ids(tokenizer)
    ids: list[int] = []
    for text in texts:
        ids += tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) >= TOKENS:
            break
    step = WINDOW - len(start)
    windows = [start + ids[i : i + step] for i in range(0, min(len(ids), TOKENS) - step + 1, step)]
    if not windows:
        raise InputError(f"--importance holds {len(ids)} tokens: give {WINDOW} or more")
    return windows
