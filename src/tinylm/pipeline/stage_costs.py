"""What each stage of a run costs beside the training itself: text through Python, passes of the
teacher, evaluation. For `tinylm run RECIPE --dry-run`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tinylm.inherit import bill
from tinylm.models import teacher as teachers
from tinylm.models.cost import forward_flops
from tinylm.models.parameters import parameters
from tinylm.models.shape import Shape
from tinylm.pipeline.recipe import Recipe
from tinylm.render.numbers import hours, millions
from tinylm.tokenizer.count import estimated_bytes

# bytes of text a second, one process: reading and splitting .jsonl; reading it again and counting,
# or packing, by gigatoken. AMD EPYC (Zen 5), benchmarks/pack.py
SPLIT, COUNT, PACK = 60e6, 45e6, 45e6
BYTES_A_TOKEN = 4.3  # of English
ITEM_TOKENS = 400  # of a task: its choices, each with the question
SCORED_AT_ONCE = 2048  # tokens of held-out text that see each other
COMPACTION = 30.0  # s: reading and writing a tokenizer and two matrices


@dataclass(frozen=True)
class StageCost:
    """One stage. ``flops`` are of one device, or of all where ``spread``."""

    name: str
    what: str
    flops: float = 0.0
    seconds: float = 0.0  # of this machine's processor, beside the arithmetic
    spread: bool = False

    def on(self, flops_per_second: float, devices: int = 1) -> float:
        """Seconds on ``devices`` of that speed each."""
        return self.seconds + self.flops / flops_per_second / (devices if self.spread else 1)


def stage_costs(recipe: Recipe, student: Shape) -> list[StageCost]:
    """Every stage of ``recipe`` that costs something, training left out."""
    teacher, note = teacher_shape(recipe.teacher, student)
    found = _text(recipe)
    if recipe.inherit.init == "inherit":
        found.append(_inherit(recipe, teacher, student, note))
    scored = {"teacher": teacher, "compact teacher": teacher, "inherited": student}
    scored |= {"student": student} | ({"control": student} if recipe.has_control() else {})
    tokens = recipe.corpus.eval_bytes / BYTES_A_TOKEN
    flops = sum(forward_flops(shape, SCORED_AT_ONCE) for shape in scored.values()) * tokens
    text = f"{len(scored)} models on {recipe.corpus.eval_bytes / 1e6:.2g} MB of held-out text"
    found.append(StageCost("bits per byte", text + note, flops, spread=True))
    if recipe.evaluate.tasks:
        items = len(recipe.evaluate.tasks) * recipe.evaluate.limit
        chosen = [teacher, student, *([student] if recipe.has_control() else [])]
        flops = sum(forward_flops(shape, ITEM_TOKENS) for shape in chosen) * items * ITEM_TOKENS
        what = f"{len(chosen)} models on {items:,} items of about {ITEM_TOKENS} tokens"
        found.append(StageCost("tasks", what + note, flops, spread=True))
    return found


def teacher_shape(spec: str, student: Shape) -> tuple[Shape, str]:
    """The teacher's shape, and a word where it is only known by its name ("8B") or not at all."""
    folder = teachers.here(spec)
    if folder is not None:
        return Shape.from_config(teachers.load_config(folder)), ""
    named = re.findall(r"(\d+(?:\.\d+)?)([BM])(?![a-z])", Path(spec).name, re.IGNORECASE)
    size = float(named[-1][0]) * (1e9 if named[-1][1] in "Bb" else 1e6) if named else 0.0
    if not size:
        return student, " (the teacher is not here yet: counted as small as the student)"
    # 32 layers of Llama's proportions: 12 numbers a layer and square of the width
    width = max(1, round((size / 32 / 12) ** 0.5 / 128)) * 128
    heads = width // 128
    assumed = Shape(32, width, round(8 / 3 * width), heads, heads, 128, student.vocab_size, False)
    return assumed, f" (a teacher of {millions(parameters(assumed))}, by its name)"


def describe(stages: Sequence[StageCost], machine: float, device: float, devices: int) -> list[Any]:
    """(stage, words) lines; ``machine`` and ``device`` in FLOP/s."""
    named = f"{devices} such devices" if devices > 1 else "such a device"
    return [
        (
            stage.name,
            f"{stage.what}: {hours(stage.on(machine))} on this machine,"
            f" {hours(stage.on(device, devices))} with {named}",
        )
        for stage in stages
    ]


def _text(recipe: Recipe) -> list[StageCost]:
    """Reading, counting and packing; nothing where the amount of text is not known yet."""
    size = text_bytes(recipe)
    if not size:
        what = "as much text as there is: known when it is read"
        return [StageCost("corpus, counts, pack", what)]
    gigabytes = f"{size / 1e9:,.3g} GB of text"
    return [
        StageCost("corpus", f"{gigabytes} read, deduplicated and split", seconds=size / SPLIT),
        StageCost("count tokens", f"{gigabytes} tokenised", seconds=size / COUNT),
        StageCost("compact tokenizer", "rows of two matrices", seconds=COMPACTION),
        StageCost("pack", f"{gigabytes} tokenised", seconds=size / PACK),
    ]


def text_bytes(recipe: Recipe) -> float:
    """Bytes of text that the recipe reads: at most what it allows, or what lies there; 0: not
    known."""
    paths = recipe.corpus.paths
    here = all(Path(path).exists() for path in paths)
    size = float(estimated_bytes(paths) or 0) if here else 0.0
    most = recipe.corpus.max_bytes
    return min(size, most) if size and most else size or float(most)


def _inherit(recipe: Recipe, teacher: Shape, student: Shape, note: str) -> StageCost:
    config = recipe.inherit
    job = bill.Job(
        teacher,
        student,
        torch.bfloat16,
        torch.device("cpu"),
        chunks=config.calibration_chunks,
        length=config.calibration_length,
        criterion=config.criterion,
        layers=config.layers,
        repair=config.repair,
    )
    streamed = bill.is_streamed(job, "auto")
    needed = sum(bill.memory(job, streamed).values())
    how = ", its layers read from disk" if streamed else ""
    what = f"scoring, cut and repair, {needed / 1e9:.0f} GB of memory{how}{note}"
    return StageCost("inherit", what, sum(bill.arithmetic(job, streamed).values()))
