"""A study's variations before, during and after training: bits per byte, mean and standard
deviation over seeds.

    python benchmarks/study_steps.py STUDY_DIR --against L2 --out steps.json

STUDY_DIR is the folder of `tinylm study run` with ``train.evaluate_every`` set. "before" and
"after" are scored by document as in every report; "step N" is the loss of whole windows of the
held-out store, so columns of the two kinds do not compare with each other. Behind each mean: the
mean difference to --against, paired by seed. The last line is JSON; ``ratio`` is the bits per byte
of --against over the best variation's, after training.
"""

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path)
    parser.add_argument("--against", required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    measured = read(options.study)
    columns = list(dict.fromkeys(column for by_column in measured.values() for column in by_column))
    last = columns[-1]
    order = sorted(measured, key=lambda name: statistics.mean(measured[name][last].values()))
    print("| variation | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name in order:
        cells = [
            cell(measured[name][column], measured[options.against][column]) for column in columns
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")
    best, other = (
        statistics.mean(measured[name][last].values()) for name in (order[0], options.against)
    )
    result = {"ratio": other / best, "best": order[0], "bits_per_byte": measured}
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in ("ratio", "best")}))


def read(study: Path) -> dict[str, dict[str, dict[int, float]]]:
    """variation -> column -> seed -> bits per byte, noise-floor runs left out."""
    seeds = set(json.loads((study / "study.json").read_text())["seeds"])
    found: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for file in sorted((study / "records").glob("*.json")):
        record = json.loads(file.read_text())
        name, seed = record["variation"], record["seed"]
        if record["status"] != "finished" or seed not in seeds:
            continue
        found[name]["before"][seed] = record["results"]["bits_per_byte"]["inherited"]
        for line in (study / "runs" / file.stem / "metrics.jsonl").read_text().splitlines():
            row = json.loads(line)
            if "valid_bits_per_byte" in row:
                found[name][f"step {row['step']}"][seed] = row["valid_bits_per_byte"]
        found[name]["after"][seed] = record["results"]["bits_per_byte"]["student"]
    return found


def cell(values: dict[int, float], reference: dict[int, float]) -> str:
    spread = f" ± {statistics.stdev(values.values()):.3f}" if len(values) > 1 else ""
    common = [values[seed] - reference[seed] for seed in values if seed in reference]
    difference = f" ({statistics.mean(common):+.3f})" if common and any(common) else ""
    return f"{statistics.mean(values.values()):.3f}{spread}{difference}"


if __name__ == "__main__":
    main()
