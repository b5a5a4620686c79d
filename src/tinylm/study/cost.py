"""What a study will cost, before it starts and while it runs.

Training arithmetic is predicted from each recipe. Seconds come from the study's own finished runs
where there are any (so teacher passes, scoring and the machine's real speed are in them), else from
a measured matrix product.
"""

from collections.abc import Iterable, Sequence

from tinylm.pipeline.forecast import ASSUMED_UTILISATION, machine_speed, predict_flops
from tinylm.pipeline.recipe import Recipe
from tinylm.render.numbers import hours


def predict_seconds(
    recipe: Recipe, finished: Sequence[tuple[Recipe, float]], flops_per_second: float
) -> float | None:
    """Seconds of a run: scaled from (recipe, seconds) of finished ones by FLOPs, else FLOPs at the
    given speed."""
    flops = predict_flops(recipe)
    if finished:
        known = [(predict_flops(other), seconds) for other, seconds in finished]
        total = sum(other for other, _ in known if other)
        if flops and total:
            return flops * sum(seconds for other, seconds in known if other) / total
        return max(seconds for _, seconds in finished)
    return flops / flops_per_second if flops else None


def total(parts: Iterable[float | None]) -> float | None:
    """The sum, or None when a part is not known."""
    values = list(parts)
    return (
        None
        if any(value is None for value in values)
        else sum(value for value in values if value is not None)
    )


def estimate(
    recipes: Sequence[Recipe], finished: Sequence[tuple[Recipe, float]], workers: int
) -> str:
    """One line: what ``recipes``, still to run, will take."""
    speed = 0.0 if finished else machine_speed()
    seconds = total(predict_seconds(recipe, finished, speed) for recipe in recipes)
    flops = total(predict_flops(recipe) for recipe in recipes)
    arithmetic = "" if flops is None else f"{flops:.2g} FLOPs of training, "
    basis = f"going by {len(finished)} finished runs"
    if not finished:
        basis = (
            f"at {speed / 1e9:.0f} GFLOP/s, {ASSUMED_UTILISATION:.0%} of a matrix product measured"
            " now; teacher passes and scoring come on top"
        )
    # the measured speed is of the whole machine, which workers share
    side_by_side = workers if finished else 1
    duration = hours(None if seconds is None else seconds / side_by_side)
    return f"{len(recipes)} runs to do: {arithmetic}about {duration} ({basis})"
