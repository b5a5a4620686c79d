"""Score a teacher: how much every unit and every layer matters."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tinylm.errors import InputError
from tinylm.inherit import masks
from tinylm.inherit.calibration import DEPTH_TOKENS, first_chunks, usable_chunks
from tinylm.inherit.criteria import CRITERIA
from tinylm.inherit.layers import LAYER_RULES
from tinylm.inherit.scores import Scores
from tinylm.inherit.select import best
from tinylm.inherit.stack import Stack
from tinylm.inherit.units import UnitScores, fast_matmul
from tinylm.models import families
from tinylm.models.shape import Shape


def needs_text(criterion: str, layers: str) -> bool:
    """Whether these scores come from running calibration text. InputError for an unknown name."""
    for what, value, table in (
        ("criterion", criterion, CRITERIA),
        ("layers", layers, LAYER_RULES),
    ):
        if value not in table:
            raise InputError(f"{what} {value!r} is unknown: choose {', '.join(table)}")
    return CRITERIA[criterion].from_weights is None or LAYER_RULES[layers].from_position is None


def score(
    teacher: Any,
    calibration_ids: Tensor | None,
    criterion: str = "taylor",
    layers: str = "skip-loss",
    *,
    target: Shape | None = None,
    seed: int = 0,
) -> Scores:
    """Score every unit and layer of ``teacher``; arguments as in
    :func:`~tinylm.inherit.inheritance.inherit`.

    ``teacher`` is a model, or a :class:`~tinylm.inherit.stack.Stack` with its weights on disk.
    ``target`` says how far greedy removes layers and where learned masks must end; learned scores
    fit that shape only.
    """
    needs_text(criterion, layers)
    stack = Stack.of(teacher)
    shape = Shape.from_config(stack.model.config)
    learns = CRITERIA[criterion].learned, LAYER_RULES[layers].learned
    if any(learns) and target is None:
        raise InputError(
            "learned masks need the target shape: scores of learned masks fit one shape only"
        )
    started = time.perf_counter()
    history: list[dict[str, float]] = []
    with fast_matmul(stack.model):
        units = dict(
            stack.progress.once(
                "units", lambda: _unit_scores(stack, calibration_ids, criterion, seed)
            )
        )
        importance = stack.progress.once(
            "layers",
            lambda: _layer_scores(
                stack, calibration_ids, layers, target.num_layers if target else 1
            ),
        ).get("layers")
        if any(learns):
            assert target is not None
            chosen = None if importance is None else best(importance, target.num_layers).tolist()
            chunks = usable_chunks(calibration_ids, "learned masks")
            training = masks.MaskTraining(seed=seed)
            learned = masks.learn(stack, chunks, target, training, start=units, layers=chosen)
            history = learned.history
            if CRITERIA[criterion].learned:
                units |= {axis: values for axis, values in learned.scores.items() if axis in units}
            if importance is None:
                importance = learned.scores.get(masks.LAYERS, torch.zeros(shape.num_layers))
    assert importance is not None
    tokens = 0 if calibration_ids is None else calibration_ids.numel()
    scores = _as_scores(units, importance, criterion, layers, tokens, shape)
    scores.metadata["seconds"] = time.perf_counter() - started
    if history and target:
        scores.metadata |= {"masks": history, "target": target.to_dict()}
    return scores


def score_weights(
    weights: Mapping[str, Tensor], config: Any, criterion: str, layers: str, seed: int = 0
) -> Scores:
    """Scores that need no text, from weights that may lie in shards: one tensor in memory at a
    time."""
    shape = Shape.from_config(config)
    from_weights, from_position = (
        CRITERIA[criterion].from_weights,
        LAYER_RULES[layers].from_position,
    )
    assert from_weights is not None and from_position is not None, (criterion, layers)
    units, importance = from_weights(weights, config, seed), from_position(shape.num_layers)
    return _as_scores(units, importance, criterion, layers, 0, shape)


def _as_scores(
    units: UnitScores, importance: Tensor, criterion: str, layers: str, tokens: int, teacher: Shape
) -> Scores:
    metadata = {
        "criterion": criterion,
        "layers": layers,
        "calibration_tokens": tokens,
        "teacher": teacher.to_dict(),
    }
    ffn, q_heads, hidden = (
        units[axis] for axis in (families.FFN, families.Q_HEADS, families.HIDDEN)
    )
    return Scores(ffn, q_heads, hidden, importance, metadata)


def _unit_scores(
    stack: Stack, calibration_ids: Tensor | None, criterion: str, seed: int
) -> UnitScores:
    chosen = CRITERIA[criterion]
    if chosen.from_weights is not None:
        return chosen.from_weights(stack.tensors(), stack.model.config, seed)
    assert chosen.from_text is not None, criterion
    return chosen.from_text(stack, first_chunks(calibration_ids, criterion, chosen.tokens))


def _layer_scores(
    stack: Stack, calibration_ids: Tensor | None, layers: str, kept: int
) -> dict[str, Tensor]:
    """{"layers": float32 [num_layers]}; {}: masks will tell."""
    rule = LAYER_RULES[layers]
    if rule.from_position is not None:
        return {"layers": rule.from_position(len(stack.layers))}
    if rule.from_text is not None:
        chunks = first_chunks(calibration_ids, layers, DEPTH_TOKENS)
        return {"layers": rule.from_text(stack, chunks, kept)}
    assert rule.learned, layers
    return {}
