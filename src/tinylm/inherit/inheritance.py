"""The third formula as one function: score the teacher, choose what stays, cut, repair, check."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinylm.errors import InputError, WorkError
from tinylm.inherit import criteria, depth, masks
from tinylm.inherit.cut import Kept, build, check_target, cut, model_weights, student_config
from tinylm.inherit.repair import INPUT_GROUPS, embedding_scale, norm_gains, refit
from tinylm.inherit.scores import Scores
from tinylm.inherit.select import best, select
from tinylm.models import families
from tinylm.models.shape import Shape
from tinylm.terminal import console

CRITERIA = ("random", "l1", "l2", "taylor", "activation", "learned")
LAYERS = ("first-last", "skip-loss", "greedy", "similarity", "learned")
REPAIRS = ("norms", "refit", "refit-all")
TAYLOR_TOKENS = 8192  # calibration tokens for unit scores: the ranking hardly moves beyond
HELD_OUT = 4  # calibration chunks that repairs do not see
DEPTH_TOKENS = 2048  # calibration tokens for layer importance: it costs a forward pass a layer


@dataclass
class Inherited:
    """What :func:`inherit` returns."""

    model: Any  # PreTrainedModel of the target shape, eval mode, the teacher's dtype
    scores: Scores
    kept: Kept
    seconds: dict[str, float]
    repair_losses: dict[str, float] = field(default_factory=dict)  # of :func:`repair_student`


def inherit(
    teacher: Any,
    shape: Shape,
    calibration_ids: Tensor | None = None,
    criterion: str = "taylor",
    layers: str = "greedy",
    *,
    repair: Sequence[str] = ("norms", "refit"),
    scores: Scores | None = None,
    vocab: Tensor | None = None,
    seed: int = 0,
) -> Inherited:
    """A student of exactly ``shape`` that starts from the teacher's weights.

    Args:
        teacher: a `transformers` causal language model in eval mode, on the CPU; bf16 is fastest
            where it has AMX.
        shape: the target. Its vocabulary is the teacher's, or ``vocab`` names the teacher ids kept,
            int64 [vocab_size].
        calibration_ids: int64 [chunks, T], full chunks of packed text. Not needed for random / l1 /
            l2 with first-last layers and no repair.
        criterion, layers: how units and layers are scored (``CRITERIA``, ``LAYERS``); not used with
            ``scores``.
        repair: which of ``REPAIRS`` run after the cut; refit solves two matrices of each layer,
            refit-all every one.
        scores: from an earlier run or ``Scores.load``: only the cut and the repair are done.
    Raises:
        InputError: a target that cannot be cut from this teacher, calibration missing or too short,
            NaN weights.
    """
    teacher_shape = Shape.from_config(teacher.config)
    families.check_weights(
        {name: tuple(p.shape) for name, p in teacher.named_parameters()}, teacher.config
    )
    check_target(teacher_shape, shape, vocab)
    student_config(teacher.config, shape)  # what the family refuses must not cost the scoring
    if teacher.device.type != "cpu":
        raise InputError(
            f"the teacher is on {teacher.device}: inheritance works on the CPU, call teacher.cpu()"
            " first"
        )
    _check_choices(criterion, layers, repair)
    seconds: dict[str, float] = {}
    if scores is None:
        scores = score(teacher, calibration_ids, criterion, layers, target=shape, seed=seed)
        seconds["score"] = scores.about["seconds"]
    scores.check(teacher_shape, shape)
    started = time.perf_counter()
    kept = select(scores, teacher_shape, shape, vocab)
    weights = cut(model_weights(teacher), teacher.config, shape, kept)
    student = build(weights, teacher.config, shape, kept, teacher.dtype, teacher.generation_config)
    seconds["cut"] = time.perf_counter() - started
    started = time.perf_counter()
    losses = repair_student(student, teacher, kept, calibration_ids, repair)
    seconds["repair"] = time.perf_counter() - started
    return Inherited(student, scores, kept, seconds, losses)


def score(
    teacher: Any,
    calibration_ids: Tensor | None,
    criterion: str = "taylor",
    layers: str = "greedy",
    *,
    target: Shape | None = None,
    seed: int = 0,
) -> Scores:
    """Score every unit and layer of ``teacher``; arguments as in :func:`inherit`.

    ``target`` says how far greedy removes layers and where learned masks must end; learned scores
    fit that shape only.
    """
    _check_choices(criterion, layers, ())
    shape = Shape.from_config(teacher.config)
    if "learned" in (criterion, layers) and target is None:
        raise InputError(
            "learned masks need the target shape: scores of learned masks fit one shape only"
        )
    started = time.perf_counter()
    history: list[dict[str, float]] = []
    with fast_matmul(teacher):
        units = _unit_scores(
            teacher, calibration_ids, "taylor" if criterion == "learned" else criterion, seed
        )
        if layers != "learned":
            importance = _layer_importance(
                teacher, calibration_ids, layers, target.num_layers if target else 1
            )
        if "learned" in (criterion, layers):
            assert target is not None
            chosen = None if layers == "learned" else best(importance, target.num_layers).tolist()
            learned = masks.learn(
                teacher,
                _calibration(calibration_ids, "learned masks"),
                target,
                start=units,
                layers=chosen,
                seed=seed,
            )
            history = learned.history
            if criterion == "learned":
                units |= {axis: values for axis, values in learned.scores.items() if axis in units}
            if layers == "learned":
                importance = learned.scores.get(masks.LAYERS, torch.zeros(shape.num_layers))
    about = {
        "criterion": criterion,
        "layers": layers,
        "calibration_tokens": 0 if calibration_ids is None else calibration_ids.numel(),
        "teacher": shape.to_dict(),
        "seconds": time.perf_counter() - started,
    }
    if history and target:
        about |= {"masks": history, "target": target.to_dict()}
    return Scores(
        units[families.FFN], units[families.Q_HEADS], units[families.HIDDEN], importance, about
    )


def _unit_scores(
    teacher: Any, calibration_ids: Tensor | None, criterion: str, seed: int
) -> dict[str, Tensor]:
    if criterion == "random":
        return criteria.random(Shape.from_config(teacher.config), seed)
    if criterion in ("l1", "l2"):
        return criteria.weight_norm(model_weights(teacher), teacher.config, int(criterion[1]))
    chunks = _first(calibration_ids, criterion, TAYLOR_TOKENS)
    return (criteria.taylor if criterion == "taylor" else criteria.activation)(teacher, chunks)


def _layer_importance(
    teacher: Any, calibration_ids: Tensor | None, layers: str, target_layers: int
) -> Tensor:
    total = len(teacher.base_model.layers)
    if layers == "first-last":
        return depth.first_last(total)
    few = _first(calibration_ids, layers, DEPTH_TOKENS)
    if layers == "similarity":
        return depth.similarity(teacher, few)
    if layers == "skip-loss":
        return depth.skip_loss(teacher, few)
    return depth.greedy(teacher, few, target_layers)


def repair_student(
    student: Any, teacher: Any, kept: Kept, calibration_ids: Tensor | None, which: Sequence[str]
) -> dict[str, float]:
    """Run the repairs named in ``which`` on ``student`` in place; the embedding scale is always
    kept right.

    With 16 calibration chunks or more the last 4 are held out: a repair that does not lower the
    loss on them is taken back. Returns that loss, nats per token, after the "cut" and after each
    repair; {} when it was not measured (fewer chunks, or a vocabulary that is cut here, so that the
    chunks are not the student's ids).
    """
    embedding_scale(student, teacher.config.hidden_size)
    repairs: dict[str, Callable[[Tensor], None]] = {}
    narrower = student.config.hidden_size < teacher.config.hidden_size
    fewer = student.config.num_attention_heads < teacher.config.num_attention_heads
    if "norms" in which and (narrower or (fewer and families.norms_go_over_heads(teacher.config))):
        repairs["norms"] = lambda chunks: norm_gains(student, teacher, kept, chunks[:8])
    if "refit-all" in which:
        every = [name for group in INPUT_GROUPS for name in group]
        repairs["refit-all"] = lambda chunks: refit(student, teacher, kept, chunks, every)
    elif "refit" in which:
        repairs["refit"] = lambda chunks: refit(student, teacher, kept, chunks)
    if not repairs:
        return {}
    chunks = _calibration(calibration_ids, ", ".join(repairs))
    if len(chunks) < 4 * HELD_OUT or kept.vocab is not None:
        with fast_matmul(teacher):
            for repair in repairs.values():
                repair(chunks)
        return {}
    chunks, held_out = chunks[:-HELD_OUT], chunks[-HELD_OUT:]
    with fast_matmul(teacher), torch.no_grad():
        losses = {"cut": float(criteria.token_losses(student, held_out, depth.LOSS_STRIDE).mean())}
        for name, repair in repairs.items():
            lowest, before = (
                min(losses.values()),
                {n: w.clone() for n, w in student.named_parameters()},
            )
            repair(chunks)
            losses[name] = float(criteria.token_losses(student, held_out, depth.LOSS_STRIDE).mean())
            if not losses[name] <= lowest:
                student.load_state_dict(before, strict=False)
                console.print(
                    f"[yellow]repair {name} was taken back: it raises the loss on held-out text[/]"
                )
    steps = ", ".join(f"{loss:.3f} after {name}" for name, loss in losses.items())
    console.print(f"loss on {HELD_OUT} held-out chunks, nats per token: {steps}", highlight=False)
    return losses


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


def save(result: Inherited, out: Path, tokenizer: Any = None) -> None:
    """Write the student as a `transformers` directory into the existing folder ``out``, with scores
    and kept indices.

    The written model is loaded again in plain `transformers`; WorkError when its logits are not the
    same to the bit.
    """
    from safetensors.torch import save_file

    result.model.save_pretrained(out)
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
    console.print(f"reloaded {folder}: logits are the same to the bit")


def _calibration(ids: Tensor | None, what: str) -> Tensor:
    if ids is None:
        raise InputError(f"{what} needs calibration text: give --calibration FILE...")
    if ids.dim() != 2 or len(ids) < 4 or ids.shape[1] < 8:
        raise InputError(
            f"calibration is too short for {what}: {tuple(ids.shape)} tokens, 4 chunks of 8 are the"
            " least"
        )
    return ids[: len(ids) // 4 * 4]


def _first(ids: Tensor | None, what: str, tokens: int) -> Tensor:
    chunks = _calibration(ids, what)
    return chunks[: max(4, tokens // chunks.shape[1])]


def _check_choices(criterion: str, layers: str, repairs: Sequence[str]) -> None:
    for what, value, known in (("criterion", criterion, CRITERIA), ("layers", layers, LAYERS)):
        if value not in known:
            raise InputError(f"{what} {value!r} is unknown: choose {', '.join(known)}")
    for name in repairs:
        if name not in REPAIRS:
            raise InputError(f"repair {name!r} is unknown: choose {', '.join(REPAIRS)}")
