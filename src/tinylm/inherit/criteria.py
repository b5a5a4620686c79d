"""The criteria: how units inside the layers (FFN neurons, query heads, hidden numbers) are scored.

A criterion is one entry. It scores from the weights alone, or by running calibration text through
the teacher; the result is ``{axis: float32 scores}``, see :mod:`tinylm.inherit.units`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

TAYLOR_TOKENS = 8192  # of text: the ranking hardly moves beyond
OBS_TOKENS = 32768  # a Gram matrix of thousands of units wants more


@dataclass(frozen=True)
class UnitCriterion:
    """One of the two functions scores; ``learned`` masks then start from its scores."""

    # (weights by name, `transformers` config, seed)
    from_weights: Callable[[Mapping[str, Any], Any, int], dict[str, Any]] | None = None
    # (teacher, chunks int64 [N, T])
    from_text: Callable[[Any, Any], dict[str, Any]] | None = None
    learned: bool = False
    tokens: int = TAYLOR_TOKENS  # of text that it reads, at most


def _random(weights: Mapping[str, Any], config: Any, seed: int) -> dict[str, Any]:
    from tinylm.inherit.units import random
    from tinylm.models.shape import Shape

    return random(Shape.from_config(config), seed)


def _l1(weights: Mapping[str, Any], config: Any, seed: int) -> dict[str, Any]:
    from tinylm.inherit.units import weight_norm

    return weight_norm(weights, config, power=1)


def _l2(weights: Mapping[str, Any], config: Any, seed: int) -> dict[str, Any]:
    from tinylm.inherit.units import weight_norm

    return weight_norm(weights, config, power=2)


def _taylor(teacher: Any, chunks: Any) -> dict[str, Any]:
    from tinylm.inherit.units import taylor

    return taylor(teacher, chunks)


def _activation(teacher: Any, chunks: Any) -> dict[str, Any]:
    from tinylm.inherit.units import activation

    return activation(teacher, chunks)


def _obs(teacher: Any, chunks: Any) -> dict[str, Any]:
    from tinylm.inherit.obs import obs

    return obs(teacher, chunks)


CRITERIA: dict[str, UnitCriterion] = {
    "random": UnitCriterion(from_weights=_random),
    "l1": UnitCriterion(from_weights=_l1),
    "l2": UnitCriterion(from_weights=_l2),
    "taylor": UnitCriterion(from_text=_taylor),
    "activation": UnitCriterion(from_text=_activation),
    "obs": UnitCriterion(from_text=_obs, tokens=OBS_TOKENS),
    "learned": UnitCriterion(from_text=_taylor, learned=True),
}
if TYPE_CHECKING:
    Criterion = str
else:
    Criterion = Literal[tuple(CRITERIA)]
