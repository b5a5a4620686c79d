"""What counting reaches with the training tokens of a finished study, and its report anew with it.

    python benchmarks/study_floors.py docs/results/depth [more folders] --work runs/floors

For results of a version that did not count: takes each variation's recipe out of results.json,
makes its text, tokenizer and store again (no model is trained), counts, puts `floors` into
results.json, withdraws the verdicts that the gate (tinylm/study/gate.py) does not let pass, and
writes the report and its figures again. The last line is JSON: verdicts withdrawn a study.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from tinylm.artifact import hash_of, read_json
from tinylm.pipeline.recipe import Recipe, from_table
from tinylm.pipeline.score_stages import floors_stage
from tinylm.pipeline.settings import overlay
from tinylm.pipeline.stages import Stages
from tinylm.pipeline.text_stages import compact_stage, corpus_stage, pack_stage, teacher_stage
from tinylm.study import gate
from tinylm.study.report import write_report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("studies", type=Path, nargs="+")
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    withdrawn = {}
    for folder in options.studies:
        results = read_json(folder / "results.json")
        for rung in results["rungs"]:
            if not rung.get("floors"):
                rung["floors"] = counted(results, rung, options.work)
        before = {rung["name"]: rung["verdict"] for rung in results["rungs"]}
        gate.apply(results["rungs"])
        results["verdicts"] = {r["name"]: r["verdict"] for r in results["rungs"] if r["reference"]}
        changed = [name for name, word in results["verdicts"].items() if word != before[name]]
        withdrawn[folder.name] = f"{len(changed)} of {len(results['verdicts'])}"
        write_report(results, folder)
    print(json.dumps({"withdrawn": withdrawn}))


def counted(results: dict[str, Any], rung: dict[str, Any], work: Path) -> dict[str, float]:
    """Mean over the variation's seeds; equal recipes are counted once."""
    found = []
    for seed in rung["seeds"]:
        table = overlay(overlay(results["base_recipe"], rung["changes"]), {"seed": seed})
        found.append(_counted(from_table(Recipe, table, rung["name"]), work))
    return {kind: float(np.mean([row[kind] for row in found])) for kind in gate.FLOORS}


_known: dict[str, dict[str, float]] = {}


def _counted(recipe: Recipe, work: Path) -> dict[str, float]:
    parts = (recipe.teacher, vars(recipe.corpus), vars(recipe.tokenizer))
    key = hash_of([*parts, recipe.training().to_dict()])
    if key not in _known:
        stages = Stages(work, 6)
        teacher = teacher_stage(recipe, stages)
        corpus = corpus_stage(recipe, stages, teacher)
        compact = compact_stage(recipe, stages, teacher, corpus)
        store = pack_stage(recipe, stages, corpus, compact)
        _known[key] = floors_stage(recipe, stages, corpus, store, compact)
    return _known[key]


if __name__ == "__main__":
    main()
