"""What each stage of a run costs beside the training itself: text through Python, passes of the
teacher, evaluation. For `tinylm run RECIPE --dry-run`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tinylm.corpus.read import expand, is_local
from tinylm.evaluate.tasks.catalog import choose
from tinylm.inherit import bill
from tinylm.machine import cores
from tinylm.models import teacher as teachers
from tinylm.models.cost import forward_flops
from tinylm.models.parameters import parameters
from tinylm.models.shape import Shape
from tinylm.pipeline.recipe import Recipe
from tinylm.render.numbers import hours, millions
from tinylm.tokenizer.count import estimated_bytes
from tinylm.train.rounds import first_round_share, foreseen_rounds, uses_teacher

# bytes of text a second: .jsonl read, split and deduplicated by one core, and by as many as the
# first, which writes, can wait for (docs/measured.md); counted or packed by gigatoken, AMD EPYC
# (Zen 5), benchmarks/pack.py
SPLIT, SPLIT_AT_MOST, COUNT, PACK = 30e6, 113e6, 45e6, 45e6
BYTES_A_TOKEN = 4.3  # of English
# up to which repeated text is worth about as much as fresh text (arXiv 2305.16264)
MANY_EPOCHS = 4
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
    found += _teacher_in_training(recipe, teacher, student, note)
    scored = {"teacher": teacher, "compact teacher": teacher, "inherited": student}
    scored |= {"student": student} | ({"control": student} if recipe.has_control() else {})
    tokens = recipe.corpus.eval_bytes / BYTES_A_TOKEN
    flops = sum(forward_flops(shape, SCORED_AT_ONCE) for shape in scored.values()) * tokens
    text = f"{len(scored)} models on {recipe.corpus.eval_bytes / 1e6:.2g} MB of held-out text"
    found.append(StageCost("bits per byte", text + note, flops, spread=True))
    if recipe.evaluate.tasks:
        items = len(choose(recipe.evaluate.tasks)) * recipe.evaluate.limit
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
            f" {hours(stage.on(device, devices))} with {named}"
            if stage.flops or stage.seconds
            else stage.what,
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
    speed = min(SPLIT * cores(), SPLIT_AT_MOST)
    return [
        StageCost("corpus", f"{gigabytes} read, deduplicated and split", seconds=size / speed),
        StageCost("count tokens", f"{gigabytes} tokenised meanwhile", seconds=size / COUNT),
        StageCost("compact tokenizer", "rows of two matrices", seconds=COMPACTION),
        StageCost("pack", f"{gigabytes} tokenised", seconds=size / PACK),
    ]


def text_bytes(recipe: Recipe) -> float:
    """Bytes of text that the recipe reads: at most what it allows, or what lies there; 0: not
    known."""
    paths, most = recipe.corpus.paths, recipe.corpus.max_bytes
    if not most:
        expand([path for path in paths if is_local(path)], recipe.corpus.text_key)
    sizes = [source_bytes(path) for path in paths]
    size = float(sum(sizes)) if all(sizes) else 0.0
    return min(size, most) if size and most else size or float(most)


def source_bytes(path: str) -> int:
    """Bytes of text in one path of a corpus; 0: not known."""
    return int(estimated_bytes([path]) or 0) if Path(path).exists() else 0


def passes_over_text(recipe: Recipe, tokens: int) -> list[tuple[str, float]]:
    """(path, about how often training on ``tokens`` reads its text), or one entry for all paths
    where there are no weights; those whose size is known."""
    config = recipe.corpus
    if config.weights:
        shares = [weight / sum(config.weights) for weight in config.weights]
        sizes = [
            min(source_bytes(path), config.max_bytes * share or float("inf"))
            for path, share in zip(config.paths, shares)
        ]
        parts = list(zip(config.paths, shares, sizes))
    else:
        parts = [("", 1.0, text_bytes(recipe))]
    held = BYTES_A_TOKEN / (1 - config.valid_fraction)
    return [(path, tokens * share * held / size) for path, share, size in parts if size and share]


def _teacher_in_training(
    recipe: Recipe, teacher: Shape, student: Shape, note: str
) -> list[StageCost]:
    """The compact teacher beside the student: its logits, its losses between rounds."""
    config = recipe.train
    tokens = config.steps * config.tokens_per_batch
    first = tokens * first_round_share(config)
    read = {"live": tokens, "stored": first}.get(config.distillation, 0.0)
    read += first * (foreseen_rounds(config) - 1) if uses_teacher(config) else 0.0
    if not read:
        return []
    compact = replace(teacher, vocab_size=student.vocab_size)
    flops = forward_flops(compact, config.sequence_length) * read
    return [StageCost("teacher's passes", f"{millions(read)} tokens{note}", flops, spread=True)]


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
