"""The third formula as one function: score the teacher, choose what stays, cut, repair, check."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinylm.errors import InputError, WorkError
from tinylm.inherit.calibration import chunks_with_numbers
from tinylm.inherit.cut import Kept, build, check_target, cut, student_config
from tinylm.inherit.repair import check_repairs, repair_student
from tinylm.inherit.score import needs_text, score
from tinylm.inherit.scores import Scores
from tinylm.inherit.select import select
from tinylm.inherit.stack import Stack
from tinylm.models import families
from tinylm.models.save import save_model
from tinylm.models.shape import Shape
from tinylm.terminal import console


@dataclass
class Inherited:
    """What :func:`inherit` returns."""

    model: Any  # PreTrainedModel of the target shape on the CPU, eval mode, the teacher's dtype
    scores: Scores
    kept: Kept
    seconds: dict[str, float]
    repair_losses: dict[str, float] = field(default_factory=dict)  # of :func:`repair_student`


def inherit(
    teacher: Any,
    shape: Shape,
    calibration_ids: Tensor | None = None,
    criterion: str = "taylor",
    layers: str = "skip-loss",
    *,
    repair: Sequence[str] = ("norms", "refit"),
    scores: Scores | None = None,
    vocab: Tensor | None = None,
    seed: int = 0,
) -> Inherited:
    """A student of exactly ``shape`` that starts from the teacher's weights.

    Args:
        teacher: a `transformers` causal language model in eval mode, on the CPU or a GPU; bf16 is
            fastest where it has AMX. Or a :class:`~tinylm.inherit.stack.Stack`, whose weights may
            lie on disk.
        shape: the target. Its vocabulary is the teacher's, or ``vocab`` names the teacher ids kept,
            int64 [vocab_size].
        calibration_ids: int64 [chunks, T], full chunks of packed text. Not needed for random / l1 /
            l2 with first-last layers and no repair.
        criterion, layers: how units and layers are scored (``CRITERIA``, ``LAYER_RULES``); not used
            with ``scores``.
        repair: which of ``REPAIRS`` run after the cut.
        scores: from an earlier run or ``Scores.load``: only the cut and the repair are done.
    Raises:
        InputError: a target that cannot be cut from this teacher, calibration missing or too short,
            NaN weights.
    """
    stack = Stack.of(teacher)
    _check(stack, shape, calibration_ids, vocab)
    needs_text(criterion, layers)  # refuses names that are in no table
    check_repairs(repair)

    def scored(chunks: Tensor | None) -> Scores:
        return scores or score(stack, chunks, criterion, layers, target=shape, seed=seed)

    def made(found: Scores, chunks: Tensor | None) -> Inherited:
        inherited = _cut_and_repair(stack, shape, chunks, repair, found, vocab)
        if scores is None:
            inherited.seconds = {"score": found.metadata["seconds"], **inherited.seconds}
        return inherited

    if calibration_ids is None:
        return made(scored(None), None)
    known = stack.progress.get("usable text")
    chunks = calibration_ids if known is None else calibration_ids[known["chunks"]]
    with suppress(torch.linalg.LinAlgError):  # equations with NaN have no solution
        found = scored(chunks)
        if found.are_finite():
            inherited = made(found, chunks)
            numbers = [*inherited.model.parameters(), *inherited.repair_losses.values()]
            if all(torch.isfinite(torch.as_tensor(number)).all() for number in numbers):
                return inherited
    usable = chunks_with_numbers(stack, chunks)
    if not len(usable):
        raise InputError(
            "the teacher makes NaN or infinity of all calibration text: its weights are damaged"
        )
    if len(usable) == len(chunks):
        raise InputError(
            "scores or repaired weights are not finite though the teacher's states are: use another"
            " criterion or repair"
        )
    console.print(
        f"[yellow]{len(chunks) - len(usable)} of {len(chunks)} calibration chunks make NaN or"
        " infinity in the teacher: left out[/]"
    )
    stack.progress.clear()
    stack.progress.put("usable text", {"chunks": usable})
    return made(scored(chunks[usable]), chunks[usable])


def _check(
    stack: Stack, shape: Shape, calibration_ids: Tensor | None, vocab: Tensor | None
) -> None:
    """InputError for what cannot be cut; before anything is scored."""
    model, config = stack.model, stack.model.config
    teacher_shape = Shape.from_config(config)
    families.check_weights({name: tuple(p.shape) for name, p in model.named_parameters()}, config)
    check_target(teacher_shape, shape, vocab)
    student_config(config, shape)  # what the family refuses must not cost the scoring
    largest = -1 if calibration_ids is None else int(calibration_ids.max())
    if largest >= teacher_shape.vocab_size:
        raise InputError(
            f"the calibration text holds token id {largest}, the teacher's embedding has"
            f" {teacher_shape.vocab_size} rows: leave out texts that spell a token without a row"
        )


def _cut_and_repair(
    stack: Stack,
    shape: Shape,
    chunks: Tensor | None,
    repair: Sequence[str],
    scores: Scores,
    vocab: Tensor | None,
) -> Inherited:
    model, teacher = stack.model, Shape.from_config(stack.model.config)
    seconds = {}
    scores.check(teacher, shape)
    started = time.perf_counter()
    kept = select(scores, teacher, shape, vocab)
    weights = cut(stack.tensors(), model.config, shape, kept)
    student = build(weights, model.config, shape, kept, model.dtype, model.generation_config)
    student.to(model.device)  # where the repairs compute
    seconds["cut"] = time.perf_counter() - started
    started = time.perf_counter()
    losses = repair_student(student, stack, kept, chunks, repair)
    seconds["repair"] = time.perf_counter() - started
    return Inherited(student.cpu(), scores, kept, seconds, losses)


def save(result: Inherited, out: Path, tokenizer: Any = None) -> None:
    """Write the student as a `transformers` directory into the existing folder ``out``, with scores
    and kept indices.

    The written model is loaded again in plain `transformers`; WorkError when its logits are not the
    same to the bit.
    """
    from safetensors.torch import save_file

    save_model(result.model, out)
    if tokenizer is not None:
        tokenizer.save_pretrained(out)
    result.scores.save(Path(out) / "scores")
    save_file(result.kept.tensors(), Path(out) / "scores" / "kept.safetensors")
    check_reload(result.model, out)


@torch.no_grad()
def check_reload(model: Any, folder: Path) -> None:
    """WorkError unless the model in ``folder`` gives exactly the logits of ``model``."""
    from transformers import AutoModelForCausalLM

    answer: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=model.dtype, output_loading_info=True
    )
    loaded, info = answer
    ids = torch.randint(
        model.config.vocab_size, (2, 32), generator=torch.Generator().manual_seed(0)
    )
    if info["missing_keys"] or info["unexpected_keys"]:
        raise WorkError(
            f"{folder}: reloading misses or does not know"
            f" {[*info['missing_keys'], *info['unexpected_keys']]}"
        )
    here, there = model(input_ids=ids).logits, loaded.eval()(input_ids=ids).logits
    if not torch.equal(here, there):
        raise WorkError(
            f"{folder}: logits after reloading differ by up to"
            f" {float((here - there).abs().max()):.3g}"
        )
    console.print("reloaded what was written: logits are the same to the bit")
