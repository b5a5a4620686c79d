"""Between two rounds: the losses of the data, what was forgotten, and the data of the next."""

from typing import TYPE_CHECKING

import numpy as np

from tinylm.train.draws import effective_share
from tinylm.train.evaluation import pool_losses, teacher_losses
from tinylm.train.forgetting import record_forgetting
from tinylm.train.rounds import (
    LOSS_SOURCES,
    drawing_temperature,
    select,
    strategy_of,
    uses_teacher,
    weighs,
)

if TYPE_CHECKING:
    from tinylm.train.run import Run


def begin_round(run: "Run", round_number: int) -> None:
    """Choose this round's data by the losses at the end of the one before."""
    config, previous = run.config, run.losses
    if config.forgetting:
        losses = pool_losses(run, round_number)
        measure_forgetting(run, round_number - 1, losses)
    elif strategy_of(config).uses_losses and run.order_from is None:
        losses = LOSS_SOURCES[config.loss_source](run, round_number)
    else:
        losses = run.seen.copy()
    drawn_by: dict[str, float] = {}
    if run.order_from is None:
        before = None if np.isnan(previous).any() else run.plan.unit_losses(previous)
        above = teacher_losses(run) if uses_teacher(config) else 0.0
        units = run.plan.unit_losses(losses - above)
        run.chosen = select(config, units, before, round_number)
        if weighs(config):
            temperature = drawing_temperature(config, units)
            share = effective_share(units / temperature)
            drawn_by = {"temperature": temperature, "effective_sample": share}
            run.log(
                f"round {round_number + 1} reads {len(run.chosen):,} of {len(units):,} units again,"
                f" drawn with an effective sample of {share:.0%}"
            )
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
            **drawn_by,  # type: ignore[arg-type]
        )


def rounds_drawn(run: "Run") -> list[dict[str, object]]:
    """Of each later round: the temperature and effective sample of its draw, and how many of the
    pool's sequences have then been read once, twice, ..."""
    reads = np.ones(run.plan.pool.size, dtype=np.int64)
    found: list[dict[str, object]] = []
    for number in range(1, len(run.plan.steps)):
        file = run.out / "rounds" / f"round-{number}.npz"
        if not file.exists():  # the run ended before
            break
        with np.load(file) as data:
            reads += np.isin(np.arange(reads.size) // run.plan.unit_size, data["chosen"])
            told = {k: float(data[k]) for k in ("temperature", "effective_sample") if k in data}
        found.append({"round": number + 1, **told, "read": np.bincount(reads)[1:].tolist()})
    return found


def measure_forgetting(run: "Run", round_number: int, losses: np.ndarray) -> dict[str, float]:
    """Numbers and picture of what a round forgot, given the losses at its end."""
    if not run.world.is_main:
        return {}
    measured = record_forgetting(
        run.out / "rounds", run.plan, round_number, run.chosen, run.seen, losses
    )
    return {"forgetting": measured["forgetting"], "forgetting_stderr": measured["stderr"]}
