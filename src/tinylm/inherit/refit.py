"""The refit: matrices are solved again by least squares, layer by layer, on calibration text, from
student inputs to teacher outputs.

What a dropped layer added to the residual stream becomes part of the target of the kept layer
before it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tinylm.inherit.cut import Kept, dimension_rows
from tinylm.models import families
from tinylm.models.shape import Shape
from tinylm.terminal import track

# Matrices of a layer that share an input, in the order in which data passes them (Phi-3 has fused
# ones).
INPUT_GROUPS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.qkv_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj", "mlp.gate_up_proj"),
    ("mlp.down_proj",),
)
OUTPUTS = ("self_attn.o_proj", "mlp.down_proj")


class _Reached(Exception):
    """The module we wanted to see has run: the rest of the layer is not needed."""


@torch.no_grad()
def refit(
    student: Any,
    teacher: Any,
    kept: Kept,
    chunks: Tensor,
    matrices: Sequence[str] = OUTPUTS,
    ridge: float = 0.1,
    batch_size: int = 4,
) -> None:
    """Solve ``matrices`` of every layer again, front to back. ``chunks`` int64 [N, T] with N a
    multiple of batch_size.

    Each is the least-squares map from the student's own input to the teacher's output (kept rows
    only), pulled towards the cut weights by ``ridge`` times the mean input power. o_proj and
    down_proj aim at the teacher's residual stream itself where nothing stands between (no output
    norm): they also correct the error made so far, and the last matrix before a gap of dropped
    layers makes up for their sum.
    """
    batches = list(chunks.split(batch_size))
    aims_at_stream = not families.family_of(teacher.config).output_norms
    multiplier = getattr(teacher.config, "residual_multiplier", 1.0)  # Granite
    wanted = [0, *kept.layers, len(teacher.base_model.layers)]
    teacher_states, teacher_calls = _states(teacher, batches, wanted)
    _, calls = _states(student, [batches[0] % student.config.vocab_size], [])
    # the student's embedding of the same tokens,
    stream = [state[..., kept.hidden] for state in teacher_states[0]]
    # also of those that its vocabulary has lost
    for index, layer in enumerate(track(list(student.base_model.layers), "least-squares refit")):
        source = kept.layers[index]
        after = (
            kept.layers[index + 1]
            if index + 1 < len(kept.layers)
            else len(teacher.base_model.layers)
        )
        teacher_layer = teacher.base_model.layers[source]
        for group in INPUT_GROUPS:
            names = [name for name in group if name in matrices and _has(layer, name)]
            if not names:
                continue
            fits = {name: _Fit(layer.get_submodule(name), ridge) for name in names}
            weights: Tensor | None
            for number in range(len(batches)):
                x, before = _run_to(layer, names, stream[number], calls[index], multiplier)
                for name in names:
                    if name in OUTPUTS and aims_at_stream:
                        goal = _stream_goal(
                            teacher_layer,
                            name,
                            teacher_states,
                            source,
                            after,
                            number,
                            teacher_calls,
                            multiplier,
                        )
                        target = (goal[..., kept.hidden] - before) / multiplier
                        weights = _weights(goal)
                    else:
                        target = _output_of(
                            teacher_layer,
                            name,
                            teacher_states[source][number],
                            teacher_calls[source],
                        )
                        rows = _output_rows(name, kept, index, teacher)
                        target = target if rows is None else target[..., rows]
                        weights = _weights(target) if name in OUTPUTS else None
                    fits[name].add(x, target, weights)
            for fit in fits.values():
                fit.solve()
        stream = [layer(state, **calls[index]) for state in stream]
        teacher_states.pop(source)


class _Fit:
    """Ridge regression of one linear module towards targets, accumulated over batches in
    float32."""

    def __init__(self, module: nn.Linear, ridge: float) -> None:
        self.module, self.ridge = module, ridge
        self.gram = torch.zeros(module.in_features, module.in_features)
        self.cross = torch.zeros(module.out_features, module.in_features)

    def add(self, x: Tensor, target: Tensor, weights: Tensor | None) -> None:
        error = (target.float() - self.module(x).float()).flatten(0, -2)
        flat = x.float().flatten(0, -2)
        if weights is not None:
            error, flat = error * weights, flat * weights
        self.gram += flat.T @ flat
        self.cross += error.T @ flat

    def solve(self) -> None:
        power = float(self.gram.diagonal().mean())
        if power == 0:  # nothing ever came in: nothing to learn from
            return
        self.gram.diagonal().add_(self.ridge * power)
        factor = torch.linalg.cholesky(self.gram.double())
        update = torch.cholesky_solve(self.cross.T.double(), factor).T
        weight = self.module.weight
        weight.copy_(weight.double() + update)


def _weights(goal: Tensor) -> Tensor:
    """1 / rms of each token's goal, float32 [tokens, 1]."""
    return torch.rsqrt(goal.float().pow(2).mean(-1).clamp_min(1e-12)).flatten()[:, None]


def _has(layer: nn.Module, name: str) -> bool:
    return name in dict(layer.named_modules())


def _output_rows(name: str, kept: Kept, layer: int, teacher: Any) -> Tensor | None:
    dimensions = families.family_of(teacher.config).axes(f"model.layers.0.{name}.weight")
    assert dimensions is not None
    return dimension_rows(dimensions[0], kept, layer, Shape.from_config(teacher.config))


def _states(
    model: Any, batches: list[Tensor], layers: list[int]
) -> tuple[dict[int, list[Tensor]], list[dict]]:
    """Residual stream before each of ``layers`` (num_layers: after the last) by batch; how layers
    are called."""
    modules = model.base_model.layers
    states: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    calls: list[dict] = [{} for _ in modules]
    handles = []

    def before(index: int) -> Callable:
        def remember(module: nn.Module, args: tuple, kwargs: dict) -> None:
            calls[index] = kwargs
            if index in states:
                states[index].append(args[0])

        return remember

    for index, module in enumerate(modules):
        handles.append(module.register_forward_pre_hook(before(index), with_kwargs=True))
    if len(modules) in states:
        handles.append(
            modules[-1].register_forward_hook(
                lambda module, args, out: states[len(modules)].append(out)
            )
        )
    try:
        for batch in batches:
            model.base_model(input_ids=batch, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return states, calls


def _run_to(
    layer: Any, names: list[str], state: Tensor, call: dict, multiplier: float
) -> tuple[Tensor, Tensor]:
    """Input of the modules ``names`` (they share it), and the residual stream their output is added
    to."""
    seen: dict[str, Tensor] = {}

    def reached(module: nn.Module, args: tuple) -> None:
        seen["x"] = args[0]
        raise _Reached

    handles = [layer.get_submodule(names[0]).register_forward_pre_hook(reached)]
    if names[0].startswith("mlp."):
        attention = layer.self_attn  # with what stands after o_proj in it: PanGu-pi's shortcut
        handles.append(
            attention.register_forward_hook(lambda module, args, out: seen.update(attention=out[0]))
        )
    try:
        layer(state, **call)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return seen["x"], state + multiplier * seen["attention"] if "attention" in seen else state


def _output_of(layer: Any, name: str, state: Tensor, call: dict) -> Tensor:
    """What the module ``name`` puts out when ``layer`` runs on ``state``."""
    seen: list[Tensor] = []

    def reached(module: nn.Module, args: tuple, out: Tensor) -> None:
        seen.append(out)
        raise _Reached

    handle = layer.get_submodule(name).register_forward_hook(reached)
    try:
        layer(state, **call)
    except _Reached:
        pass
    finally:
        handle.remove()
    return seen[0]


def _stream_goal(
    layer: Any, name: str, states, source: int, after: int, number: int, calls, multiplier: float
) -> Tensor:
    """The teacher's residual stream where the student's must be once ``name`` has added its
    output."""
    if name == "mlp.down_proj":
        return states[after][number]
    state = states[source][number]
    return state + multiplier * _output_of(layer, name, state, calls[source])
