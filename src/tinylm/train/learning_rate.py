"""``base_lr = "auto"``: the highest learning rate, measured by short runs from the real weights.

Each trial is a whole small training (warm-up, cosine) on the run's own first batches, judged on
text that it did not read. Three to six trials: from ``FIRST`` down or up by ``FACTOR`` as long as
the loss falls, then the lowest point of a parabola in log(rate). The same on every run of the same
machine, and kept in OUT/learning-rate.json.
"""

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylm.artifact import read_json, write_json
from tinylm.train.master_weights import clip_gradients
from tinylm.train.optimizers import OPTIMIZERS
from tinylm.train.resume import identity
from tinylm.train.schedule import learning_rate
from tinylm.train.step import forward_backward, read_batch, seed_dropout, update
from tinylm.train.watch import measure, restore

if TYPE_CHECKING:
    from tinylm.train.run import Run

FIRST = 1e-3  # the first trial's base_lr
FACTOR = math.sqrt(10)  # between trials
MOST_TRIALS = 6
USUAL_TRIALS = 3  # where FIRST is already the best of them
# steps of a trial: a tenth of the run, so that three trials cost a third of it
SHARE, LEAST_STEPS, MOST_STEPS = 1 / 10, 10, 50
# Longer runs win back what a high rate spoils at first, so their best rate is above the trials':
# by (steps of the run / steps of a trial) to this power, see docs/decisions.md.
HORIZON = 0.2
FILE = "learning-rate.json"
UNWATCHED = 1e-3  # base_lr where no text is left to judge on


def trial_steps(total_steps: int) -> int:
    """Steps of one trial of a run of ``total_steps``."""
    return min(MOST_STEPS, max(LEAST_STEPS, round(SHARE * total_steps)))


def settle_rate(run: "Run") -> None:
    """Put a number where the run's ``base_lr`` is "auto"."""
    if run.config.base_lr != "auto":
        return
    if run.watch.store is None:
        run.log(
            f"[yellow]base_lr is {UNWATCHED:g}: there is no held-out text to measure it on (give"
            " --valid, or train on less than the whole store)[/]"
        )
        run.config = replace(run.config, base_lr=UNWATCHED)
        return
    found = _measured(run)
    run.config = replace(run.config, base_lr=found["base_lr"])
    run.measured_rate = {
        "learning_rate_trials": found["trials"],
        "learning_rate_seconds": found["seconds"],
    }
    run.log(
        f"learning rate: base_lr {found['base_lr']:.2g}, by trials of {found['steps']} steps"
        f" (held-out loss {describe_trials(found['trials'])}); {found['seconds']:.0f} s"
    )


def describe_trials(trials: list[Any]) -> str:
    """[[base_lr, loss or None]] in words, by rate."""
    return ", ".join(
        f"{'infinite' if loss is None else f'{loss:.3f}'} at {rate:.2g}"
        for rate, loss in sorted(trials)
    )


def _measured(run: "Run") -> dict[str, Any]:
    """{"base_lr", "trials": [[base_lr, loss]], "steps", "seconds"}, a loss that is infinite as
    None; trials that an earlier, killed run made are not done again."""
    path = run.out / FILE
    steps = trial_steps(run.plan.total_steps)
    found: dict[str, Any] = {"steps": steps, "trials": [], "seconds": 0.0, "run": identity(run)}
    if path.exists():
        before = read_json(path)
        if (before.get("steps"), before.get("run")) == (steps, found["run"]):
            found = before
    run.world.wait()
    known = {rate: math.inf if loss is None else loss for rate, loss in found["trials"]}
    first_weights = [weight.detach().clone() for weight in run.masters.weights]
    while (rate := _next_rate(known)) is not None:
        begun = time.perf_counter()
        known[rate] = _trial(run, rate, steps)
        restore(run, first_weights)
        found["seconds"] += time.perf_counter() - begun
        # JSON has no infinity
        found["trials"].append([rate, known[rate] if math.isfinite(known[rate]) else None])
        _keep(run, path, found)
    longer = max(1.0, run.plan.total_steps / steps)
    found["base_lr"] = lowest_point(known) * longer**HORIZON
    _keep(run, path, found)
    return found


def _keep(run: "Run", path: Path, found: dict[str, Any]) -> None:
    if run.world.is_main:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found)


def _trial(run: "Run", base_lr: float, steps: int) -> float:
    """Held-out loss, nats per token, after ``steps`` steps at this rate; infinity when it diverges.
    Leaves its weights in the model."""
    config, plan = replace(run.config, base_lr=base_lr), replace(run.plan, steps=(steps,))
    optimizers = OPTIMIZERS[config.optimizer](config, run.masters)
    for step in range(steps):
        seed_dropout(run, step)
        loss = forward_backward(run, *read_batch(run, 0, step % len(run.plan.pool)))
        norm = float(clip_gradients(run.masters.weights, config.clip))
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            update(run, optimizers, learning_rate(config, plan, step))
        run.masters.clear_gradients()
        if not finite and step > 0:
            break
    run.seen[:] = math.nan
    loss = float(measure(run).mean())
    return loss if math.isfinite(loss) else math.inf


def _next_rate(known: dict[float, float]) -> float | None:
    """The rate to try next, None when the lowest loss lies between two higher ones (or the trials
    are used up)."""
    if not known:
        return FIRST
    best = min(known, key=lambda rate: (known[rate], rate))
    low, high = min(known), max(known)
    if len(known) >= MOST_TRIALS:
        return None
    if best == low:  # of equals the lower one: also where all diverge
        return low / FACTOR
    return high * FACTOR if best == high else None


def lowest_point(known: dict[float, float]) -> float:
    """The base_lr of the lowest loss: of a parabola through the lowest trial and its neighbours,
    at most half of ``FACTOR`` from it."""
    rates = sorted(known)
    place = rates.index(min(rates, key=lambda rate: (known[rate], rate)))
    best = rates[place]
    if not 0 < place < len(rates) - 1:
        return best
    left, middle, right = (known[rate] for rate in rates[place - 1 : place + 2])
    curve = left - 2 * middle + right
    if not math.isfinite(curve) or curve <= 0:
        return best
    shift = max(-0.5, min(0.5, 0.5 * (left - right) / curve))
    return best * FACTOR**shift
