"""[tune]: each variation first finds its own best value of some keys, by whole runs with one seed.

Shapes that differ want different learning rates; one rate for all would compare the shapes' luck
with it. The trials are a study of their own in OUT/tuning, with its own report. The best trial of a
variation is its run with that seed, and is not done again. A variation with ``tuned_as`` has no
trials and takes another's values.
"""

import dataclasses
from pathlib import Path
from typing import Any

from tinylm.artifact import read_json, write_json
from tinylm.errors import WorkError
from tinylm.study.grid import Variation, combinations
from tinylm.study.spec import Study

FOLDER = "tuning"


def trials(study: Study) -> Study:
    """Every variation of ``study`` at every combination of its [tune], with the first seed."""
    found = [
        Variation(f"{variation.name}, {name}", {**variation.changes, **values}, None)
        for variation in study.variations
        if not variation.tuned_as
        for name, values in combinations(study.tune)
    ]
    first = found[0].name
    found[1:] = [dataclasses.replace(trial, reference=first) for trial in found[1:]]
    return dataclasses.replace(
        study,
        title=f"{study.title}: trials",
        question=f"Which {', '.join(study.tune)} does each variation want?",
        kind="list",
        variations=tuple(found),
        seeds=study.seeds[:1],
        noise_seeds=(),
        axis="",
        series="",
        tune={},
    )


def settle(study: Study, tried: dict[str, Any], out: Path) -> Study:
    """``study`` with each variation at the best of its trials (``tried``: their results.json, in
    ``out``/tuning), whose records are taken over into ``out``.

    Raises:
        WorkError: a variation has no trial that ended with a number.
    """
    ended = {run["variation"]: run for run in tried["runs"] if run["value"] is not None}
    sign = 1 if study.measures[0].better == "lower" else -1
    options = combinations(study.tune)
    settled, notes, adopted = [], [], {}
    best_of: dict[str, dict[str, Any]] = {}  # variation -> its values
    for variation in study.variations:
        if variation.tuned_as:
            changes = {**variation.changes, **best_of[variation.tuned_as]}
            settled.append(dataclasses.replace(variation, changes=changes))
            continue
        scored = [
            (sign * run["value"], run["id"], name, values)
            for name, values in options
            if (run := ended.get(f"{variation.name}, {name}"))
        ]
        if not scored:
            raise WorkError(f"{variation.name}: no trial ended, see {out / FOLDER / 'report.html'}")
        _, best, name, values = min(scored, key=lambda trial: trial[0])
        best_of[variation.name] = values
        settled.append(dataclasses.replace(variation, changes={**variation.changes, **values}))
        adopted[variation.name] = read_json(out / FOLDER / "records" / f"{best}.json")
        notes.append(f"{variation.name}: {name}{_at_the_edge(study, values)}")
    told = (
        f"Tuned for each variation with seed {study.seeds[0]}, of"
        f" {', '.join(name for name, _ in options)}. {'; '.join(notes)}"
    )
    study = dataclasses.replace(
        study, variations=tuple(settled), notes=(*study.notes, f"{told}."), tune={}
    )
    for run in study.runs():
        path = out / "records" / f"{run.id}.json"
        own = run.variation in adopted and run.seed == study.seeds[0] and not run.noise
        if own and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {**adopted[run.variation], "id": run.id, "variation": run.variation})
    return study


def _at_the_edge(study: Study, values: dict[str, Any]) -> str:
    """A word where the best is the first or last that was tried: a better one may lie outside."""
    edges = [
        key
        for key, tried in study.tune.items()
        if len(tried) > 1 and values[key] in (tried[0], tried[-1])
    ]
    return f" (at the edge of {', '.join(edges)})" if edges else ""
