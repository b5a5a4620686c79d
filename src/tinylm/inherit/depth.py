"""How much each layer matters: skip it and look at the loss, compare what goes in and out, or trust
its position."""

from typing import Any

import torch
from torch import Tensor

from tinylm.inherit.stack import Stack
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
def similarity(teacher: Any, chunks: Tensor, batch_size: int = 8) -> Tensor:
    """Block influence: 1 - cosine of a layer's input and output, mean over tokens (arXiv
    2403.03853)."""
    stack = Stack.of(teacher)
    influence = torch.zeros(len(stack.layers))
    for group in stack.groups(chunks.to(stack.model.device).split(batch_size)):
        for step in stack.walk(group):
            for before, after in zip(step.before, step.after, strict=True):
                cosine = torch.cosine_similarity(before.float(), after.float(), dim=-1)
                influence[step.index] += float((1 - cosine).mean(1).sum())
    return influence / len(chunks)


@torch.no_grad()
def skip_loss(teacher: Any, chunks: Tensor) -> Tensor:
    """Rise of the loss in nats when one layer is skipped, for each layer. float32 [num_layers]."""
    stack = Stack.of(teacher)
    layers = len(stack.layers)
    with progress_bar("skip-one-layer loss", layers, "layers") as bar:
        losses, base = _losses_without(stack, chunks, set(), list(range(layers)), bar)
    return losses - base


@torch.no_grad()
def greedy(teacher: Any, chunks: Tensor, num_layers: int, candidates: int = 8) -> Tensor:
    """Skip-one-layer loss, measured again after each removal, until ``num_layers`` are left.
    float32 [num_layers].

    Layers that look redundant one at a time often cover for each other; re-scoring sees that. Only
    the ``candidates`` cheapest layers of the step before are measured again. Importance: removed
    layers by the order of their removal (negative), the others by their last measured rise.
    """
    stack = Stack.of(teacher)
    total = len(stack.layers)
    removed: set[int] = set()
    importance, rise = torch.zeros(total), torch.full((total,), float("inf"))
    to_measure = list(range(total))
    measurements = total + max(0, total - num_layers - 1) * candidates
    with progress_bar("greedy layer removal", measurements, "measurements") as bar:
        # nothing is removed now; the scores may serve a shallower shape later
        if num_layers == total:
            return _losses_without(stack, chunks, removed, to_measure, bar)[0]
        for step in range(total - num_layers):
            losses, _ = _losses_without(stack, chunks, removed, to_measure, bar)
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
    stack: Stack, chunks: Tensor, removed: set[int], layers: list[int], bar: Any
) -> tuple[Tensor, float]:
    """Mean loss with ``removed`` and one more of ``layers`` skipped (inf for the others), and with
    ``removed`` alone.

    One walk: the stream that goes round a layer sets out where that layer does, so nothing before
    it is run again.
    """
    losses = torch.full((len(stack.layers),), float("inf"))
    losses[layers] = 0.0
    base = 0.0
    device = stack.model.device
    for group in stack.groups(chunks.to(device).split(max(1, 4096 // chunks.shape[1]))):
        share = sum(len(batch) for batch in group) / len(chunks)
        around: dict[int, list[Tensor]] = {}
        for step in stack.walk(group, skip=removed):
            for skipped, states in around.items():
                around[skipped] = [
                    step.layer(state, **call)
                    for state, call in zip(states, step.calls, strict=True)
                ]
            if step.index in layers:
                around[step.index] = step.before
            through = step.after
            bar.advance(share * len(layers) / (len(stack.layers) - len(removed)))
        base += _mean_loss(stack, group, through, len(chunks))
        for skipped in layers:
            losses[skipped] += _mean_loss(stack, group, around.pop(skipped), len(chunks))
    return losses, base


def _mean_loss(stack: Stack, group: list[Tensor], states: list[Tensor], chunks: int) -> float:
    """What ``group`` adds to the mean loss of ``chunks`` chunks when ``states`` leave the last
    layer."""
    loss = 0.0
    for batch, state in zip(group, states, strict=True):
        with stack.leaving(state) as model:
            loss += len(batch) / chunks * float(token_losses(model, batch, LOSS_STRIDE).mean())
    return loss
