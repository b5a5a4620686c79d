"""Between two rounds: the losses of the data, what was forgotten, and the data of the next."""

from typing import TYPE_CHECKING

import numpy as np

from tinylm.train.evaluation import pool_losses
from tinylm.train.forgetting import record_forgetting
from tinylm.train.rounds import LOSS_SOURCES, STRATEGIES, select

if TYPE_CHECKING:
    from tinylm.train.run import Run


def begin_round(run: "Run", round_number: int) -> None:
    """Choose this round's data by the losses at the end of the one before."""
    config, previous = run.config, run.losses
    if config.forgetting:
        losses = pool_losses(run, round_number)
        measure_forgetting(run, round_number - 1, losses)
    elif STRATEGIES[config.strategy].uses_losses and run.order_from is None:
        losses = LOSS_SOURCES[config.loss_source](run, round_number)
    else:
        losses = run.seen.copy()
    if run.order_from is None:
        before = None if np.isnan(previous).any() else run.plan.unit_losses(previous)
        run.chosen = select(config, run.plan.unit_losses(losses), before, round_number)
    else:
        run.chosen = np.load(run.order_from / "rounds" / f"round-{round_number}.npz")["chosen"]
    run.losses = losses
    run.guard.recent.clear()  # chosen data are harder: their losses are not a spike
    if run.world.is_main:
        folder = run.out / "rounds"
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(
            folder / f"round-{round_number}.npz",
            sequences=run.plan.pool,
            losses=losses,
            seen=run.seen,
            chosen=run.chosen,
        )


def measure_forgetting(run: "Run", round_number: int, losses: np.ndarray) -> dict[str, float]:
    """Numbers and picture of what a round forgot, given the losses at its end."""
    if not run.world.is_main:
        return {}
    measured = record_forgetting(
        run.out / "rounds", run.plan, round_number, run.chosen, run.seen, losses
    )
    return {"forgetting": measured["forgetting"], "forgetting_stderr": measured["stderr"]}
