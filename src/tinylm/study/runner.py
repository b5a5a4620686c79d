"""Run a study: only what is missing, within a budget of hours, a failing run never stopping the
others."""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from tinylm.artifact import alone_in, read_json, write_json
from tinylm.errors import InputError, WorkError
from tinylm.machine import cores, cpu_name
from tinylm.pipeline.recipe import Recipe
from tinylm.study import cost, tune
from tinylm.study.engines import ENGINES
from tinylm.study.execute import Job, Runner
from tinylm.study.grid import flatten
from tinylm.study.report import sentences, write_report
from tinylm.study.spec import Run, Study, recipe_hash
from tinylm.study.summary import ARITHMETIC, definition, lookup, processors, summarise
from tinylm.terminal import console, print_table


def run_study(
    study: Study,
    out: Path,
    *,
    engine: str = "local",
    workers: int = 1,
    max_hours: float = 0,
    runner: Runner | None = None,
    work: Path | None = None,
) -> dict[str, Any]:
    """Run what ``out`` does not hold yet, write results.json, report.html and report.md there,
    return the results.

    Args:
        out: the study's folder.
        work: of the stages that runs share, so that equal ones are computed once; ``out``/work by
            default.
        engine: of ``ENGINES``: processes of this machine, or a Ray cluster.
        workers: runs at a time; each gets an equal share of the cores.
        max_hours: no run is started that would end later than this after the call; 0: no limit.
        runner: (recipe, out, work) -> results; the pipeline by default.

    Raises:
        InputError: ``out`` holds another study. WorkError: runs failed; the report is written and
            says which and why.
    """
    if engine not in ENGINES:
        raise InputError(f"--engine {engine}: use {' or '.join(ENGINES)}")
    _check_workers(workers)
    # sums depend on the number of threads, so repeating to the last digit needs it too
    if workers > 1:
        study = dataclasses.replace(study, repeat=f"{study.repeat} --workers {workers}")
    started, work = time.time(), work or out / "work"
    if study.tune:
        with suppress(WorkError):  # a rate at which training breaks down is an answer too
            run_study(
                tune.trials(study),
                out / tune.FOLDER,
                engine=engine,
                workers=workers,
                max_hours=max_hours,
                runner=runner,
                work=work,
            )
        tried = summarise(out / tune.FOLDER)
        if tried["state"]["to do"]:
            return tried
        study = tune.settle(study, tried, out)
        # an hour that the trials took is not there twice
        max_hours -= (time.time() - started) / 3600 if max_hours else 0
    with alone_in(out):
        claim_folder(study, out)
        results = _run_missing(study, out, work, engine, workers, max_hours, runner)
    failed = [run["id"] for run in results["runs"] if run["status"] == "failed"]
    if failed:
        raise WorkError(
            f"{len(failed)} of {len(results['runs'])} runs failed ({', '.join(failed)}): see"
            f" {out / 'report.html'}"
        )
    return results


def _run_missing(
    study: Study,
    out: Path,
    work: Path,
    engine: str,
    workers: int,
    max_hours: float,
    runner: Runner | None,
) -> dict[str, Any]:
    runs = {run.id: run for run in study.runs()}
    todo = [run for run in runs.values() if _finished(out, run) is None]
    finished = [
        (run.recipe, record["seconds"]) for run in runs.values() if (record := _finished(out, run))
    ]
    print_plan(study, out, workers)
    _say_other_processor([record for run in runs.values() if (record := _finished(out, run))])
    threads = max(1, int(os.environ.get("OMP_NUM_THREADS") or cores()) // workers)
    job = partial(
        Job, out=str(out), work=str(work), runner=runner, threads=threads, quiet=workers > 1
    )
    jobs = _jobs(todo, job, max_hours, finished)
    ended = 0

    def on_record(record: dict[str, Any]) -> None:
        nonlocal ended
        ended += 1
        if record["status"] == "finished":
            finished.append((runs[record["id"]].recipe, record["seconds"]))
        console.print(f"[{ended}/{len(todo)}] {_line(record, study)}", markup=False)

    try:
        ENGINES[engine](jobs, workers, on_record)
    finally:
        results = summarise(out)
        write_report(results, out)
    return results


def _say_other_processor(records: list[dict[str, Any]]) -> None:
    """A word where earlier runs are of another processor: it alone moves the last digits."""
    here = cpu_name()
    others = processors(records) - {here}
    if others:
        console.print(
            f"[yellow]earlier runs of this study are of {', '.join(sorted(others))}, this is"
            f" {here}: {ARITHMETIC}[/]",
            highlight=False,
        )


def claim_folder(study: Study, out: Path) -> None:
    """Write ``study.json`` into ``out``. A study that is there already may gain runs; none that
    ended may change."""
    path, new = out / "study.json", definition(study)
    if path.exists():
        known = {run["id"]: run["recipe_hash"] for run in new["runs"]}
        records = [read_json(record) for record in sorted((out / "records").glob("*.json"))]
        done = {
            record["id"]: record["recipe_hash"]
            for record in records
            if record["status"] == "finished"
        }
        left_out = sorted(done.keys() - known.keys())
        if left_out and len(left_out) == len(done):
            raise InputError(f"{out} holds another study: choose another --out")
        if any(known.get(name, recipe) != recipe for name, recipe in done.items()):
            raise InputError(f"{out} holds this study with other settings: choose another --out")
        if left_out:
            raise InputError(
                f"{out} holds {len(left_out)} runs that this call leaves out ({left_out[0]}, ...): "
                "name their seeds and variations too, or choose another --out"
            )
    write_json(path, new)


def print_plan(study: Study, out: Path, workers: int) -> None:
    """What the study is and what is left of it, before anything starts."""
    _check_workers(workers)
    if study.tune:
        print_plan(tune.trials(study), out / tune.FOLDER, workers)
    runs = {run.id: run for run in study.runs()}
    records = {run.id: _finished(out, run) for run in runs.values()}
    todo = [run.recipe for run in runs.values() if records[run.id] is None]
    finished = [
        (run.recipe, record["seconds"]) for run in runs.values() if (record := records[run.id])
    ]
    seeds = (
        f"seeds {_listed(study.seeds)}, noise floor {_listed(study.noise_seeds) or 'not measured'}"
    )
    console.print(
        f"{study.title} ({study.scale}): {len(study.variations)} variations, {seeds}: {len(runs)}"
        " runs"
    )
    console.print(
        cost.estimate(todo, finished, workers) if todo else "all runs are finished", markup=False
    )


def _check_workers(workers: int) -> None:
    if workers < 1:
        raise InputError(f"--workers {workers}: must be 1 or more")


def print_verdicts(results: dict[str, Any], out: Path) -> None:
    """The end of `tinylm study` on the terminal."""
    label = results["measure"]["label"]
    rows = [
        (rung["name"], _fixed(rung["mean"]), _fixed(rung["sd"]), rung["verdict"])
        for rung in results["rungs"]
    ]
    print_table(results["title"], ["variation", label, "sd", "verdict"], rows)
    for sentence in sentences(results):
        print(sentence)
    print(f"report: {out / 'report.html'}")


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _fixed(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _jobs(
    todo: list[Run],
    job: Callable[[str, str, int, Recipe], Job],
    max_hours: float,
    finished: list[tuple[Recipe, float]],
) -> Iterator[Job]:
    """Jobs, made only when one is wanted, so that each is checked against the hours left and what
    runs took so far."""
    start = time.time()
    speed = cost.machine_speed() if max_hours and not finished else 0.0
    for position, run in enumerate(todo):
        left = max_hours * 3600 - (time.time() - start)
        needed = (
            cost.predict_seconds(run.recipe, finished, speed) if finished or speed else None
        ) or 0.0
        if max_hours and needed >= left:
            console.print(
                f"stopped: {len(todo) - position} of {len(todo)} runs not started; --max-hours"
                f" {max_hours:g} leaves {cost.hours(max(0, left))}, the next needs about"
                f" {cost.hours(needed)}; run again to go on"
            )
            return
        yield job(run.id, run.variation, run.seed, run.recipe)


def _finished(out: Path, run: Run) -> dict[str, Any] | None:
    """The record of ``run`` if it ended well with exactly this recipe, settings unknown then at
    their defaults now."""
    path = out / "records" / f"{run.id}.json"
    if not path.exists():
        return None
    record = read_json(path)
    now = flatten(json.loads(json.dumps(run.recipe.to_dict())))
    same = all(
        now.get(key) == value for key, value in flatten(record["recipe"]).items() if key != "name"
    )
    same = same and record["recipe_hash"] == recipe_hash(run.recipe)
    return record if record["status"] == "finished" and same else None


def _line(record: dict[str, Any], study: Study) -> str:
    what = f"{record['variation']}, seed {record['seed']}: "
    if record["status"] == "failed":
        return what + f"FAILED, {record['error']}"
    value = lookup(record["results"], study.measures[0].key)
    shown = "no value" if value is None else f"{value:.4f}"
    return what + f"{study.measures[0].label} {shown} in {cost.hours(record['seconds'])}"
