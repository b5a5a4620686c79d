"""The refit: matrices are solved again by least squares, layer by layer, on calibration text, from
student inputs to teacher outputs.

What a dropped layer added to the residual stream becomes part of the target of the kept layer
before it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tinylm.inherit.cut import Kept, dimension_rows
from tinylm.inherit.progress import Tensors, as_list, numbered
from tinylm.inherit.stack import Call, Reached, Stack, Step
from tinylm.models import families
from tinylm.models.shape import Shape
from tinylm.terminal import progress_bar

# Matrices of a layer that share an input, in the order in which data passes them (Phi-3 has fused
# ones).
INPUT_GROUPS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.qkv_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj", "mlp.gate_up_proj"),
    ("mlp.down_proj",),
)
DOWN = INPUT_GROUPS[-1]
NAME = "refit"  # of what is kept of it
OUTPUTS = ("self_attn.o_proj", "mlp.down_proj")


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

    Teacher and student go through the text side by side, so that of the teacher's stream two
    places are kept at a time: before and after one layer.
    """
    stack = Stack.of(teacher)
    batches = list(chunks.to(stack.model.device).split(batch_size))
    _, calls = Stack.of(student).enter(batches[0] % student.config.vocab_size)
    fitting = _Refit(student, stack, kept, calls, matrices, ridge)
    last, start, states = len(stack.layers) - 1, 0, None
    if known := stack.progress.get(NAME):
        start, states = int(known["start"]), as_list(known, "teacher ", batches[0])
        fitting.restore(known)
    with progress_bar("least-squares refit", len(stack.layers), "layers") as bar:
        bar.advance(start)
        for step in stack.walk(batches, start=start, states=states):
            if step.index == 0:
                # the student's embedding of the same tokens, also of those its vocabulary has lost
                fitting.stream = [state[..., kept.hidden] for state in step.before]
            if step.index in kept.layers:
                fitting.end_layer(step.before)
                fitting.begin_layer(step)
            if step.index == last:
                fitting.end_layer(step.after)
            if stack.progress.is_due(NAME):
                stack.progress.put(NAME, fitting.tensors(step))
            del step  # or its stream would stay while the next layer makes its own
            bar.advance()
    stack.progress.drop(NAME)


class _Refit:
    """A student on its way through the text beside its teacher. ``stream``: what goes into the
    student's layer at hand, or comes out of the last one, [B, T, hidden] for each batch."""

    def __init__(
        self,
        student: Any,
        stack: Stack,
        kept: Kept,
        calls: list[Call],
        matrices: Sequence[str],
        ridge: float,
    ) -> None:
        self.student, self.teacher, self.kept, self.calls = student, stack.model, kept, calls
        self.matrices, self.ridge = matrices, ridge
        self.aims_at_stream = not families.family_of(self.teacher.config).output_norms
        self.multiplier = getattr(self.teacher.config, "residual_multiplier", 1.0)  # Granite
        self.stream: list[Tensor] = []
        self.index = -1  # of the student's layer at hand
        self.open = False  # whether that layer still has to end

    def tensors(self, step: Step) -> dict[str, Tensor]:
        """How far it is once ``step`` is done, for :meth:`restore`."""
        found = {"start": torch.tensor(step.index + 1), "index": torch.tensor(self.index)}
        found |= {"open": torch.tensor(self.open), **numbered(step.after, "teacher ")}
        found |= numbered(self.stream, "student ")
        return found | {f"weight {name}": weight for name, weight in self._weights()}

    def restore(self, known: Tensors) -> None:
        self.index, self.open = int(known["index"]), bool(known["open"])
        for name, weight in self._weights():
            weight.copy_(known[f"weight {name}"])
        self.stream = as_list(known, "student ", self.student.get_input_embeddings().weight)

    def _weights(self) -> list[tuple[str, Tensor]]:
        """What is solved anew, by name."""
        endings = tuple(f"{name}.weight" for name in self.matrices)
        return [named for named in self.student.named_parameters() if named[0].endswith(endings)]

    def begin_layer(self, step: Step) -> None:
        """Refit what the teacher's own layer says all about, in the student's layer made of it."""
        self.index, self.open = self.index + 1, True
        for group in INPUT_GROUPS:
            if group != DOWN or not self.aims_at_stream:
                self._solve(group, partial(self._goal_of_layer, step))

    def end_layer(self, goals: list[Tensor]) -> None:
        """Refit the last matrix of the layer at hand towards ``goals``, the teacher's stream before
        the next layer that stays, and go through the layer."""
        if not self.open:
            return
        if self.aims_at_stream:
            self._solve(DOWN, lambda name, number: goals[number])
        layer = self.student.base_model.layers[self.index]
        self.stream = [layer(state, **self.calls[self.index]) for state in self.stream]
        self.open = False

    def _goal_of_layer(self, step: Step, name: str, number: int) -> Tensor:
        state, call = step.before[number], step.calls[number]
        output = _output_of(step.layer, name, state, call)
        at_stream = name in OUTPUTS and self.aims_at_stream
        return state + self.multiplier * output if at_stream else output

    def _solve(self, group: Sequence[str], goal_of: Callable[[str, int], Tensor]) -> None:
        """Solve the matrices of ``group`` (they share an input) towards ``goal_of(name, batch)``:
        the stream after them, or their own output."""
        layer, call = self.student.base_model.layers[self.index], self.calls[self.index]
        names = [name for name in group if name in self.matrices and _has(layer, name)]
        if not names:
            return
        fits = {name: _Fit(layer.get_submodule(name), self.ridge) for name in names}
        weights: Tensor | None
        for number, state in enumerate(self.stream):
            x, before = _run_to(layer, names, state, call, self.multiplier)
            for name in names:
                goal = goal_of(name, number)
                if name in OUTPUTS and self.aims_at_stream:
                    target = (goal[..., self.kept.hidden] - before) / self.multiplier
                    weights = _weights(goal)
                else:
                    rows = _output_rows(name, self.kept, self.index, self.teacher)
                    target = goal if rows is None else goal[..., rows]
                    weights = _weights(target) if name in OUTPUTS else None
                fits[name].add(x, target, weights)
        for fit in fits.values():
            fit.solve()


class _Fit:
    """Ridge regression of one linear module towards targets, accumulated over batches in
    float32."""

    def __init__(self, module: nn.Linear, ridge: float) -> None:
        self.module, self.ridge = module, ridge
        inputs, device = module.in_features, module.weight.device
        self.gram = torch.zeros(inputs, inputs, device=device)
        self.cross = torch.zeros(module.out_features, inputs, device=device)

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


def _run_to(
    layer: Any, names: list[str], state: Tensor, call: dict, multiplier: float
) -> tuple[Tensor, Tensor]:
    """Input of the modules ``names`` (they share it), and the residual stream their output is added
    to."""
    seen: dict[str, Tensor] = {}

    def reached(module: nn.Module, args: tuple) -> None:
        seen["x"] = args[0]
        raise Reached

    handles = [layer.get_submodule(names[0]).register_forward_pre_hook(reached)]
    if names[0].startswith("mlp."):
        attention = layer.self_attn  # with what stands after o_proj in it: PanGu-pi's shortcut
        handles.append(
            attention.register_forward_hook(lambda module, args, out: seen.update(attention=out[0]))
        )
    try:
        layer(state, **call)
    except Reached:
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
        raise Reached

    handle = layer.get_submodule(name).register_forward_hook(reached)
    try:
        layer(state, **call)
    except Reached:
        pass
    finally:
        handle.remove()
    return seen[0]
