"""How many tokens one variation of a study needs to reach where another one ends.

    python benchmarks/tokens_to_loss.py STUDY_DIR --best "learned masks" --others "L2" "random
    weights"

The loss is that of training, a running mean over --width steps: runs of one seed see the same
batches in the same order, each for the first time, so their curves compare pairwise without a
held-out pass. For each of --others and each seed: the tokens from which on the best one's running
mean stays at or below the other's at its end, and at its middle. The last line is JSON; ``ratio``
is the other's tokens over the best one's, median over seeds (above 1: fewer needed).
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path)
    parser.add_argument("--best", required=True)
    parser.add_argument("--others", nargs="+", required=True)
    parser.add_argument("--width", type=int, default=15)
    options = parser.parse_args()
    curves = read_curves(options.study, options.width)
    ratios = {}
    for other in options.others:
        for share, when in ((0.5, "middle"), (1.0, "end")):
            found = []
            for seed in sorted(curves[other]):
                tokens, losses = curves[other][seed]
                place = round(share * (len(losses) - 1))
                found.append(tokens[place] / tokens_to(losses[place], *curves[options.best][seed]))
            ratios[f"{other}, {when}"] = found
            times = ", ".join(f"{ratio:.2f}x" for ratio in found)
            print(f"{options.best} to where {other} is at its {when}: {times} fewer tokens")
    print(
        json.dumps(
            {"ratio": statistics.median(ratios[f"{options.others[0]}, end"]), "ratios": ratios}
        )
    )


def read_curves(study: Path, width: int) -> dict[str, dict[int, tuple[np.ndarray, np.ndarray]]]:
    """variation -> seed -> (tokens, running mean of the training loss), noise-floor runs left
    out."""
    seeds = set(json.loads((study / "study.json").read_text())["seeds"])
    curves: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
    for file in sorted((study / "records").glob("*.json")):
        record = json.loads(file.read_text())
        if record["status"] == "finished" and record["seed"] in seeds:
            tokens, losses = np.array(record["results"]["losses"]["student"]).T
            smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
            curves.setdefault(record["variation"], {})[record["seed"]] = (
                tokens[width - 1 :],
                smooth,
            )
    return curves


def tokens_to(level: float, tokens: np.ndarray, losses: np.ndarray) -> float:
    """The tokens from which on ``losses`` stays at or below ``level``; infinity when it ends above.

    Not the first time below: one run of easy batches would count as having arrived.
    """
    above = np.flatnonzero(losses > level)
    if len(above) == 0:
        return float(tokens[0])
    return float(tokens[above[-1] + 1]) if above[-1] + 1 < len(tokens) else float("inf")


if __name__ == "__main__":
    main()
