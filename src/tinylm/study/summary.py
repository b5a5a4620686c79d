"""From the records of a study to its numbers: results.json, whatever part of the study has been
run.

Everything in it is a function of the recipes and results alone, except what stands under ``times``
and ``machine``.
"""

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tinylm.artifact import hash_of, read_json
from tinylm.errors import InputError
from tinylm.evaluate.tasks.catalog import tasks_in_bits
from tinylm.study import gate
from tinylm.study.documents import by_document, document_interval, weaken
from tinylm.study.spec import Study, recipe_hash
from tinylm.study.statistics import (
    Comparison,
    compare,
    compare_groups,
    half_width,
    holm,
    mean_with_error,
    verdict,
)

Values = dict[str, dict[int, float]]  # variation -> seed -> value


def definition(study: Study) -> dict[str, Any]:
    """The study as plain data (study.json): all that a report needs beside the records."""
    runs = [
        {
            "id": r.id,
            "variation": r.variation,
            "seed": r.seed,
            "noise": r.noise,
            "recipe_hash": recipe_hash(r.recipe),
        }
        for r in study.runs()
    ]
    plain = dataclasses.asdict(study)
    return {**plain, "runs": runs, "hash": hash_of([plain["variations"], plain["measures"], runs])}


def summarise(out: Path) -> dict[str, Any]:
    """The content of results.json for the study in ``out``, finished or not.

    Raises:
        InputError: no study there.
    """
    if not (out / "study.json").exists():
        raise InputError(
            f"{out} holds no study (no study.json): give the --out of a `tinylm study run`"
        )
    study = read_json(out / "study.json")
    records = _records(study["runs"], out)
    primary, *others = study["measures"]
    runs = [_run_row(run, records.get(run["id"]), primary["key"]) for run in study["runs"]]
    rungs = _rungs(study, records, primary)
    return {
        "study": study["name"],
        "scale": study["scale"],
        "title": study["title"],
        "claim": study["claim"],
        "question": study["question"],
        "notes": study["notes"],
        "kind": study["kind"],
        "axis": study["axis"],
        "series": study["series"],
        "repeat": study["repeat"],
        "hash": study["hash"],
        "measure": primary,
        "state": {
            status: sum(run["status"] == status for run in runs)
            for status in ("finished", "failed", "to do")
        },
        "verdicts": {rung["name"]: rung["verdict"] for rung in rungs if rung["reference"]},
        "rungs": rungs,
        "total_gain": _total_gain(study, records, primary) if study["kind"] == "ladder" else None,
        "noise_floor": _noise_floor(study, records, primary),
        "equal_budget": _equal_budget(rungs),
        "other_measures": [
            {"measure": measure, "rungs": _rungs(study, records, measure)}
            for measure in others + _task_measures(records.values())
        ],
        "by_source": _by_source(study, records),
        "runs": runs,
        "base_recipe": study["base"],
        "versions": next(
            (r["results"].get("versions", {}) for r in records.values() if _ok(r)), {}
        ),
        "machine": sorted({str(_machine(r)) for r in records.values() if _ok(r)}),
        "processors": sorted(processors([r for r in records.values() if _ok(r)])),
        "times": {
            "hours": round(sum(record["seconds"] for record in records.values()) / 3600, 4),
            "runs": {
                name: {"seconds": r["seconds"], "ended": r["ended"]} for name, r in records.items()
            },
        },
    }


def lookup(results: Any, key: str) -> float | None:
    """The finite number at the dotted ``key``, or None."""
    for part in key.split("."):
        results = results.get(part) if isinstance(results, dict) else None
    number = (
        isinstance(results, (int, float))
        and not isinstance(results, bool)
        and math.isfinite(results)
    )
    return float(results) if number else None  # type: ignore[arg-type]


def _records(runs: list[dict[str, Any]], out: Path) -> dict[str, dict[str, Any]]:
    """The records that were made by exactly the recipes of the study, by run id."""
    found = {}
    for run in runs:
        path = out / "records" / f"{run['id']}.json"
        if path.exists():
            record = read_json(path)
            if record["recipe_hash"] == run["recipe_hash"]:
                if _ok(record):
                    record["results"]["student_tasks"] = _student_tasks(record["results"])
                found[run["id"]] = record
    return found


def _ok(record: dict[str, Any] | None) -> bool:
    return record is not None and record["status"] == "finished"


# of one recipe and seed on two kinds of processor; measured on the demo
ARITHMETIC = "their arithmetic alone makes up to 0.010 bits per byte"


def processors(records: Iterable[dict[str, Any]]) -> set[str]:
    """The processors that runs were made on, as far as their records say."""
    machines = [record["results"].get("machine", {}) for record in records]
    return {machine["cpu"] for machine in machines if machine.get("cpu")}


def _machine(record: dict[str, Any]) -> str:
    machine = record["results"].get("machine", {})
    return ", ".join(str(machine[key]) for key in ("short", "cpu", "system") if machine.get(key))


def _run_row(run: dict[str, Any], record: dict[str, Any] | None, key: str) -> dict[str, Any]:
    """One line of the run table."""
    row = {
        **run,
        "status": record["status"] if record else "to do",
        "value": None,
        "error": "",
        "trace": "",
    }
    if _ok(record):
        assert record is not None
        row["value"] = lookup(record["results"], key)
        if row["value"] is None:
            row |= {
                "status": "failed",
                "error": f"the run ended but its results hold no finite {key}",
            }
    elif record:
        row |= {"error": record["error"], "trace": record["trace"]}
    return row


def _values(
    study: dict[str, Any], records: dict[str, dict[str, Any]], key: str, *, noise: bool = False
) -> Values:
    values: Values = {variation["name"]: {} for variation in study["variations"]}
    for run in study["runs"]:
        record = records.get(run["id"])
        if run["noise"] is noise and record and _ok(record):
            value = lookup(record["results"], key)
            if value is not None:
                values[run["variation"]][run["seed"]] = value
    return values


def _compare(values: Values, name: str, reference: str) -> Comparison | None:
    seeds = sorted(set(values[name]) & set(values[reference]))
    return (
        compare([values[name][s] for s in seeds], [values[reference][s] for s in seeds])
        if seeds
        else None
    )


def _rungs(
    study: dict[str, Any], records: dict[str, dict[str, Any]], measure: dict[str, Any]
) -> list[dict[str, Any]]:
    """One entry a variation: its values, and how it compares with its reference, corrected over all
    of them."""
    values = _values(study, records, measure["key"])
    comparisons = [
        (
            _compare(values, variation["name"], variation["reference"])
            if variation["reference"]
            else None
        )
        for variation in study["variations"]
    ]
    adjusted = holm([math.nan if c is None else c.p for c in comparisons])
    documents = by_document(study, records, measure["key"])
    rungs = []
    for variation, comparison, p in zip(study["variations"], comparisons, adjusted, strict=True):
        name, own = variation["name"], values[variation["name"]]
        word = verdict(comparison, p, measure["better"]) if variation["reference"] else "reference"
        over_documents = (
            document_interval(documents[name], documents[variation["reference"]])
            if variation["reference"]
            else None
        )
        numbers = list(own.values())
        facts = {
            "name": name,
            "reference": variation["reference"],
            "changes": variation["changes"],
            "seeds": sorted(own),
            "values": [own[seed] for seed in sorted(own)],
            "mean": _number(np.mean(numbers)) if numbers else None,
            "sd": _number(np.std(numbers, ddof=1)) if len(numbers) > 1 else None,
            "evaluation_error": _mean_of(study, records, name, measure["error"]),
            **_comparison(comparison),
            "p_holm": _number(p),
            "document_interval": over_documents,
            "verdict": weaken(word, over_documents),
            "parameters": _mean_of(study, records, name, "parameters.student"),
            "tokens_trained": _mean_of(study, records, name, "tokens_trained"),
        }
        if measure["key"].startswith("bits_per_byte."):
            facts["bits_per_byte"] = facts["mean"]
            facts["floors"] = _floors(study, records, name)
        rungs.append(facts)
    gate.apply(rungs)
    return rungs


def _floors(
    study: dict[str, Any], records: dict[str, dict[str, Any]], name: str
) -> dict[str, float | None] | None:
    """What counting reaches with a variation's own tokens, mean over seeds."""
    found = {kind: _mean_of(study, records, name, f"floors.{kind}") for kind in gate.FLOORS}
    return None if None in found.values() else found


def _comparison(comparison: Comparison | None) -> dict[str, Any]:
    if comparison is None:
        return {"difference": None, "interval": None, "p": None, "method": "", "pairs": 0}
    has_interval = not math.isnan(comparison.low)
    return {
        "difference": _number(comparison.mean),
        "interval": [_number(comparison.low), _number(comparison.high)] if has_interval else None,
        "p": _number(comparison.p),
        "method": comparison.method,
        "pairs": comparison.seeds,
    }


def _total_gain(
    study: dict[str, Any], records: dict[str, dict[str, Any]], measure: dict[str, Any]
) -> Any:
    """The last rung against the first, over the seeds both have; ``percent`` is the relative
    change, gains positive."""
    values = _values(study, records, measure["key"])
    first, last = study["variations"][0]["name"], study["variations"][-1]["name"]
    comparison = _compare(values, last, first)
    seeds = sorted(set(values[first]) & set(values[last]))
    if comparison is None or any(values[first][seed] == 0 for seed in seeds):
        return None
    sign = -1 if measure["better"] == "lower" else 1
    relative = compare([values[last][s] / values[first][s] for s in seeds], [1.0] * len(seeds))
    ends = sorted(_number(100 * sign * end) or 0.0 for end in (relative.low, relative.high))
    return {
        "from": first,
        "to": last,
        **_comparison(comparison),
        "percent": _number(100 * sign * relative.mean),
        "percent_interval": None if math.isnan(relative.low) else ends,
        "verdict": verdict(comparison, comparison.p, measure["better"]),
    }


def _noise_floor(
    study: dict[str, Any], records: dict[str, dict[str, Any]], measure: dict[str, Any]
) -> dict[str, Any]:
    """The baseline against itself with other seeds, which share nothing: what "no difference" looks
    like. ``visible``: the difference that so many seeds of two such variations would just see, were
    they no more alike than other seeds."""
    baseline = next(v["name"] for v in study["variations"] if v["reference"] is None)
    own = _values(study, records, measure["key"])[baseline]
    again = _values(study, records, measure["key"], noise=True)[baseline]
    a, b = [again[seed] for seed in sorted(again)], [own[seed] for seed in sorted(own)]
    placebo = compare_groups(a, b) if a and b else None
    sd = float(np.std(a + b, ddof=1)) if len(a + b) > 1 else math.nan
    visible = half_width(sd * math.sqrt(2), len(b)) if len(b) > 1 else math.nan
    return {
        "baseline": baseline,
        "runs": len(a) + len(b),
        "sd": _number(sd),
        "visible": _number(visible),
        **_comparison(placebo),
        "verdict": verdict(placebo, math.nan if placebo is None else placebo.p, measure["better"]),
    }


def _equal_budget(rungs: list[dict[str, Any]]) -> dict[str, Any]:
    """Whether all variations have the same size and saw as many tokens, within 2 % (a plan is
    within 1 %)."""
    spread = {}
    for key in ("parameters", "tokens_trained"):
        sizes = [rung[key] for rung in rungs if rung[key]]
        spread[key] = _number(max(sizes) / min(sizes) - 1) if sizes else None
    return {**spread, "equal": all(value is None or value <= 0.02 for value in spread.values())}


def _student_tasks(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """{task: {"score", "stderr"}} of the student, and their average with its error when there are
    several."""
    models = (results.get("tasks") or {}).get("models", [])
    scores: dict[str, Any] = next(
        (model["tasks"] for model in models if model["model"] == "student"), {}
    )
    tasks = {
        name: {"score": score["score"], "stderr": score["stderr"] or 0.0}
        for name, score in scores.items()
    }
    averaged = [score for name, score in tasks.items() if name not in tasks_in_bits()]
    if len(averaged) > 1:
        mean, error = mean_with_error(
            [score["score"] for score in averaged], [score["stderr"] for score in averaged]
        )
        tasks["average"] = {"score": mean, "stderr": error}
    return tasks


def _task_measures(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A measure for every zero-shot task the runs scored."""
    names = {
        name for record in records if _ok(record) for name in record["results"]["student_tasks"]
    }
    key = "student_tasks.{}.{}"
    return [
        {
            "key": key.format(name, "score"),
            "error": key.format(name, "stderr"),
            "label": name,
            "better": "lower" if name in tasks_in_bits() else "higher",
            "unit": "",
        }
        for name in sorted(names, key=lambda name: (name != "average", name))
    ]


def _by_source(
    study: dict[str, Any], records: dict[str, dict[str, Any]]
) -> dict[str, dict[str, float]]:
    """Mean bits per byte of each variation on each source of the held-out text."""
    found: dict[str, dict[str, list[float]]] = {}
    for run in study["runs"]:
        record = records.get(run["id"])
        if run["noise"] or record is None or not _ok(record):
            continue
        sources = record["results"].get("scores", {}).get("student", {}).get("by_source", {})
        for source, score in sources.items():
            found.setdefault(source, {}).setdefault(run["variation"], []).append(
                score["bits_per_byte"]
            )
    return {
        source: {name: float(np.mean(v)) for name, v in row.items()}
        for source, row in sorted(found.items())
    }


def _mean_of(
    study: dict[str, Any], records: dict[str, dict[str, Any]], name: str, key: str
) -> float | None:
    """Mean over seeds of another number of the results; of standard errors, the error of one run,
    not of their mean."""
    numbers = list(_values(study, records, key)[name].values()) if key else []
    return _number(np.mean(numbers)) if numbers else None


def _number(value: Any) -> float | None:
    value = float(value)
    return value if math.isfinite(value) else None
