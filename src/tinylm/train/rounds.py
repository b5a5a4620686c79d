"""Multiple-round training: which data the next round trains on, given the losses of this one
(paper, section 4).

After a round the model is frozen and the loss of every unit (a batch, or a sequence) is known. A
strategy is one entry of ``STRATEGIES``: it draws ``count`` of the units for the next round. The
paper's has first-draw probability p_i = exp(loss_i / temperature) / sum_j exp(...).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from tinylm.train.config import TrainConfig


@dataclass(frozen=True)
class Draw:
    """What a strategy decides from."""

    losses: np.ndarray  # nats per token of every unit after the round before, float[units]
    previous: np.ndarray | None  # the same one round earlier; None after round 0
    count: int  # units to draw
    temperature: float
    random: np.random.Generator


@dataclass(frozen=True)
class SamplingStrategy:
    """``draw`` returns ``count`` different units."""

    draw: Callable[[Draw], np.ndarray]
    uses_losses: bool = True  # else no pass of the model is paid for
    keeps_all: bool = False  # later rounds are as long as the first


def _exp_loss(draw: Draw) -> np.ndarray:
    return gumbel_top_k(draw.losses / draw.temperature, draw.count, draw.random)


def _uniform(draw: Draw) -> np.ndarray:
    return gumbel_top_k(np.zeros(len(draw.losses)), draw.count, draw.random)


def _top_loss(draw: Draw) -> np.ndarray:
    return np.argsort(-draw.losses, kind="stable")[: draw.count]


def _loss_change(draw: Draw) -> np.ndarray:
    if draw.previous is None:  # nothing to compare with yet
        return _uniform(draw)
    return np.argsort(-(draw.losses - draw.previous), kind="stable")[: draw.count]


STRATEGIES: dict[str, SamplingStrategy] = {
    "exp-loss": SamplingStrategy(_exp_loss),
    "uniform": SamplingStrategy(_uniform, uses_losses=False),
    "top-loss": SamplingStrategy(_top_loss),
    "loss-change": SamplingStrategy(_loss_change),  # what got worse comes first
    "all": SamplingStrategy(_uniform, uses_losses=False, keeps_all=True),
}


def _batch_per_pass(units: np.ndarray, batch_size: int) -> int:
    return len(units)


def _batch_places(units: np.ndarray, step: int, batch_size: int) -> np.ndarray:
    return units[step] * batch_size + np.arange(batch_size)


def _sequences_per_pass(units: np.ndarray, batch_size: int) -> int:
    return max(1, len(units) // batch_size)


def _sequence_places(units: np.ndarray, step: int, batch_size: int) -> np.ndarray:
    return np.resize(units[step * batch_size : (step + 1) * batch_size], batch_size)


@dataclass(frozen=True)
class UnitKind:
    """What is drawn: how many batches a pass over ``units`` has, and a step's places in the flat
    pool."""

    sequences: Callable[[int], int]  # batch size -> sequences a unit
    per_pass: Callable[[np.ndarray, int], int]
    places: Callable[[np.ndarray, int, int], np.ndarray]


GRANULARITIES: dict[str, UnitKind] = {
    "batch": UnitKind(lambda batch_size: batch_size, _batch_per_pass, _batch_places),
    "sequence": UnitKind(lambda batch_size: 1, _sequences_per_pass, _sequence_places),
}


def _from_pass(run: Any, round_number: int) -> np.ndarray:
    from tinylm.train.evaluation import pool_losses

    return pool_losses(run, round_number)


def _from_training(run: Any, round_number: int) -> np.ndarray:
    return run.seen.copy()


# where the losses of a round come from: (run, number of the round that begins) -> float[sequences]
LOSS_SOURCES: dict[str, Callable[[Any, int], np.ndarray]] = {
    "pass": _from_pass,  # one pass of the frozen model
    "training": _from_training,  # those seen while training: free, but of a model that moved on
}
if TYPE_CHECKING:
    Strategy = str
    Granularity = str
    LossSource = str
else:
    Strategy = Literal[tuple(STRATEGIES)]
    Granularity = Literal[tuple(GRANULARITIES)]
    LossSource = Literal[tuple(LOSS_SOURCES)]


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A random stream that is a pure function of its name, on every machine and for any number of
    processes."""
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], dtype=np.uint64)))


def gumbel_top_k(log_weights: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """``count`` of n indices without replacement, by weights given as logarithms (any scale), in
    drawing order.

    Adding independent Gumbel noise to log-weights and keeping the largest is the same distribution
    as drawing one after another without replacement (Yellott 1977; Kool et al. 2019), in O(n log n)
    and with no limit on n (``torch.multinomial`` stops at 2^24).
    """
    noisy = np.asarray(log_weights, dtype=np.float64) + random.gumbel(size=len(log_weights))
    return np.argsort(-noisy, kind="stable")[:count]


def later_share(config: "TrainConfig") -> float:
    """Length of a later round over that of the first."""
    return 1.0 if STRATEGIES[config.strategy].keeps_all else config.sampling_rate


def needs_pass(config: "TrainConfig") -> bool:
    """Whether a round that begins costs one pass over the pool."""
    return STRATEGIES[config.strategy].uses_losses and config.loss_source == "pass"


def select(
    config: "TrainConfig", losses: np.ndarray, previous: np.ndarray | None, round_number: int
) -> np.ndarray:
    """The units that round ``round_number`` (1 or later) trains on, sorted; losses as in
    :class:`Draw`."""
    count = max(1, round(later_share(config) * len(losses)))
    random = generator(config.seed, "select", round_number)
    draw = Draw(losses, previous, count, config.temperature, random)
    return np.sort(STRATEGIES[config.strategy].draw(draw))
