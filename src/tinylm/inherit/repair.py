"""Repair after the cut: give the student back what index selection took from it. Nothing here
trains by gradient.

A repair is one entry of ``REPAIRS``, run in their order. On 16 calibration chunks or more each is
judged on text that it did not see, and taken back where it does not help.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tinylm.errors import InputError
from tinylm.terminal import console

HELD_OUT = 4  # calibration chunks that repairs do not see
NORM_CHUNKS = 8  # calibration chunks that the rms of a norm's input is measured on


@dataclass(frozen=True)
class RepairStep:
    """``run`` changes a student in place, from (student, teacher, kept, chunks int64 [N, T])."""

    run: Callable[[Any, Any, Any, Any], None]
    # (student, teacher): whether the cut left it anything to do
    applies: Callable[[Any, Any], bool] = lambda student, teacher: True
    changes: tuple[str, ...] = ("",)  # the weights it changes have one of these in their names
    replaces: str = ""  # a smaller repair that this one contains
    keeps_states: bool = False  # holds the teacher's hidden states of all its text at once


def _norms(student: Any, teacher: Any, kept: Any, chunks: Any) -> None:
    from tinylm.inherit.norms import norm_gains

    norm_gains(student, teacher, kept, chunks[:NORM_CHUNKS])


def _norms_apply(student: Any, teacher: Any) -> bool:
    from tinylm.models.families import norms_go_over_heads

    narrower = student.config.hidden_size < teacher.config.hidden_size
    fewer = student.config.num_attention_heads < teacher.config.num_attention_heads
    return narrower or (fewer and norms_go_over_heads(teacher.config))


def _refit(student: Any, teacher: Any, kept: Any, chunks: Any) -> None:
    from tinylm.inherit.refit import refit

    refit(student, teacher, kept, chunks)


def _refit_all(student: Any, teacher: Any, kept: Any, chunks: Any) -> None:
    from tinylm.inherit.refit import INPUT_GROUPS, refit

    refit(student, teacher, kept, chunks, [name for group in INPUT_GROUPS for name in group])


REPAIRS: dict[str, RepairStep] = {
    # RMSNorm divides by the rms of fewer numbers: each gain is scaled by what that changes
    "norms": RepairStep(_norms, _norms_apply, changes=("norm",)),
    # every matrix of a layer is solved again by least squares
    "refit-all": RepairStep(_refit_all, changes=("proj",), replaces="refit", keeps_states=True),
    # the two that write to the residual stream
    "refit": RepairStep(_refit, changes=("o_proj", "down_proj"), keeps_states=True),
}
if TYPE_CHECKING:
    Repair = str
else:
    Repair = Literal[tuple(REPAIRS)]


def check_repairs(names: Sequence[str]) -> None:
    """InputError for a name that is not among ``REPAIRS``."""
    for name in names:
        if name not in REPAIRS:
            raise InputError(f"repair {name!r} is unknown: choose {', '.join(REPAIRS)}")


def repair_student(
    student: Any, teacher: Any, kept: Any, calibration_ids: Any, which: Sequence[str]
) -> dict[str, float]:
    """Run the repairs named in ``which`` on ``student`` in place; the embedding scale is always
    kept right.

    With 16 calibration chunks or more the last 4 are held out: a repair that does not lower the
    loss on them is taken back. Returns that loss, nats per token, after the "cut" and after each
    repair; {} when it was not measured (fewer chunks, or a vocabulary that is cut here, so that the
    chunks are not the student's ids).
    """
    import torch

    from tinylm.inherit.calibration import usable_chunks
    from tinylm.inherit.norms import embedding_scale
    from tinylm.inherit.stack import Stack
    from tinylm.inherit.units import fast_matmul

    stack = Stack.of(teacher)
    model = stack.model
    embedding_scale(student, model.config.hidden_size)
    asked = {name: REPAIRS[name] for name in REPAIRS if name in which}
    contained = {step.replaces for step in asked.values()}
    steps = {
        name: step
        for name, step in asked.items()
        if name not in contained and step.applies(student, model)
    }
    if not steps:
        return {}
    chunks = usable_chunks(calibration_ids, ", ".join(steps))
    judged = len(chunks) >= 4 * HELD_OUT and kept.vocab is None
    chunks, held_out = (chunks[:-HELD_OUT], chunks[-HELD_OUT:]) if judged else (chunks, None)
    losses: dict[str, float] = {}
    with fast_matmul(model), torch.no_grad():
        if held_out is not None:
            losses["cut"] = _loss(student, held_out)
        for name, step in steps.items():
            before = {
                name: weight.clone()
                for name, weight in student.named_parameters()
                if judged and any(part in name for part in step.changes)
            }
            step.run(student, stack, kept, chunks)
            if held_out is None:
                continue
            lowest, losses[name] = min(losses.values()), _loss(student, held_out)
            if not losses[name] <= lowest:
                student.load_state_dict(before, strict=False)
                console.print(
                    f"[yellow]repair {name} was taken back: it raises the loss on held-out text[/]"
                )
    if losses:
        told = ", ".join(f"{loss:.3f} after {name}" for name, loss in losses.items())
        console.print(
            f"loss on {HELD_OUT} held-out chunks, nats per token: {told}", highlight=False
        )
    return losses


def _loss(student: Any, chunks: Any) -> float:
    from tinylm.inherit.depth import LOSS_STRIDE
    from tinylm.inherit.units import token_losses

    return float(token_losses(student, chunks.to(student.device), LOSS_STRIDE).mean())
