"""What a study will cost, before it starts and while it runs.

Training arithmetic is predicted from each recipe. Seconds come from the study's own finished runs where there are any
(so teacher passes, scoring and the machine's real speed are in them), else from a measured matrix product.
"""

import time
from collections.abc import Iterable, Sequence

from tinylm.architecture.cost import training_flops
from tinylm.models.shape import Shape
from tinylm.recipe import Recipe

ASSUMED_VOCABULARY = 32_768  # where a recipe leaves the size to the corpus
ASSUMED_UTILISATION = 0.35  # of the measured matrix product's speed, while nothing of this study has been measured


def predict_flops(recipe: Recipe) -> float | None:
    """FLOPs of training the student of ``recipe`` (and its control); None when its length is "all of the corpus".

    A budget without a shape counts 6 per parameter and token. The teacher's passes are not in it.
    """
    config = recipe.train
    if config.steps == 0:
        return None
    tokens = config.steps * config.tokens_per_batch
    if recipe.architecture.shape:
        vocabulary = recipe.tokenizer.vocab_size if recipe.tokenizer.vocab_size > 0 else ASSUMED_VOCABULARY
        shape = Shape.from_dict({"vocab_size": vocabulary, **recipe.architecture.shape})
        per_token = float(training_flops(shape, config.sequence_length))
    else:
        per_token = 6 * recipe.architecture.budget
    return per_token * tokens * training_passes(recipe)


def training_passes(recipe: Recipe) -> float:
    """All training of a recipe (the control, the loss passes between rounds) over that of its student alone."""
    config, passes = recipe.train, 1.0 + recipe.has_control()
    if config.rounds > 1 and config.loss_source == "pass":  # a forward pass over the first round's data, each round
        passes += (config.rounds - 1) * first_round_share(recipe) / 3
    return passes


def first_round_share(recipe: Recipe) -> float:
    """The first round's part of all training tokens."""
    return 1 / (1 + recipe.train.sampling_rate * (recipe.train.rounds - 1))


def predict_seconds(recipe: Recipe, finished: Sequence[tuple[Recipe, float]], flops_per_second: float) -> float | None:
    """Seconds of a run: scaled from (recipe, seconds) of finished ones by FLOPs, else FLOPs at the given speed."""
    flops = predict_flops(recipe)
    if finished:
        known = [(predict_flops(other), seconds) for other, seconds in finished]
        total = sum(other for other, _ in known if other)
        if flops and total:
            return flops * sum(seconds for other, seconds in known if other) / total
        return max(seconds for _, seconds in finished)
    return flops / flops_per_second if flops else None


def machine_speed(seconds: float = 0.5) -> float:
    """FLOP/s that training may expect here: the better of a bf16 and an fp32 matrix product, measured, times 0.35."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 8192 if device == "cuda" else 1024
    best = 0.0
    for dtype in (torch.bfloat16, torch.float32):
        matrix = torch.ones(size, size, dtype=dtype, device=device)
        (matrix @ matrix).sum().item()
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            (matrix @ matrix)[0, 0].item()
            count += 1
        best = max(best, count * 2 * size**3 / (time.perf_counter() - start))
    return best * ASSUMED_UTILISATION


def total(parts: Iterable[float | None]) -> float | None:
    """The sum, or None when a part is not known."""
    values = list(parts)
    return None if any(value is None for value in values) else sum(value for value in values if value is not None)


def hours(seconds: float | None) -> str:
    """ "1,200 h", "3 h 20 min", "12 min", "40 s", "unknown"."""
    if seconds is None:
        return "unknown"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds > 360_000:
        return f"{seconds / 3600:,.0f} h"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def estimate(recipes: Sequence[Recipe], finished: Sequence[tuple[Recipe, float]], workers: int) -> str:
    """One line: what ``recipes``, still to run, will take."""
    speed = 0.0 if finished else machine_speed()
    seconds = total(predict_seconds(recipe, finished, speed) for recipe in recipes)
    flops = total(predict_flops(recipe) for recipe in recipes)
    arithmetic = "" if flops is None else f"{flops:.2g} FLOPs of training, "
    basis = f"going by {len(finished)} finished runs"
    if not finished:
        basis = (
            f"at {speed / 1e9:.0f} GFLOP/s, {ASSUMED_UTILISATION:.0%} of a matrix product measured now; "
            "teacher passes and scoring come on top"
        )
    side_by_side = workers if finished else 1  # the measured speed is of the whole machine, which workers share
    duration = hours(None if seconds is None else seconds / side_by_side)
    return f"{len(recipes)} runs to do: {arithmetic}about {duration} ({basis})"
