"""Forgetting, measured: the loss of a round's batches at its end, in the order in which they were
seen.

A model that forgets has a falling line: what it saw last it still knows, what it saw first it has
lost again. That is the observation behind multiple-round training (paper, section 4, figure of the
loss over batches).
"""

from pathlib import Path
from typing import Any

import numpy as np

from tinylm.artifact import read_json, write_json, write_text
from tinylm.train.batches import Plan

BINS = 40


def record_forgetting(
    folder: Path,
    plan: Plan,
    round_number: int,
    chosen: np.ndarray | None,
    seen: np.ndarray,
    losses: np.ndarray,
) -> dict[str, Any]:
    """Write ``forgetting-ROUND.json`` and bring ``forgetting.svg`` up to date; returns the numbers.

    Args:
        chosen: the round's units (None: all).
        seen: nats per token of every sequence in the pool when it was last trained on.
        losses: the same at the end of the round, from one pass of the frozen model.
    """
    steps = range(plan.steps[round_number])
    batches = [plan.batch(round_number, step, chosen) for step in steps]
    result = {"round": round_number} | measure(
        np.array([seen[batch].mean() for batch in batches]),
        np.array([losses[batch].mean() for batch in batches]),
    )
    from tinylm.render.figures import figure, to_svg  # matplotlib takes a second to import

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"forgetting-{round_number}.json", result)
    with figure() as (fig, axes):
        draw(axes, [read_json(file) for file in sorted(folder.glob("forgetting-*.json"))])
        write_text(folder / "forgetting.svg", to_svg(fig))
    return result


def measure(seen: np.ndarray, at_end: np.ndarray) -> dict[str, Any]:
    """Numbers of one round from the batches' losses in the order seen: when trained on, and at the
    end.

    ``forgetting`` is the mean loss at the end on the first quarter of the batches, less that on the
    last quarter, in nats per token: above 0 when early batches were forgotten. ``stderr`` is its
    standard error over batches. ``learned`` is the mean of (loss when seen - loss at the end): what
    a batch's own training and all after it brought.
    """
    quarter = max(1, len(at_end) // 4)
    early, late = at_end[:quarter], at_end[-quarter:]
    spread = [part.var(ddof=1) / len(part) if len(part) > 1 else np.nan for part in (early, late)]
    bins = min(BINS, len(at_end))
    return {
        "batches": len(at_end),
        "forgetting": float(early.mean() - late.mean()),
        "stderr": float(np.sqrt(sum(spread))),
        "learned": float((seen - at_end).mean()),
        "loss_when_seen": [float(part.mean()) for part in np.array_split(seen, bins)],
        "loss_at_end": [float(part.mean()) for part in np.array_split(at_end, bins)],
    }


def draw(axes: Any, rounds: list[dict[str, Any]]) -> None:
    """Draw what :func:`record_forgetting` measured: loss over the order of batches, when trained on
    and at the round's end."""
    for measured in rounds:
        at_end, when_seen = measured["loss_at_end"], measured["loss_when_seen"]
        place = (np.arange(len(at_end)) + 0.5) / len(at_end)
        (line,) = axes.plot(place, at_end, label=f"end of round {measured['round'] + 1}")
        axes.plot(place, when_seen, color=line.get_color(), alpha=0.4, linestyle="--")
    axes.plot([], [], color="gray", linestyle="--", label="when it was trained on")
    axes.set(xlabel="batch, in the order seen (share of the round)", ylabel="loss, nats per token")
    axes.legend()
