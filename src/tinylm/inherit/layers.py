"""The layer rules: which of the teacher's layers stay.

A rule is one entry. It scores layers by their number alone, or by running calibration text through
the teacher; the result is float32 [num_layers], higher stays, see :mod:`tinylm.inherit.depth`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal


@dataclass(frozen=True)
class LayerScore:
    """One of the two functions scores; ``learned``: by masks, together with those of the units."""

    from_position: Callable[[int], Any] | None = None  # (num_layers)
    # (teacher, chunks int64 [N, T], layers that the target keeps)
    from_text: Callable[[Any, Any, int], Any] | None = None
    learned: bool = False


def _first_last(num_layers: int) -> Any:
    from tinylm.inherit.depth import first_last

    return first_last(num_layers)


def _skip_loss(teacher: Any, chunks: Any, kept: int) -> Any:
    from tinylm.inherit.depth import skip_loss

    return skip_loss(teacher, chunks)


def _greedy(teacher: Any, chunks: Any, kept: int) -> Any:
    from tinylm.inherit.depth import greedy

    return greedy(teacher, chunks, kept)


def _similarity(teacher: Any, chunks: Any, kept: int) -> Any:
    from tinylm.inherit.depth import similarity

    return similarity(teacher, chunks)


LAYER_RULES: dict[str, LayerScore] = {
    "first-last": LayerScore(from_position=_first_last),
    "skip-loss": LayerScore(from_text=_skip_loss),
    "greedy": LayerScore(from_text=_greedy),
    "similarity": LayerScore(from_text=_similarity),
    "learned": LayerScore(learned=True),
}
if TYPE_CHECKING:
    LayerRule = str
else:
    LayerRule = Literal[tuple(LAYER_RULES)]
