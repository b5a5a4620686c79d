"""The learning rate of every step."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tinylm.train.batches import Plan
    from tinylm.train.config import TrainConfig


def _whole_run(plan: "Plan", step: int) -> tuple[int, int]:
    return 0, plan.total_steps


def _each_round(plan: "Plan", step: int) -> tuple[int, int]:
    round_number, inside = plan.locate(step)
    return step - inside, plan.steps[round_number]


# (plan, step) -> (first step, length) of the warm-up and cosine that the step is in
SCHEDULES: dict[str, Callable[["Plan", int], tuple[int, int]]] = {
    "one-cosine": _whole_run,
    "restart": _each_round,
}
if TYPE_CHECKING:
    RoundSchedule = str
else:
    RoundSchedule = Literal[tuple(SCHEDULES)]


def warmup_length(config: "TrainConfig", length: int) -> int:
    """Steps in which the rate rises, of ``length``."""
    return max(math.ceil(config.warmup * length), min(config.warmup_steps, length // 3))


def learning_rate(config: "TrainConfig", plan: "Plan", step: int) -> float:
    """Of a step of the whole run: linear warm-up, then cosine down to ``min_lr_ratio``."""
    start, length = SCHEDULES[config.round_schedule](plan, step)
    warmup = warmup_length(config, length)
    inside = step - start
    if inside < warmup:
        return config.learning_rate * (inside + 1) / warmup
    progress = (inside - warmup) / max(1, length - 1 - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.learning_rate * (config.min_lr_ratio + (1 - config.min_lr_ratio) * cosine)
