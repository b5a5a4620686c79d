"""How much each layer matters: skip it and look at the loss, compare what goes in and out, or trust
its position."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tinylm.inherit.units import token_losses
from tinylm.terminal import progress_bar

# the loss at every 4th token ranks layers as well and spares three quarters of the head
LOSS_STRIDE = 4


def first_last(num_layers: int) -> Tensor:
    """The heuristic of the paper: both ends matter, the middle is redundant; of two equals the
    earlier layer stays."""
    position = torch.arange(num_layers, dtype=torch.float32)
    return (position - (num_layers - 1) / 2).abs() - position * 1e-3


@torch.no_grad()
def similarity(model: Any, chunks: Tensor, batch_size: int = 8) -> Tensor:
    """Block influence: 1 - cosine of a layer's input and output, mean over tokens (arXiv
    2403.03853)."""
    influence = torch.zeros(len(model.base_model.layers))
    for batch in chunks.split(batch_size):
        states = _layer_inputs(model, batch)
        for layer, (before, after) in enumerate(pairwise(states)):
            influence[layer] += (
                (1 - torch.cosine_similarity(before.float(), after.float(), dim=-1)).mean(1).sum()
            )
    return influence / len(chunks)


@torch.no_grad()
def skip_loss(model: Any, chunks: Tensor) -> Tensor:
    """Rise of the loss in nats when one layer is skipped, for each layer. float32 [num_layers]."""
    layers = len(model.base_model.layers)
    with progress_bar("skip-one-layer loss", layers, "layers") as bar:
        losses, base = _losses_without(model, chunks, set(), list(range(layers)), bar)
    return losses - base


@torch.no_grad()
def greedy(model: Any, chunks: Tensor, num_layers: int, candidates: int = 8) -> Tensor:
    """Skip-one-layer loss, measured again after each removal, until ``num_layers`` are left.
    float32 [num_layers].

    Layers that look redundant one at a time often cover for each other; re-scoring sees that. Only
    the ``candidates`` cheapest layers of the step before are measured again. Importance: removed
    layers by the order of their removal (negative), the others by their last measured rise.
    """
    total = len(model.base_model.layers)
    removed: set[int] = set()
    importance, rise = torch.zeros(total), torch.full((total,), float("inf"))
    to_measure = list(range(total))
    measurements = total + max(0, total - num_layers - 1) * candidates
    with progress_bar("greedy layer removal", measurements, "measurements") as bar:
        # nothing is removed now; the scores may serve a shallower shape later
        if num_layers == total:
            return _losses_without(model, chunks, removed, to_measure, bar)[0]
        for step in range(total - num_layers):
            losses, _ = _losses_without(model, chunks, removed, to_measure, bar)
            for layer in to_measure:
                rise[layer] = losses[layer]
            worst = min((layer for layer in to_measure), key=lambda layer: float(rise[layer]))
            removed.add(worst)
            importance[worst] = step - total
            left = [layer for layer in range(total) if layer not in removed]
            to_measure = sorted(sorted(left, key=lambda layer: float(rise[layer]))[:candidates])
    for layer in set(range(total)) - removed:
        importance[layer] = rise[layer] if torch.isfinite(rise[layer]) else 0.0
    return importance


def _losses_without(
    model: Any, chunks: Tensor, removed: set[int], layers: list[int], bar
) -> tuple[Tensor, float]:
    """Mean loss with ``removed`` and one more of ``layers`` skipped (inf for the others), and with
    ``removed`` alone.

    Layers before the skipped one are not run again: their output is remembered from the base pass.
    """
    losses = torch.full((len(model.base_model.layers),), float("inf"))
    losses[layers] = 0.0
    base = 0.0
    for batch in chunks.split(max(1, 4096 // chunks.shape[1])):
        share = len(batch) / len(chunks)
        with _replaced(model, dict.fromkeys(removed)):
            inputs = _layer_inputs(model, batch)
            base += share * float(token_losses(model, batch, LOSS_STRIDE).mean())
        for layer in layers:
            jumps = dict.fromkeys({*removed, *range(layer)}) | {layer: inputs[layer]}
            with _replaced(model, jumps):
                losses[layer] += share * float(token_losses(model, batch, LOSS_STRIDE).mean())
            bar.advance(share)
    return losses, base


@contextmanager
def _replaced(model: Any, jumps: dict[int, Tensor | None]) -> Iterator[None]:
    """Layers in ``jumps`` compute nothing: they return the given state, or their own input for
    None."""

    def jump(state: Tensor | None):
        return lambda hidden_states, *args, **kwargs: hidden_states if state is None else state

    layers = model.base_model.layers
    try:
        for index, state in jumps.items():
            layers[index].forward = jump(state)
        yield
    finally:
        for index in jumps:
            del layers[index].forward


def _layer_inputs(model: Any, batch: Tensor) -> list[Tensor]:
    """Residual stream before each layer, and after the last one: num_layers + 1 of [B, T,
    hidden]."""
    states: list[Tensor] = []
    layers = model.base_model.layers
    handles = [
        layer.register_forward_pre_hook(lambda module, args: states.append(args[0]))
        for layer in layers
    ]
    handles.append(layers[-1].register_forward_hook(lambda module, args, out: states.append(out)))
    try:
        model.base_model(input_ids=batch, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return states
