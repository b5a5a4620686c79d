"""How much each unit inside the layers matters: random, L1, L2, first-order Taylor, activation.

All of them fill the same three tables (ffn, query heads, hidden). Weight norms read the axes table
and the weights alone, one tensor at a time; Taylor and activation run the teacher on calibration
tokens.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinylm.inherit.memory import BATCH, must_recompute
from tinylm.inherit.progress import numbered
from tinylm.inherit.stack import Stack
from tinylm.models import families
from tinylm.models.shape import Shape
from tinylm.terminal import progress_bar

UnitScores = dict[str, Tensor]  # ffn [L, F], q_heads [L, heads], hidden [H]; float32


def empty(shape: Shape, device: torch.device | None = None) -> UnitScores:
    """Zero scores for a teacher of ``shape``."""
    return {
        families.FFN: torch.zeros(shape.num_layers, shape.intermediate_size, device=device),
        families.Q_HEADS: torch.zeros(shape.num_layers, shape.num_attention_heads, device=device),
        families.HIDDEN: torch.zeros(shape.hidden_size, device=device),
    }


def random(shape: Shape, seed: int = 0) -> UnitScores:
    """Uniform scores: the control every other criterion must beat."""
    generator = torch.Generator().manual_seed(seed)
    return {
        axis: torch.rand(zeros.shape, generator=generator) for axis, zeros in empty(shape).items()
    }


def weight_norm(weights: Mapping[str, Tensor], config: Any, power: int) -> UnitScores:
    """Sum of |w|^power over every weight of a unit; ``power`` 1 or 2. One tensor in memory at a
    time."""
    family, shape = families.family_of(config), Shape.from_config(config)
    sizes, scores = families.axis_sizes(shape, config), empty(shape)
    for name in weights:
        layer, sums = families.layer_of(name), _power_sums(weights[name], power)
        for blocks, rows in zip(family.axes(name) or (), sums, strict=True):
            for axis, part in zip(
                blocks, rows.split([sizes[axis] for axis in blocks]), strict=True
            ):
                if axis == families.HIDDEN:
                    scores[axis] += part
                elif axis == families.FFN:
                    scores[axis][layer] += part
                elif axis == families.Q_HEADS:
                    scores[axis][layer] += part.view(-1, shape.head_dim).sum(1)
                # shared by the group, so each query head carries its part
                elif axis == families.KV_HEADS:
                    group = part.view(-1, shape.head_dim).sum(1) / shape.heads_per_group
                    scores[families.Q_HEADS][layer] += group.repeat_interleave(
                        shape.heads_per_group
                    )
    return scores


def _power_sums(weight: Tensor, power: int) -> list[Tensor]:
    """For each dimension the sums of |w|^power over the others, float32; some rows of an embedding
    at a time."""
    if weight.dim() == 1:
        return [weight.to(torch.float32, copy=True).abs_().pow_(power)]
    rows, columns = [], torch.zeros(weight.shape[1])
    for block in weight.split(max(1, 2**22 // weight.shape[1])):
        magnitude = block.to(torch.float32, copy=True).abs_().pow_(power)
        rows.append(magnitude.sum(1))
        columns += magnitude.sum(0)
    return [torch.cat(rows), columns]


def taylor(
    teacher: Any, chunks: Tensor, batch_size: int = BATCH, outputs: Tensor | None = None
) -> UnitScores:
    """First-order Taylor: |sum of w * dL/dw| over a unit's output weights, taken per chunk and
    summed over chunks.

    For the output weights of a unit that sum equals (activation * its gradient) summed over tokens,
    so only activations need gradients: the weights stay frozen and a backward pass costs half.
    ``teacher`` is a model or a :class:`~tinylm.inherit.stack.Stack`, ``chunks`` int64 [N, T].
    ``outputs`` float32 [L, H, H] gets the sum of g g^T over tokens, g the gradient at a down_proj's
    output.
    """
    stack = Stack.of(teacher)
    model, shape = stack.model, Shape.from_config(stack.model.config)
    scores = empty(shape, model.device)
    batches = list(chunks.to(model.device).split(batch_size))
    hidden = [torch.zeros(len(batch), shape.hidden_size, device=model.device) for batch in batches]
    running = 0  # the batch that a product is of

    def add_units(axis: str, layer: int, width: int) -> Callable[[Tensor], None]:
        def add(product: Tensor) -> None:  # [B, units * width]
            scores[axis][layer] += product.view(len(product), -1, width).sum(2).abs().sum(0)

        return add

    def add_hidden(product: Tensor) -> None:  # [B, hidden]
        hidden[running] += product

    def add_gradient(layer: int, gradient: Tensor) -> None:  # [B, T, hidden]
        assert outputs is not None
        flat = gradient.float().flatten(0, -2)
        outputs[layer] += flat.T @ flat

    def begin(number: int) -> None:
        nonlocal running
        running = number

    recompute = must_recompute(shape, model.dtype, batch_size * chunks.shape[1], model.device)
    with (
        frozen_weights(model),
        hooks_on() as hooks,
        torch.enable_grad(),
        progress_bar("Taylor scores", len(batches), "batches") as bar,
    ):
        embedding = model.get_input_embeddings()
        hooks.append(
            embedding.register_forward_hook(lambda module, args, out: out.requires_grad_())
        )
        writers = [embedding]
        for index, layer in enumerate(model.base_model.layers):
            heads, units = (
                add_units(families.Q_HEADS, index, shape.head_dim),
                add_units(families.FFN, index, 1),
            )
            hooks.append(on_input(layer.self_attn.o_proj, partial(_Watched.apply, heads)))
            hooks.append(on_input(layer.mlp.down_proj, partial(_Watched.apply, units)))
            if outputs is not None:
                seen = partial(_Gradient.apply, partial(add_gradient, index))
                hooks.append(on_output(layer.mlp.down_proj, seen))
            writers += residual_writers(layer, model.config)
        for module in writers:
            hooks.append(on_output(module, partial(_Watched.apply, add_hidden)))
        stack.backward(
            batches,
            _loss_by_chunk,
            recompute=recompute,
            begin=begin,
            tick=bar.advance,
            keep="taylor",
            sums=scores
            | numbered(hidden, "hidden of batch ")
            | ({} if outputs is None else {"outputs": outputs}),
        )
    scores[families.HIDDEN] += torch.cat(hidden).abs().sum(0)
    return {axis: values.cpu() for axis, values in scores.items()}


def _loss_by_chunk(model: Any, ids: Tensor) -> Tensor:
    return token_losses(model, ids).mean(1).sum()  # every chunk counts alike


class _Watched(torch.autograd.Function):
    """The identity; its backward pass tells ``add`` the sum over tokens of x * dL/dx, [B, T, n] ->
    [B, n]."""

    @staticmethod
    def forward(ctx: Any, add: Callable[[Tensor], None], x: Tensor) -> Tensor:
        ctx.add = add
        ctx.save_for_backward(x)  # so that a layer that runs again need not keep it
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        (x,), (gradient,) = ctx.saved_tensors, gradients
        ctx.add((x * gradient).float().sum(1))
        return None, gradient


class _Gradient(torch.autograd.Function):
    """The identity; its backward pass tells ``add`` the gradient."""

    @staticmethod
    def forward(ctx: Any, add: Callable[[Tensor], None], x: Tensor) -> Tensor:
        ctx.add = add
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        ctx.add(gradients[0])
        return None, gradients[0]


@torch.no_grad()
def activation(teacher: Any, chunks: Tensor, batch_size: int = 8) -> UnitScores:
    """Mean absolute activation over the tokens of a chunk, then L2 over chunks (Minitron, arXiv
    2407.14679).

    Units are read where they enter the output matrices; hidden where the norms put it out.
    """
    stack = Stack.of(teacher)
    model, shape = stack.model, Shape.from_config(stack.model.config)
    scores = empty(shape, model.device)
    batches = list(chunks.to(model.device).split(batch_size))

    def add(axis: str, layer: int | None, width: int) -> Callable[[Tensor], None]:
        target = scores[axis] if layer is None else scores[axis][layer]

        def add_one(x: Tensor) -> None:  # [B, T, units * width]
            target.add_(x.float().abs().mean(1).view(len(x), -1, width).mean(2).pow(2).sum(0))

        return add_one

    with hooks_on() as hooks:
        for index, layer in enumerate(model.base_model.layers):
            hooks.append(
                on_input(layer.self_attn.o_proj, add(families.Q_HEADS, index, shape.head_dim))
            )
            hooks.append(on_input(layer.mlp.down_proj, add(families.FFN, index, 1)))
        for name, module in model.named_modules():
            if families.family_of(model.config).axes(f"{name}.weight") == ((families.HIDDEN,),):
                hooks.append(on_output(module, add(families.HIDDEN, None, 1)))
        with progress_bar("activation scores", len(batches), "batches") as bar:
            stack.forward(batches, tick=bar.advance)
    return {axis: values.sqrt().cpu() for axis, values in scores.items()}


def token_losses(model: Any, ids: Tensor, stride: int = 1) -> Tensor:
    """Next-token loss in nats at every ``stride``-th position: ids int64 [B, T] -> float32 [B,
    about T / stride].

    A stride saves the head, which costs as much as several layers of a small model.
    """
    positions = torch.arange(0, ids.shape[1] - 1, stride)
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=positions).logits
    losses = [
        F.cross_entropy(row.float(), goal, reduction="none")
        for row, goal in zip(logits, ids[:, positions + 1])
    ]
    return torch.stack(losses)


def fast_matmul(model: Any) -> torch.autocast:
    """float32 weights, bf16 products where the processor is quick at those (AMX: 8 times);
    otherwise as it is.

    Without autocast's cache, which would go on with the old bf16 copy of a weight that a repair has
    changed.
    """
    fast = (
        model.dtype == torch.float32
        and model.device.type == "cpu"
        and torch.cpu._is_amx_tile_supported()
    )
    return torch.autocast(model.device.type, torch.bfloat16, enabled=fast, cache_enabled=False)


def residual_writers(layer: Any, config: Any) -> list[nn.Module]:
    """The modules of a layer whose outputs are added to the residual stream: two, three with
    PanGu-pi's shortcut."""
    if families.family_of(config).output_norms:
        return [layer.post_attention_layernorm, layer.post_feedforward_layernorm]
    shortcut = getattr(layer.self_attn, "shortcut", None)
    return [layer.self_attn.o_proj, *([] if shortcut is None else [shortcut]), layer.mlp.down_proj]


def on_input(module: nn.Module, hook: Callable[[Tensor], Tensor | None]):
    """``hook`` gets what goes into ``module``; what it returns goes in instead."""
    return module.register_forward_pre_hook(lambda module, args: hook(args[0]))


def on_output(module: nn.Module, hook: Callable[[Tensor], Tensor | None]):
    return module.register_forward_hook(lambda module, args, out: hook(out))


@contextmanager
def frozen_weights(model: nn.Module) -> Iterator[None]:
    """Inside, no weight of ``model`` asks for a gradient."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def hooks_on() -> Iterator[list]:
    handles: list = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()
