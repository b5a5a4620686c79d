"""Multiple-round training: which data the next round trains on, given the losses of this one
(paper, section 4).

After a round the model is frozen and the loss of every unit (a batch, or a sequence) is known. A
strategy is one entry of ``STRATEGIES``: it draws ``count`` of the units for the next round. The
paper's has first-draw probability p_i = exp(loss_i / temperature) / sum_j exp(...).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

    from tinylm.train.config import TrainConfig
    from tinylm.train.draws import Draw


@dataclass(frozen=True)
class SamplingStrategy:
    """How the units of a later round are drawn."""

    draw: Callable[["Draw"], "np.ndarray"]  # ``count`` different units, int64[count]
    uses_losses: bool = True  # else no pass of the model is paid for
    uses_teacher: bool = False  # losses are those above the teacher's on the same text
    keeps_all: bool = False  # later rounds are as long as the first


def _exp_loss(draw: "Draw") -> "np.ndarray":
    from tinylm.train.draws import gumbel_top_k

    return gumbel_top_k(draw.losses / draw.temperature, draw.count, draw.random)


def _uniform(draw: "Draw") -> "np.ndarray":
    import numpy as np

    from tinylm.train.draws import gumbel_top_k

    return gumbel_top_k(np.zeros(len(draw.losses)), draw.count, draw.random)


def _top_loss(draw: "Draw") -> "np.ndarray":
    return (-draw.losses).argsort(kind="stable")[: draw.count]


def _loss_change(draw: "Draw") -> "np.ndarray":
    if draw.previous is None:  # nothing to compare with yet
        return _uniform(draw)
    return (draw.previous - draw.losses).argsort(kind="stable")[: draw.count]


STRATEGIES: dict[str, SamplingStrategy] = {
    "exp-loss": SamplingStrategy(_exp_loss),
    # what the teacher finds easier: hard text that is only noise is hard for both
    "excess-loss": SamplingStrategy(_exp_loss, uses_teacher=True),
    "uniform": SamplingStrategy(_uniform, uses_losses=False),
    "top-loss": SamplingStrategy(_top_loss),
    "loss-change": SamplingStrategy(_loss_change),  # what got worse comes first
    "all": SamplingStrategy(_uniform, uses_losses=False, keeps_all=True),
}


PAPERS = "exp-loss"


@dataclass(frozen=True)
class UnitKind:
    """What is drawn. ``per_pass``: batches in one pass over n units, from (n, batch size)."""

    size: Callable[[int], int]  # batch size -> sequences a unit
    per_pass: Callable[[int, int], int]


GRANULARITIES: dict[str, UnitKind] = {
    "batch": UnitKind(lambda batch_size: batch_size, lambda units, batch_size: units),
    "sequence": UnitKind(
        lambda batch_size: 1, lambda units, batch_size: max(1, units // batch_size)
    ),
}


def _from_pass(run: Any, round_number: int) -> "np.ndarray":
    from tinylm.train.evaluation import pool_losses

    return pool_losses(run, round_number)


def _from_training(run: Any, round_number: int) -> "np.ndarray":
    return run.seen.copy()


# where the losses of a round come from: (run, number of the round that begins) -> float[sequences]
LOSS_SOURCES: dict[str, Callable[[Any, int], "np.ndarray"]] = {
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


def settle_rounds(config: "TrainConfig", num_tokens: int) -> "TrainConfig":
    """``config`` with the rounds that a run over a store of ``num_tokens`` has, and how they are
    drawn, where these are "auto".

    As many rounds as the steps read the text, later ones reading ``sampling_rate`` of it, drawn at
    random: by loss is no better (study ``resampling``) and costs a pass. Where a number of rounds
    was asked for, they are the paper's.
    """
    rounds, drawn = 1, PAPERS
    if config.rounds != "auto":
        rounds = config.rounds
    elif not config.mixture:  # its first round reads each source as often as its share asks
        epochs = config.steps * config.tokens_per_batch / num_tokens
        rounds = min(1 + max(0, round((epochs - 1) / later_share(config))), max(1, config.steps))
        drawn = "uniform" if rounds > 1 and not config.effective_sample else PAPERS
    strategy = drawn if config.strategy == "auto" else config.strategy
    return replace(config, rounds=rounds, strategy=strategy)


def strategy_of(config: "TrainConfig") -> SamplingStrategy:
    """How later rounds are drawn."""
    return STRATEGIES[PAPERS if config.strategy == "auto" else config.strategy]


def later_share(config: "TrainConfig") -> float:
    """Length of a later round over that of the first."""
    return 1.0 if strategy_of(config).keeps_all else config.sampling_rate


def foreseen_rounds(config: "TrainConfig") -> int:
    """As asked for; of "auto", one: whether the text is enough is known after packing."""
    return 1 if config.rounds == "auto" else config.rounds


def first_round_share(config: "TrainConfig") -> float:
    """The first round's part of all training tokens."""
    return 1 / (1 + later_share(config) * (foreseen_rounds(config) - 1))


def needs_pass(config: "TrainConfig") -> bool:
    """Whether a round that begins costs one pass over the pool."""
    return strategy_of(config).uses_losses and config.loss_source == "pass"


def select(
    config: "TrainConfig",
    losses: "np.ndarray",
    previous: "np.ndarray | None",
    round_number: int,
) -> "np.ndarray":
    """The units that round ``round_number`` (1 or later) trains on, sorted; losses as in
    :class:`~tinylm.train.draws.Draw`."""
    import numpy as np

    from tinylm.train.draws import Draw, generator

    count = max(1, round(later_share(config) * len(losses)))
    random = generator(config.seed, "select", round_number)
    draw = Draw(losses, previous, count, drawing_temperature(config, losses), random)
    return np.sort(strategy_of(config).draw(draw))


def uses_teacher(config: "TrainConfig") -> bool:
    """Whether a later round is drawn by the teacher's losses too."""
    return config.rounds != 1 and strategy_of(config).uses_teacher


def weighs(config: "TrainConfig") -> bool:
    """Whether units are drawn by exp(loss / temperature)."""
    return strategy_of(config).draw is _exp_loss


def drawing_temperature(config: "TrainConfig", losses: "np.ndarray") -> float:
    """The temperature that ``config`` asks for, or that gives ``losses`` of units the effective
    sample it asks for."""
    from tinylm.train.draws import temperature_of

    return temperature_of(losses, config.effective_sample) or config.temperature
