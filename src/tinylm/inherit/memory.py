"""What a backward pass through a teacher keeps, and how it is made smaller where that would not
fit."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from tinylm.machine import free_bytes
from tinylm.models.cost import layer_activation_bytes_per_token
from tinylm.models.shape import Shape

BATCH = 4  # chunks that score together


def activation_bytes(teacher: Shape, dtype: torch.dtype, tokens: int, recompute: bool) -> int:
    """What a backward pass keeps of ``tokens``: all layers whole, or with ``recompute`` their
    inputs and one whole."""
    layer = layer_activation_bytes_per_token(teacher, dtype.itemsize)
    inputs = teacher.num_layers * teacher.hidden_size * dtype.itemsize
    return tokens * (inputs + layer if recompute else teacher.num_layers * layer)


def must_recompute(teacher: Shape, dtype: torch.dtype, tokens: int, device: torch.device) -> bool:
    """Whether all layers' activations of ``tokens`` would take more than half of the memory that is
    free."""
    return activation_bytes(teacher, dtype, tokens, recompute=False) > free_bytes(device) / 2


@contextmanager
def recomputed_layers(model: Any, enabled: bool = True) -> Iterator[None]:
    """Inside, each layer keeps only its input and runs again when the backward pass comes to it.

    Gradients are the same to the bit; a pass takes half as long again when the weights are frozen.
    """
    layers = list(model.base_model.layers) if enabled else []
    for layer in layers:
        layer.forward = partial(_again, layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own is below


def _again(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
