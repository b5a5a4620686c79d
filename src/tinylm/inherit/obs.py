"""FFN units by what the others cannot make up for: the optimal brain surgeon, a unit at a time.

The output matrix of an FFN is to be solved again after the cut (:mod:`tinylm.inherit.refit`), so a
unit is worth what is still missing then, not what it says itself. Backward elimination: with the
Gram matrix A of a layer's units on the text and the output matrix W, leaving out unit j and solving
the others again costs w_j^T G w_j / (A^-1)_jj; the cheapest goes, W and A^-1 are updated, and so on
(Hassibi and Stork 1993; in blocks as in ZipLM, arXiv 2302.04089). G, the mean of g g^T over the
gradients g of the loss where the FFN puts out, says which errors matter (K-FAC's other factor).
"""

from typing import Any

import torch
from torch import Tensor

from tinylm.inherit.calibration import first_chunks
from tinylm.inherit.criteria import TAYLOR_TOKENS
from tinylm.inherit.memory import BATCH
from tinylm.inherit.progress import as_list, numbered
from tinylm.inherit.stack import Stack
from tinylm.inherit.units import UnitScores, hooks_on, on_input, taylor
from tinylm.models import families
from tinylm.models.shape import Shape
from tinylm.terminal import progress_bar

NAME = "obs"  # of what is kept of it
# of the mean power, on the Gram matrix: so few tokens say little about the weakest directions
RIDGE = 0.01
BLOCKS = 96  # in which all units of a layer go: 16 of SmolLM2's at a time, so few inverses


def obs(teacher: Any, chunks: Tensor, batch_size: int = BATCH) -> UnitScores:
    """Scores of FFN units by the order in which they are eliminated (the last to go is highest);
    heads and hidden numbers by Taylor, from the pass that finds the gradients.

    ``teacher`` is a model or a :class:`~tinylm.inherit.stack.Stack`, ``chunks`` int64 [N, T].
    """
    stack = Stack.of(teacher)
    few = first_chunks(chunks, NAME, TAYLOR_TOKENS)

    def with_gradients() -> UnitScores:
        shape = Shape.from_config(stack.model.config)
        size = (shape.num_layers, shape.hidden_size, shape.hidden_size)
        outputs = torch.zeros(size, device=stack.model.device)
        return {**taylor(stack, few, batch_size, outputs), "outputs": outputs.cpu()}

    scores = dict(stack.progress.once("gradients", with_gradients))
    scores[families.FFN] = _orders(stack, chunks, scores.pop("outputs"), batch_size)
    stack.progress.drop("gradients")
    return scores


@torch.no_grad()
def _orders(stack: Stack, chunks: Tensor, outputs: Tensor, batch_size: int) -> Tensor:
    """float32 [L, F]: when each unit goes. ``outputs`` [L, H, H]: G, not yet divided."""
    shape, device = Shape.from_config(stack.model.config), stack.model.device
    batches = list(chunks.to(device).split(batch_size))
    orders = torch.zeros(shape.num_layers, shape.intermediate_size)
    gram = torch.zeros(shape.intermediate_size, shape.intermediate_size, device=device)
    start, states = 0, None
    if known := stack.progress.get(NAME):
        start, states = int(known["start"]), as_list(known, "state ", batches[0])
        orders.copy_(known["orders"])

    def add(units: Tensor) -> None:  # [B, T, F]
        with torch.autocast(device.type, enabled=False):
            flat = units.float().flatten(0, -2)
            gram.add_(flat.T @ flat)

    with (
        hooks_on() as hooks,
        progress_bar("units by elimination", len(stack.layers), "layers") as bar,
    ):
        hooks += [on_input(layer.mlp.down_proj, add) for layer in stack.layers]
        bar.advance(start)
        for step in stack.walk(batches, start=start, states=states):
            metric = _root(outputs[step.index].to(device))
            weight = metric @ step.layer.mlp.down_proj.weight.double()
            orders[step.index] = elimination_order(gram, weight).cpu()
            gram.zero_()
            if stack.progress.is_due(NAME):
                done = {"start": torch.tensor(step.index + 1), "orders": orders}
                stack.progress.put(NAME, {**done, **numbered(step.after, "state ")})
            bar.advance()
    stack.progress.drop(NAME)
    return orders


def elimination_order(gram: Tensor, weight: Tensor, blocks: int = BLOCKS) -> Tensor:
    """When each of n units goes, float32 [n]: 0 first. ``gram`` [n, n] of the units over the text;
    ``weight`` [m, n] maps them to what is to be kept. Computed in float64."""
    if not gram.any():  # nothing ever came in: nothing to learn from
        return weight.square().sum(0).argsort().argsort().float()
    ridged, weight = gram.to(torch.float64, copy=True), weight.double()
    ridged.diagonal().add_(RIDGE * ridged.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(ridged))
    left, order = torch.arange(len(gram), device=gram.device), torch.zeros(len(gram))
    block, gone = max(1, len(gram) // blocks), 0
    while len(left):
        ranked = (weight.square().sum(0) / inverse.diagonal()).argsort(stable=True)
        out, stay = ranked[:block], ranked[block:].sort().values
        order[left[out].cpu()] = torch.arange(gone, gone + len(out), dtype=torch.float32)
        gone += len(out)
        made_up = torch.linalg.solve(inverse[out][:, out], inverse[out][:, stay])
        weight = weight[:, stay] - weight[:, out] @ made_up
        inverse = inverse[stay][:, stay] - inverse[stay][:, out] @ made_up
        left = left[stay]
    return order


def _root(square: Tensor) -> Tensor:
    """The symmetric square root of a positive semidefinite matrix, float64."""
    values, vectors = torch.linalg.eigh(square.double())
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T
