"""Never worse: the loss on a little held-out text, looked at along the way; the best state is kept,
gone back to when the run diverges, and published.

Kept in memory (4 bytes a parameter) and in every checkpoint, so that a resumed run does the same.
"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tinylm.corpus.store import TokenStore
from tinylm.errors import InputError
from tinylm.train.evaluation import frozen_losses, spread_sequences
from tinylm.train.schedule import warmup_length

if TYPE_CHECKING:
    from tinylm.train.run import Run

TOKENS = 8192  # of held-out text at a look: 4 % of the demo's training for ten looks
LEAST_SEQUENCES = 16  # wanted, also where they are long
LOOKS = 10  # in a run
# Nats above the best that are a divergence: so much at the first step, none at the last, because
# the steps that are left must win it back. Bumps of one nat at the start of a training do no harm.
TOLERATED = 2.0
RATE_CUT = 0.25  # of the learning rate when the run goes back
MOST_RETURNS = 8  # from a rate of 1 to one of 1e-5
SKIPS_IN_A_ROW = 3  # that may mean broken weights, not bad data: look at the held-out loss

ARRAYS = ("sequences", "first_losses", "best_losses")


@dataclass
class Watch:
    """What is known of a run's held-out loss. ``losses`` are nats per token of each sequence."""

    store: TokenStore | None = None  # None: nothing is watched
    sequences: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    first_losses: np.ndarray | None = None  # before the first step
    best_losses: np.ndarray | None = None
    best_step: int = 0
    best_weights: list[Any] = field(default_factory=list)
    looked_at: int = -1  # step of the last look
    returns: list[int] = field(default_factory=list)  # steps at which the run went back
    warmup: int = 0  # steps in which the rate rises again after that

    def rate_scale(self, step: int) -> float:
        """What the learning rate of a step is multiplied by: less after every return, rising from
        there."""
        if not self.returns:
            return 1.0
        since = step - self.returns[-1] + 1
        return RATE_CUT ** len(self.returns) * min(1.0, since / max(1, self.warmup))

    def state(self) -> dict[str, Any]:
        """All but the text and the weights, as plain data that later steps do not change."""
        plain = {"best_step": self.best_step, "looked_at": self.looked_at, "warmup": self.warmup}
        arrays = {name: getattr(self, name) for name in ARRAYS}
        lists = {name: None if v is None else v.tolist() for name, v in arrays.items()}
        return {**plain, "returns": list(self.returns), **lists}

    def restore(self, state: dict[str, Any], best_weights: list[Any]) -> None:
        """The reverse of :meth:`state`."""
        for name, value in state.items():
            setattr(self, name, value if name not in ARRAYS or value is None else np.array(value))
        self.best_weights = best_weights


def watch_text(run: "Run", valid_store: TokenStore | None) -> Watch:
    """The text to look at: of the validation store; else, or where that is tiny, sequences that
    the run never trains on. Two held-out sequences are the least that have an error."""
    config = run.config
    group = config.micro_batch_size * run.world.size or config.batch_size
    wanted = max(LEAST_SEQUENCES, TOKENS // config.sequence_length)
    wanted = math.ceil(wanted / group) * group  # they are paid for anyway
    if not config.never_worse:
        return Watch()
    unused = run.plan.unused(run.store, wanted)
    if valid_store is not None:
        held_out = spread_sequences(valid_store, config.sequence_length, wanted)
        enough = LEAST_SEQUENCES if len(unused) >= LEAST_SEQUENCES else 2
        if len(held_out) >= enough:
            return Watch(valid_store, held_out)
    return Watch(run.store, unused) if len(unused) >= LEAST_SEQUENCES else Watch()


def is_due(run: "Run") -> bool:
    """Whether to look now: every tenth of the run, at its end, and when steps are skipped in a
    row."""
    if run.watch.store is None or run.watch.looked_at == run.step:
        return False
    every = run.config.watch_every or max(1, math.ceil(run.plan.total_steps / LOOKS))
    in_a_row = run.guard.in_a_row >= SKIPS_IN_A_ROW
    return run.step % every == 0 or run.step == run.plan.total_steps or in_a_row


def look(run: "Run") -> None:
    """Measure the held-out loss; keep the weights if they are the best so far; go back if the run
    has diverged."""
    watch = run.watch
    losses = measure(run)
    if run.step == 0 and not np.isfinite(losses).all():
        losses = _leave_out_broken(run, losses)
    watch.looked_at = run.step
    loss = float(losses.mean())
    if run.world.is_main:
        run.metrics.log(run.step, held_out_loss=loss)
    if run.step == 0:
        watch.first_losses = losses
    best = math.inf if watch.best_losses is None else float(watch.best_losses.mean())
    if loss < best and (watch.best_step > 0 or _surely_lower(losses, watch.first_losses)):
        watch.best_losses, watch.best_step = losses, run.step
        watch.best_weights = [weight.detach().clone() for weight in run.masters.weights]
        run.guard.expect(loss)
        return
    left = 1 - run.step / run.plan.total_steps
    if not loss <= best + TOLERATED * left and run.step < run.plan.total_steps:
        _go_back(run, loss, best)
    else:
        run.guard.expect(max(loss, best))


def _leave_out_broken(run: "Run", losses: np.ndarray) -> np.ndarray:
    """``losses`` that are numbers; the other sequences are not watched. InputError if few are."""
    good = np.isfinite(losses)
    if good.sum() < 2:
        raise InputError(
            f"the model gives a loss of {losses[~good][0]} on held-out text before the first step:"
            " its weights are damaged"
        )
    run.log(
        f"[yellow]{(~good).sum()} of {len(good)} held-out sequences have no finite loss before the"
        " first step: they are left out[/]"
    )
    run.watch.sequences = run.watch.sequences[good]
    return losses[good]


def measure(run: "Run") -> np.ndarray:
    """Nats per token of every watched sequence, float64[n]."""
    assert run.watch.store is not None
    return frozen_losses(run, run.watch.store, run.watch.sequences)


def _go_back(run: "Run", loss: float, best: float) -> None:
    """The best weights again, with fresh moments and a lower rate."""
    watch = run.watch
    restore(run, watch.best_weights)
    for optimizer in run.optimizers:
        optimizer.state.clear()
    watch.returns.append(run.step)
    watch.warmup = warmup_length(run.config, run.plan.total_steps - run.step)
    run.guard.expect(best)
    run.log(
        f"[yellow]step {run.step}: the held-out loss rose from {best:.2f} to {loss:.2f}; back to"
        f" the weights of step {watch.best_step}, at"
        f" {RATE_CUT ** len(watch.returns):.2g} of the learning rate[/]"
    )


@torch.no_grad()
def restore(run: "Run", weights: list[Any]) -> None:
    """Give the model ``weights`` (as kept by :func:`look`)."""
    for weight, kept in zip(run.masters.weights, weights, strict=True):
        weight.copy_(kept)
    run.masters.update_model()


def must_stop(run: "Run") -> bool:
    """Whether going on makes no sense: too many skipped steps, or returns. Says so. Raises
    WorkError where there is no good state to end with."""
    too_many = len(run.watch.returns) > MOST_RETURNS
    if not (run.guard.exhausted or too_many):
        return False
    if run.watch.store is None:
        raise run.guard.stop(run.step)
    why = (
        f"it diverged {len(run.watch.returns)} times"
        if too_many
        else f"{run.guard.skipped} steps were skipped, the last for {run.guard.reason}"
    )
    run.log(
        f"[yellow]training ends at step {run.step} of {run.plan.total_steps}: {why}; lower"
        " train.base_lr, or look at the data near this step[/]"
    )
    return True


def _surely_lower(losses: np.ndarray, first: np.ndarray | None) -> bool:
    """Whether the mean gain over the first weights is above two standard errors, or these are the
    first."""
    if first is None or losses is first:
        return True
    gain, error = mean_and_error(first - losses)
    return gain > 2 * error


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))


def publish_best(run: "Run") -> dict[str, Any]:
    """Put the state with the lowest held-out loss into the model, say which it is, and return
    numbers for result.json; {} when nothing was watched."""
    watch = run.watch
    if watch.first_losses is None or watch.best_losses is None:
        return {}
    _, error = mean_and_error(watch.first_losses - watch.best_losses)
    if watch.best_step < run.step:
        restore(run, watch.best_weights)
    if watch.best_step == 0:
        run.log(
            "[yellow]training gained nothing that is certain on held-out text"
            f" ({watch.first_losses.mean():.3f} nats before): the first weights are kept[/]"
        )
    elif watch.best_step < run.step:
        run.log(f"the lowest held-out loss was that after step {watch.best_step}: it is kept")
    return {
        "published_step": watch.best_step,
        "held_out_loss_before": float(watch.first_losses.mean()),
        "held_out_loss": float(watch.best_losses.mean()),
        "held_out_gain_stderr": error,
        "returns": len(watch.returns),
    }
