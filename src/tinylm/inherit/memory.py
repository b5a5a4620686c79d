"""What scoring a teacher needs in memory: told before it starts, and made smaller where it would
not fit."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from tinylm.machine import free_bytes
from tinylm.models.cost import layer_activation_bytes_per_token
from tinylm.models.parameters import parameters
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


def memory_line(
    teacher: Shape,
    target: Shape,
    dtype: torch.dtype,
    length: int,
    device: torch.device,
    refit_tokens: int = 0,
) -> str:
    """One line for the terminal: bytes of each part at the peak, which is in scoring by Taylor or
    learned masks, or in a refit on ``refit_tokens`` that keeps the teacher's states before every
    layer that stays."""
    tokens = BATCH * length
    recompute = must_recompute(teacher, dtype, tokens, device)
    models = {
        "teacher": parameters(teacher) * dtype.itemsize,
        "student": parameters(target) * dtype.itemsize,
    }
    scoring = {
        "activations": activation_bytes(teacher, dtype, tokens, recompute),
        # them, two gradients, float32 log-softmax
        "logits": tokens * teacher.vocab_size * (3 * dtype.itemsize + 4),
    }
    refit = {
        "states for the refit": (
            refit_tokens * (target.num_layers + 3) * teacher.hidden_size * dtype.itemsize
        )
    }
    # x^T x in float32 and float64 with its factor, and as much of the errors: of the widest matrix
    if refit_tokens:
        widest = max(target.intermediate_size, target.num_attention_heads * target.head_dim)
        refit["its equations"] = 24 * widest**2 + 20 * widest * target.hidden_size
    parts = models | max(scoring, refit, key=lambda part: sum(part.values()))
    listed = " + ".join(f"{name} {size / 1e9:.1f}" for name, size in parts.items())
    again = "; layers run twice to keep it so" if recompute else ""
    return (
        f"memory: about {sum(parts.values()) / 1e9:.1f} GB ({listed}),"
        f" {free_bytes(device) / 1e9:.1f} GB free{again}"
    )
