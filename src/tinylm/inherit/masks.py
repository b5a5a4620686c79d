"""Learned binary masks: which units stay is trained on calibration text while the teacher's weights
stay frozen.

Two ways to make a binary choice trainable. ``hard-concrete`` samples a stretched, clamped sigmoid
for each unit (arXiv 1712.01312) and holds the expected number of open units at the target, which
falls from all of them. ``top-k`` opens exactly the target's number of units in every step and
passes gradients straight through the choice.

The usual hard concrete clamps log-alpha, which leaves every closed unit a chance of s_min to be
open. A constraint on the plain expectation then counts those chances as units and drives too many
of the real ones off. Here the constraint is on (s - s_min) / (s_max - s_min), which is 0 for a
closed unit and 1 for an open one. It is held by moving all log-alphas of a group by one common
amount after each step: the multiplier of the Lagrangian, solved for instead of learned (a learned
one swung 5-40 % around the target; docs/decisions/inherit.md).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tinylm.inherit.memory import BATCH, must_recompute
from tinylm.inherit.progress import Tensors
from tinylm.inherit.stack import Stack
from tinylm.inherit.units import frozen_weights, residual_writers, token_losses
from tinylm.models import families
from tinylm.models.shape import Shape
from tinylm.terminal import progress_bar

NAME = "masks"  # of what is kept of their training
LAYERS, GROUPS = "layers", "kv_groups"
TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1  # of the hard concrete distribution: beta, gamma, zeta
CLAMP = math.log(100.0)  # |log-alpha| is at most this, so that a closed unit can open again


def open_probability(log_alpha: Tensor) -> Tensor:
    """P(mask != 0), corrected for the clamp: 0 at -CLAMP, 1 at +CLAMP."""
    shift = TEMPERATURE * math.log(-LOW / HIGH)
    least, most = (1 / (1 + math.exp(shift - side)) for side in (-CLAMP, CLAMP))
    return (torch.sigmoid(log_alpha - shift) - least) / (most - least)


def hard_concrete(log_alpha: Tensor, generator: torch.Generator) -> Tensor:
    """One sample in [0, 1] for each unit, differentiable in ``log_alpha``."""
    noise = torch.rand(log_alpha.shape, generator=generator).clamp(1e-6, 1 - 1e-6)
    soft = torch.sigmoid((noise.log() - (1 - noise).log() + log_alpha) / TEMPERATURE)
    return (soft * (HIGH - LOW) + LOW).clamp(0, 1)


def top_k(log_alpha: Tensor, kept: int) -> Tensor:
    """1 for the ``kept`` highest of the last dimension, 0 for the others; gradients pass straight
    through."""
    hard = torch.zeros_like(log_alpha).scatter(-1, log_alpha.topk(kept, -1).indices, 1.0)
    soft = torch.sigmoid(log_alpha)
    return hard + soft - soft.detach()


def hold(log_alpha: Tensor, share: float) -> Tensor:
    """``log_alpha`` plus the one number a row that makes its mean open probability ``share``
    (bisection)."""
    low = torch.full((*log_alpha.shape[:-1], 1), -2 * CLAMP - 4)
    high = -low
    for _ in range(40):
        middle = (low + high) / 2
        many = (
            open_probability((log_alpha + middle).clamp(-CLAMP, CLAMP)).mean(-1, keepdim=True)
            > share
        )
        low, high = torch.where(many, low, middle), torch.where(many, middle, high)
    return (log_alpha + high).clamp(-CLAMP, CLAMP)


@dataclass(frozen=True)
class MaskTraining:
    """How masks are trained."""

    kind: str = "hard-concrete"  # of GATES
    steps: int = 100
    batch_size: int = BATCH  # chunks a step
    learning_rate: float = 0.1
    seed: int = 0


# (log-alpha [..., units], units kept, generator) -> gates of the same size
GATES: dict[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "hard-concrete": lambda log_alpha, kept, generator: hard_concrete(log_alpha, generator),
    "top-k": lambda log_alpha, kept, generator: top_k(log_alpha, kept),
}


@dataclass
class Learned:
    """What :func:`learn` found."""

    # log-alpha of ffn [L, F], q_heads [L, heads], hidden [H], layers [L]; teacher order
    scores: dict[str, Tensor]
    # a step: loss; by axis, shares open and undecided
    history: list[dict[str, float]] = field(default_factory=list)


def learn(
    teacher: Any,
    chunks: Tensor,
    target: Shape,
    training: MaskTraining = MaskTraining(),
    *,
    start: Mapping[str, Tensor] | None = None,
    layers: list[int] | None = None,
) -> Learned:
    """Train masks over every axis on which ``target`` is smaller than ``teacher``.

    Args:
        teacher: a model, or a :class:`~tinylm.inherit.stack.Stack`.
        chunks: calibration, int64 [N, T]; batches walk through it again and again.
        start: scores to start from (their ranks become the first log-alphas); without it all units
            start alike.
        layers: the teacher layers that stay; None: layers are learned too, jointly.
    """
    stack = Stack.of(teacher)
    model, size = stack.model, training.batch_size
    shape = Shape.from_config(model.config)
    generator = torch.Generator().manual_seed(training.seed)
    kept = _kept_counts(shape, target, learn_layers=layers is None)
    if not kept:  # a target that differs in depth or vocabulary only, and layers chosen before
        return Learned({})
    log_alpha = {
        axis: _first_values(axis, shape, start, generator).requires_grad_() for axis in kept
    }
    optimizer = torch.optim.Adam(log_alpha.values(), lr=training.learning_rate)
    ones = {} if layers is None else {LAYERS: _indicator(torch.tensor(layers), shape.num_layers)}
    history: list[dict[str, float]] = []

    def mean_loss(model: Any, ids: Tensor) -> Tensor:
        return token_losses(model, ids).mean(1).sum() / size

    recompute = must_recompute(shape, model.dtype, size * chunks.shape[1], model.device)
    with (
        frozen_weights(model),
        progress_bar("learning masks", training.steps, "steps") as bar,
        torch.enable_grad(),
    ):
        first = _restored(stack.progress.get(NAME), log_alpha, optimizer, generator, history)
        bar.advance(first)
        for step in range(first, training.steps):
            batch = chunks[[(step * size + i) % len(chunks) for i in range(size)]]
            batch = batch.to(model.device)
            gates = {
                axis: GATES[training.kind](values, kept[axis], generator)
                for axis, values in log_alpha.items()
            }
            optimizer.zero_grad()
            joined = _by_head(gates, shape, torch.mul)
            # gradients come to the gates layer by layer, and go on from there once
            leaves = {axis: gate.detach().requires_grad_() for axis, gate in joined.items()}
            # backward too: layers may run again in it
            with gated(model, leaves | ones):
                (loss,) = stack.backward([batch], mean_loss, recompute=recompute)
            torch.autograd.backward(list(joined.values()), [leaf.grad for leaf in leaves.values()])
            for values in log_alpha.values():
                assert values.grad is not None
                # the common part belongs to the constraint
                values.grad -= values.grad.mean(-1, keepdim=True)
            optimizer.step()
            reached = min(1.0, 2 * (step + 1) / training.steps)
            row = {"loss": loss} | _hold_targets(log_alpha, kept, reached)
            history.append(row)
            bar.advance(1, f"loss {row['loss']:.3f}")
            if stack.progress.is_due(NAME):
                stack.progress.put(NAME, _tensors(log_alpha, optimizer, generator, history))
    stack.progress.drop(NAME)
    found = {axis: values.detach() for axis, values in log_alpha.items()}
    # groups decide first
    return Learned(_by_head(found, shape, lambda group, head: 1000 * group + head), history)


def _tensors(
    log_alpha: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    history: list[dict[str, float]],
) -> dict[str, Tensor]:
    """Where the training is, as named tensors."""
    found = {"generator": generator.get_state()}
    found["history"] = torch.tensor([list(row.values()) for row in history], dtype=torch.float64)
    for axis, values in log_alpha.items():
        moments = optimizer.state[values]
        found |= {f"{axis} {name}": value.clone() for name, value in moments.items()}
        found[axis] = values.detach().clone()
    return found


def _restored(
    known: Tensors | None,
    log_alpha: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    history: list[dict[str, float]],
) -> int:
    """Bring back what :func:`_tensors` kept; the steps that are done."""
    if known is None:
        return 0
    generator.set_state(known["generator"])
    for axis, values in log_alpha.items():
        values.data = known[axis]
        optimizer.state[values] = {
            name.removeprefix(f"{axis} "): value
            for name, value in known.items()
            if name.startswith(f"{axis} ")
        }
    names = ["loss", *(name for axis in log_alpha for name in (axis, f"{axis}_undecided"))]
    history += [dict(zip(names, row, strict=True)) for row in known["history"].tolist()]
    return len(history)


def _hold_targets(
    log_alpha: dict[str, Tensor], kept: dict[str, int], reached: float
) -> dict[str, float]:
    """Move each axis to its share of open units, ``reached`` of the way to the target; shares open
    and undecided."""
    row = {}
    for axis, values in log_alpha.items():
        values.data = hold(values.data, 1 - reached * (1 - kept[axis] / values.shape[-1]))
        chance = open_probability(values.detach())
        row[axis] = float(chance.mean())
        row[f"{axis}_undecided"] = float(((chance > 0.1) & (chance < 0.9)).float().mean())
    return row


@contextmanager
def gated(model: Any, gates: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, ``model`` runs with its units multiplied by ``gates`` (by axis, in the sizes of the
    scores).

    FFN units and heads are gated where they enter their output matrix, hidden numbers wherever they
    are written to the residual stream (embedding included), layers where they are added to it. A
    closed unit is then as good as cut.
    """
    shape, handles = Shape.from_config(model.config), []

    def on_input(module: Any, gate: Tensor) -> None:
        handles.append(
            module.register_forward_pre_hook(lambda module, args: (args[0] * gate.to(args[0]),))
        )

    def on_output(module: Any, gate: Tensor) -> None:
        handles.append(module.register_forward_hook(lambda module, args, out: out * gate.to(out)))

    over_heads = families.norms_go_over_heads(model.config)
    if families.HIDDEN in gates:
        on_output(model.get_input_embeddings(), gates[families.HIDDEN])
    for index, layer in enumerate(model.base_model.layers):
        if families.FFN in gates:
            on_input(layer.mlp.down_proj, gates[families.FFN][index])
        if families.Q_HEADS in gates:
            heads = gates[families.Q_HEADS][index]
            on_input(layer.self_attn.o_proj, heads.repeat_interleave(shape.head_dim))
            if over_heads:  # OLMo 2
                groups = heads.view(shape.num_key_value_heads, -1).amax(1)
                on_input(layer.self_attn.q_norm, heads.repeat_interleave(shape.head_dim))
                on_input(layer.self_attn.k_norm, groups.repeat_interleave(shape.head_dim))
        if families.HIDDEN in gates:
            on_output(layer.self_attn.o_proj, gates[families.HIDDEN])
            on_output(layer.mlp.down_proj, gates[families.HIDDEN])
            if getattr(layer.self_attn, "shortcut", None) is not None:
                on_output(layer.self_attn.shortcut, gates[families.HIDDEN])
        if LAYERS in gates:
            for writer in residual_writers(layer, model.config):
                on_output(writer, gates[LAYERS][index])
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _kept_counts(shape: Shape, target: Shape, learn_layers: bool) -> dict[str, int]:
    """How many units stay on each axis that shrinks. Of query heads: how many in each key-value
    group that stays."""
    counts = {
        families.FFN: (target.intermediate_size, shape.intermediate_size),
        GROUPS: (target.num_key_value_heads, shape.num_key_value_heads),
        families.Q_HEADS: (target.heads_per_group, shape.heads_per_group),
        families.HIDDEN: (target.hidden_size, shape.hidden_size),
        LAYERS: (target.num_layers if learn_layers else shape.num_layers, shape.num_layers),
    }
    return {axis: few for axis, (few, all_) in counts.items() if few < all_}


def _first_values(
    axis: str, shape: Shape, start: Mapping[str, Tensor] | None, generator: torch.Generator
) -> Tensor:
    """Log-alphas to begin with: 2 (nearly open) plus a little noise, or spread from 1 to 3 by the
    rank in ``start``."""
    by_group = (shape.num_layers, shape.num_key_value_heads, shape.heads_per_group)
    sizes = {
        families.FFN: (shape.num_layers, shape.intermediate_size),
        GROUPS: by_group[:2],
        families.Q_HEADS: by_group,
        families.HIDDEN: (shape.hidden_size,),
        LAYERS: (shape.num_layers,),
    }
    scores = (start or {}).get(families.Q_HEADS if axis == GROUPS else axis)
    if scores is None:
        return 2 + 0.01 * torch.randn(sizes[axis], generator=generator)
    scores = (
        scores.float().view(by_group).sum(-1)
        if axis == GROUPS
        else scores.float().view(sizes[axis])
    )
    ranks = scores.argsort(-1).argsort(-1)
    return 1 + 2 * ranks / (ranks.shape[-1] - 1)


def _by_head(
    values: Mapping[str, Tensor], shape: Shape, join: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, Tensor]:
    """``values`` with those of key-value groups and of the query heads inside them joined to one a
    head, [L, heads].

    The cut keeps whole groups with as many heads in each: masks over all heads of a layer would
    train a choice that is not the one exported.
    """
    rest = {axis: value for axis, value in values.items() if axis not in (GROUPS, families.Q_HEADS)}
    if len(rest) == len(values):
        return rest
    ones = torch.ones(shape.num_layers, shape.num_key_value_heads, shape.heads_per_group)
    group, head = values.get(GROUPS, ones[..., 0])[..., None], values.get(families.Q_HEADS, ones)
    return rest | {families.Q_HEADS: join(group, head).flatten(1)}


def _indicator(indices: Tensor, size: int) -> Tensor:
    return torch.zeros(size).index_fill_(0, indices, 1.0)
