"""``hours``: training for a time instead of a number of steps.

A few steps are timed on the real model when the run begins, on a copy of it. What they say is kept
in OUT/length.json, so that a run that goes on, on whatever machine, does the same steps.
"""

import copy
import time
from bisect import bisect_right
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from tinylm.artifact import hash_of, optional_json, write_json
from tinylm.corpus.store import TokenStore
from tinylm.render.numbers import hours as in_hours
from tinylm.train.config import TrainConfig
from tinylm.train.learning_rate import USUAL_TRIALS, trial_steps
from tinylm.train.optimizers import OPTIMIZERS
from tinylm.train.resume import FREE_SETTINGS
from tinylm.train.run import Run
from tinylm.train.step import forward_backward, read_batch, seed_dropout, update
from tinylm.train.watch import LOOKS, TOKENS

FILE = "length.json"
FIRST, TIMED = 2, 5  # steps before the timed ones, which compile and fill caches; timed steps
MOST_STEPS = 10**12  # no run is longer


def steps_within(config: TrainConfig, seconds_a_step: float) -> int:
    """The most steps that ``config.hours`` have time for, the usual trials of the learning rate and
    the looks at held-out text included; at least one a round."""
    # a forward pass is a third of a step
    looks = LOOKS * TOKENS / config.tokens_per_batch / 3 if config.never_worse else 0.0

    def seconds(steps: int) -> float:
        trials = USUAL_TRIALS * trial_steps(steps) if config.base_lr == "auto" else 0
        return (steps + trials + looks) * seconds_a_step

    least = 1 if config.rounds == "auto" else config.rounds
    return max(least, bisect_right(range(1, MOST_STEPS), 3600 * config.hours, key=seconds))


def settle_hours(
    model: Any, store: TokenStore, config: TrainConfig, out: Path, teacher: Any = None
) -> TrainConfig:
    """``config`` with steps where it has hours."""
    if not config.hours:
        return config
    asked = {key: value for key, value in config.to_dict().items() if key not in FREE_SETTINGS}
    same = hash_of([asked, store.fingerprint])
    found = optional_json(out / FILE)
    if found.get("run") != same:
        probe = replace(
            config, hours=0.0, steps=FIRST + TIMED, rounds=1, base_lr=1e-6, never_worse=False
        )
        run = Run(copy.deepcopy(model), store, probe, out, teacher)
        seconds = _seconds_a_step(run)
        found = {"run": same, "seconds_a_step": seconds, "steps": steps_within(config, seconds)}
        if run.world.is_main:
            out.mkdir(parents=True, exist_ok=True)
            write_json(out / FILE, found)
        run.world.wait()
        found = optional_json(out / FILE)  # every process does what the first measured
        run.log(
            f"{in_hours(3600 * config.hours)} of training are {found['steps']:,} steps"
            f" ({found['seconds_a_step']:.3g} s each, timed now)"
        )
    return replace(config, hours=0.0, steps=found["steps"])


def _seconds_a_step(run: Run) -> float:
    """The median of a few steps; of the weights nothing is kept."""
    optimizers = OPTIMIZERS[run.config.optimizer](run.config, run.masters)
    spent = []
    for step in range(run.plan.total_steps):
        begun = time.perf_counter()
        seed_dropout(run, step)
        forward_backward(run, *read_batch(run, 0, step % len(run.plan.pool)))
        update(run, optimizers, run.config.learning_rate)
        run.masters.clear_gradients()
        run.world.wait()
        spent.append(time.perf_counter() - begun)
    run.student.release()
    del run.prefetch  # it holds this run, and so its memory
    return median(spent[FIRST:])
