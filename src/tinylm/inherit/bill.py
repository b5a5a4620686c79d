"""What an inheritance will cost, told before it starts: memory by part, arithmetic by part; and
from the first whether the teacher stays on disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from tinylm.inherit.calibration import DEPTH_TOKENS
from tinylm.inherit.criteria import CRITERIA, OBS_TOKENS, TAYLOR_TOKENS
from tinylm.inherit.depth import CANDIDATES
from tinylm.inherit.layers import LAYER_RULES
from tinylm.inherit.masks import MaskTraining
from tinylm.inherit.memory import BATCH, activation_bytes, must_recompute
from tinylm.inherit.options import Streaming
from tinylm.inherit.repair import REPAIRS
from tinylm.machine import free_bytes, peak_flops, peak_memory
from tinylm.models.cost import forward_flops
from tinylm.models.parameters import parameters, parameters_by_part
from tinylm.models.shape import Shape
from tinylm.render.numbers import hours


@dataclass(frozen=True)
class Job:
    """What is asked of a teacher of ``teacher``'s shape. ``chunks`` of ``length`` tokens."""

    teacher: Shape
    target: Shape
    dtype: torch.dtype
    device: torch.device
    chunks: int
    length: int
    criterion: str
    layers: str
    repair: Sequence[str]
    scored: bool = False  # scores of an earlier run are given

    @property
    def tokens(self) -> int:
        return self.chunks * self.length

    @property
    def widths(self) -> tuple[int, int]:
        """Numbers that go into the two matrices of a student's layer that the refit solves."""
        return self.target.num_attention_heads * self.target.head_dim, self.target.intermediate_size

    @property
    def refits(self) -> bool:
        return any(REPAIRS[name].keeps_states for name in self.repair)


def memory(job: Job, streamed: bool) -> dict[str, int]:
    """Bytes of each part at the peak, which is in the scoring or in the refit."""
    teacher, size = job.teacher, job.dtype.itemsize
    whole, student = parameters(teacher) * size, parameters(job.target) * size
    parts = parameters_by_part(teacher)
    outside = (parts["embedding"] + parts["head"] + teacher.hidden_size) * size
    layer = (whole - outside) // teacher.num_layers
    state = teacher.hidden_size * size  # of a token between two layers
    if streamed:
        models = {"teacher outside its layers": outside}
        scored = min(job.tokens, max(TAYLOR_TOKENS, DEPTH_TOKENS))
        scoring = {
            "one layer": layer,
            "states between layers": scored * (teacher.num_layers + 2) * state,
            "activations of one": activation_bytes(teacher, job.dtype, BATCH * job.length, True)
            - BATCH * job.length * teacher.num_layers * state,
        }
        rows = job.length
    else:
        models = {"teacher": whole}
        rows = BATCH * job.length
        recompute = must_recompute(teacher, job.dtype, rows, job.device)
        scoring = {"activations": activation_bytes(teacher, job.dtype, rows, recompute)}
    # them, two gradients, float32 log-softmax
    scoring["logits"] = rows * teacher.vocab_size * (3 * size + 4)
    if job.criterion == "obs":
        scoring["gradients by layer"] = 4 * teacher.num_layers * teacher.hidden_size**2
        scoring["states for obs"] = 2 * min(job.tokens, OBS_TOKENS) * state
        # one layer's units: x^T x in float32, its inverse in float64 and what replaces it
        scoring["equations of one layer"] = 28 * teacher.intermediate_size**2
    repairing = {"student": student}
    if job.refits:
        # as it was, to go back to where the refit does harm
        matrices = job.target.num_layers * job.target.hidden_size * sum(job.widths) * size
        repairing["what the refit changes"] = matrices
        # the streams of both, before and after a layer
        narrow = job.target.hidden_size * size
        repairing["states for the refit"] = job.tokens * 2 * (state + narrow)
        # x^T x in float32 and float64 with its factor, and as much of the errors: of the widest
        widest = max(job.widths)
        repairing["its equations"] = 24 * widest**2 + 20 * widest * job.target.hidden_size
    if job.scored:
        scoring = {}
    return models | max(scoring, repairing, key=lambda part: sum(part.values()))


def arithmetic(job: Job, streamed: bool) -> dict[str, float]:
    """FLOPs of each part. A way back costs as much as a way there, since weights are frozen, and
    the way there once more where layers run again."""
    teacher, target = job.teacher, job.target
    a_token = forward_flops(teacher, job.length)
    head = 2 * teacher.vocab_size * teacher.hidden_size
    body = a_token - head
    again = streamed or must_recompute(teacher, job.dtype, BATCH * job.length, job.device)
    there_and_back = (3 if again else 2) * a_token
    few = min(job.tokens, TAYLOR_TOKENS)
    parts: dict[str, float] = {}
    if not job.scored:
        units, rule = CRITERIA[job.criterion], LAYER_RULES[job.layers]
        if units.from_text is not None:
            passes = a_token if job.criterion == "activation" else there_and_back
            parts[job.criterion] = few * passes
        if job.criterion == "obs":
            parts["obs"] += _elimination(job, body)
        if units.learned or rule.learned:
            steps = MaskTraining().steps
            parts["learned masks"] = steps * BATCH * job.length * there_and_back
        if rule.from_text is not None:
            walks = _walks(job.layers, teacher.num_layers, target.num_layers)
            # the head at every fourth token
            parts[job.layers] = min(job.tokens, DEPTH_TOKENS) * walks * (body + head / 4)
    if job.refits:
        # the teacher through its layers, and once more to the o_proj of those that stay; the
        # student to each of its two matrices, and through
        seen = 1 + _attention_share(teacher) * target.num_layers / teacher.num_layers
        through = forward_flops(target, job.length) - 2 * target.vocab_size * target.hidden_size
        student = through * (2 + _attention_share(target))
        squares = sum(width * (width + 2 * target.hidden_size) for width in job.widths)
        equations = 2 * target.num_layers * squares
        parts["refit"] = job.tokens * (seen * body + student + equations)
    return parts


def _elimination(job: Job, body: float) -> float:
    """A walk through the layers, the two Gram matrices of each, and the updates as units go."""
    teacher = job.teacher
    hidden, units = teacher.hidden_size, teacher.intermediate_size
    tokens = min(job.tokens, OBS_TOKENS)
    grams = 2 * min(job.tokens, TAYLOR_TOKENS) * hidden**2 + 2 * tokens * units**2
    updates = 2 / 3 * units**3 + hidden * units**2 + 2 * hidden**2 * units
    return tokens * body + teacher.num_layers * (grams + updates)


def _attention_share(shape: Shape) -> float:
    parts = parameters_by_part(shape)
    return parts["attention"] / (parts["attention"] + parts["ffn"])


def _walks(rule: str, layers: int, kept: int) -> float:
    """Walks through the whole teacher that a layer rule takes, in tokens of its text."""
    if rule == "similarity":
        return 1
    passed = layers + layers * (layers - 1) / 2  # the stream, and one round each layer
    for left in range(layers - 1, kept, -1) if rule == "greedy" else ():
        passed += left + min(CANDIDATES, left) * (left - 1) / 2
    return passed / layers


def is_streamed(job: Job, stream: Streaming) -> bool:
    """Whether the teacher's layers stay on disk: with "auto" when the job with all its weights in
    memory takes more than is free."""
    if stream == "auto":
        return sum(memory(job, streamed=False).values()) > free_bytes(job.device)
    return stream == "always"


def compare(job: Job, streamed: bool, seconds: Mapping[str, float]) -> str:
    """What it took, by part, beside the least that was told before, and the most memory that this
    process has held."""
    parts = ", ".join(f"{name} {hours(value)}" for name, value in seconds.items())
    least = sum(arithmetic(job, streamed).values()) / peak_flops(job.device, job.dtype)
    held = peak_memory(job.device) / 1e9
    return (
        f"{hours(sum(seconds.values()))} ({parts}); {hours(least)} was the least. At the peak this"
        f" process held {held:.1f} GB"
    )


def describe(job: Job, streamed: bool) -> str:
    """The lines for the terminal."""
    parts, free = memory(job, streamed), free_bytes(job.device)
    listed = " + ".join(f"{name} {size / 1e9:.1f}" for name, size in parts.items())
    flops = arithmetic(job, streamed)
    speed = peak_flops(job.device, job.dtype)
    spent = " + ".join(f"{name} {hours(value / speed)}" for name, value in flops.items())
    how = ", the teacher's layers read from disk one at a time" if streamed else ""
    rows = BATCH * job.length
    if not streamed and must_recompute(job.teacher, job.dtype, rows, job.device):
        how = "; layers run twice to keep it so"
    lines = [
        f"memory: about {sum(parts.values()) / 1e9:.1f} GB ({listed}), {free / 1e9:.1f} GB"
        f" free{how}"
    ]
    if flops:
        total = hours(sum(flops.values()) / speed)
        lines.append(
            f"time: {total} or more ({spent}, at the {speed / 1e9:,.0f} GFLOP/s of a matrix product"
            " here)"
        )
    return "\n".join(lines)
