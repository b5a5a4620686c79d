"""The held-out documents as a second source of noise: would the difference hold on other documents
of the same kind?

Seeds say how far a run is luck, documents how far the text that judged it is. Documents are drawn
anew, the same for both sides and for all seeds, so what makes a document hard for every model
cancels.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tinylm.evaluate.bits_per_byte import Scores, paired_difference


def by_document(
    study: dict[str, Any], records: Mapping[str, dict[str, Any]], key: str
) -> dict[str, dict[int, Any]]:
    """variation -> seed -> {"bits", "bytes"} of each document, of the runs that ended; empty for
    other measures than bits per byte."""
    found: dict[str, dict[int, Any]] = {variation["name"]: {} for variation in study["variations"]}
    measure, _, model = key.partition(".")
    for run in study["runs"]:
        record = records.get(run["id"], {})
        scores = record.get("results", {}).get("scores", {}).get(model, {})
        if measure == "bits_per_byte" and not run["noise"] and "by_document" in scores:
            found[run["variation"]][run["seed"]] = scores["by_document"]
    return found


def document_interval(ours: Mapping[int, Any], base: Mapping[int, Any]) -> list[float] | None:
    """95 % bootstrap interval over documents of the difference in bits per byte, mean over the
    seeds that both have; None without one, or where the documents are not the same.

    ``ours`` and ``base``: seed -> {"bits", "bytes"}, a number for each document.
    """
    seeds = sorted(set(ours) & set(base))
    if not seeds:
        return None
    sizes = [side[seed]["bytes"] for side in (ours, base) for seed in seeds]
    if any(size != sizes[0] for size in sizes) or len(sizes[0]) < 2:
        return None
    found = paired_difference(_mean(ours, seeds), _mean(base, seeds))
    return [found["low"], found["high"]]


def _mean(side: Mapping[int, Any], seeds: list[int]) -> Scores:
    bits, sizes = [side[seed]["bits"] for seed in seeds], np.array(side[seeds[0]]["bytes"])
    return Scores(np.mean(bits, axis=0), sizes, np.zeros_like(sizes), [""] * len(sizes), 0)


def weaken(verdict: str, interval: list[float] | None) -> str:
    """The verdict over seeds, with "perhaps" where the documents do not bear it out."""
    certain = verdict in ("better", "worse")
    return (
        f"perhaps {verdict}"
        if certain and interval and interval[0] <= 0 <= interval[1]
        else verdict
    )
