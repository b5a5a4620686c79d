"""How much each layer matters: skip it and look at the loss, compare what goes in and out, or trust
its position."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tinylm.inherit.progress import Tensors, as_list, numbered
from tinylm.inherit.stack import Stack
from tinylm.inherit.units import token_losses
from tinylm.terminal import progress_bar

# the loss at every 4th token ranks layers as well and spares three quarters of the head
LOSS_STRIDE = 4
CANDIDATES = 8  # layers that greedy measures again after each removal


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
    groups = stack.groups(chunks.to(stack.model.device).split(batch_size))
    with progress_bar("similarity of layers", len(groups) * len(stack.layers), "layers") as bar:
        for group in groups:
            for step in stack.walk(group):
                for before, after in zip(step.before, step.after, strict=True):
                    cosine = torch.cosine_similarity(before.float(), after.float(), dim=-1)
                    influence[step.index] += float((1 - cosine).mean(1).sum())
                bar.advance()
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
def greedy(teacher: Any, chunks: Tensor, num_layers: int, candidates: int = CANDIDATES) -> Tensor:
    """Skip-one-layer loss, measured again after each removal, until ``num_layers`` are left.
    float32 [num_layers].

    Layers that look redundant one at a time often cover for each other; re-scoring sees that. Only
    the ``candidates`` cheapest layers of the step before are measured again. Importance: removed
    layers by the order of their removal (negative), the others by their last measured rise.
    """
    stack = Stack.of(teacher)
    total, progress = len(stack.layers), stack.progress
    order: list[int] = []  # layers removed so far
    importance, rise = torch.zeros(total), torch.full((total,), float("inf"))
    to_measure = list(range(total))
    measurements = total + max(0, total - num_layers - 1) * candidates
    if known := progress.get("greedy"):
        order, to_measure = known["order"].tolist(), known["to measure"].tolist()
        importance, rise = known["importance"], known["rise"]
    with progress_bar("greedy layer removal", measurements, "measurements") as bar:
        bar.advance((total + (len(order) - 1) * candidates) if order else 0)
        # nothing is removed now; the scores may serve a shallower shape later
        if num_layers == total:
            return _losses_without(stack, chunks, set(), to_measure, bar)[0]
        for step in range(len(order), total - num_layers):
            losses, _ = _losses_without(stack, chunks, set(order), to_measure, bar)
            for layer in to_measure:
                rise[layer] = losses[layer]
            worst = min((layer for layer in to_measure), key=lambda layer: float(rise[layer]))
            order.append(worst)
            importance[worst] = step - total
            left = [layer for layer in range(total) if layer not in order]
            to_measure = sorted(sorted(left, key=lambda layer: float(rise[layer]))[:candidates])
            found = {"order": order, "to measure": to_measure}
            numbers = {name: torch.tensor(values) for name, values in found.items()}
            progress.put("greedy", {**numbers, "importance": importance, "rise": rise})
    progress.drop("greedy")
    for layer in set(range(total)) - set(order):
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
    device, name = stack.model.device, f"without {len(removed)}"
    groups = stack.groups(chunks.to(device).split(max(1, 4096 // chunks.shape[1])))
    walk = _Round(0, 0, losses, torch.zeros(()), [], {})
    if known := stack.progress.get(name):
        walk = _Round.of(known, groups[0][0])
    for number, group in list(enumerate(groups))[walk.group :]:
        share = sum(len(batch) for batch in group) / len(chunks)
        a_layer = share * len(layers) / (len(stack.layers) - len(removed))
        for step in stack.walk(group, removed, walk.start, walk.through):
            for skipped, states in walk.around.items():
                walk.around[skipped] = [
                    step.layer(state, **call)
                    for state, call in zip(states, step.calls, strict=True)
                ]
            if step.index in layers:
                walk.around[step.index] = step.before
            walk.start, walk.through = step.index + 1, step.after
            if stack.progress.is_due(name):
                stack.progress.put(name, walk.tensors())
            bar.advance(a_layer)
        walk.base += _mean_loss(stack, group, walk.through, len(chunks))
        for skipped in layers:
            walk.losses[skipped] += _mean_loss(stack, group, walk.around.pop(skipped), len(chunks))
        walk.group, walk.start, walk.through = number + 1, 0, []
        if stack.progress.is_due(name):
            stack.progress.put(name, walk.tensors())
    stack.progress.drop(name)
    return walk.losses, float(walk.base)


@dataclass
class _Round:
    """How far :func:`_losses_without` is: ``start`` is the layer at which ``group`` goes on, with
    the stream ``through`` the layers and those ``around`` one of them."""

    group: int
    start: int
    losses: Tensor  # float32 [num_layers]
    base: Tensor  # float32 []
    through: list[Tensor]
    around: dict[int, list[Tensor]]

    def tensors(self) -> dict[str, Tensor]:
        found = {"losses": self.losses, "base": self.base}
        found |= {"group": torch.tensor(self.group), "start": torch.tensor(self.start)}
        found |= numbered(self.through, "through ")
        for layer, states in self.around.items():
            found |= numbered(states, f"around {layer} ")
        return found

    @staticmethod
    def of(known: Tensors, like: Tensor) -> "_Round":
        around = sorted({int(name.split()[1]) for name in known if name.startswith("around ")})
        return _Round(
            int(known["group"]),
            int(known["start"]),
            known["losses"],
            known["base"],
            as_list(known, "through ", like),
            {layer: as_list(known, f"around {layer} ", like) for layer in around},
        )


def _mean_loss(stack: Stack, group: list[Tensor], states: list[Tensor], chunks: int) -> float:
    """What ``group`` adds to the mean loss of ``chunks`` chunks when ``states`` leave the last
    layer."""
    loss = 0.0
    for batch, state in zip(group, states, strict=True):
        with stack.leaving(state) as model:
            loss += len(batch) / chunks * float(token_losses(model, batch, LOSS_STRIDE).mean())
    return loss
