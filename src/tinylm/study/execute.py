"""One run of a study, in a process of its own: a crash, a leak or a kill of it cannot touch the
others.

A run leaves ``records/ID.json``: what was run, how it ended, and all its results. That file is
written last and atomically; where it says "finished" the run is never done again.
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinylm.artifact import write_json
from tinylm.errors import InputError, WorkError
from tinylm.pipeline.recipe import Recipe
from tinylm.study.spec import recipe_hash

Runner = Callable[[Recipe, Path, Path], dict[str, Any]]


@dataclass(frozen=True)
class Job:
    """Everything a process needs. ``runner`` None is the pipeline; ``threads`` 0 leaves the
    library's choice."""

    id: str
    variation: str
    seed: int
    recipe: Recipe
    out: str
    work: str  # of the stages that runs share
    runner: Runner | None
    threads: int
    quiet: bool

    @property
    def record(self) -> Path:
        return Path(self.out) / "records" / f"{self.id}.json"

    @property
    def log(self) -> Path:
        return Path(self.out) / "logs" / f"{self.id}.log"


def execute(job: Job) -> dict[str, Any]:
    """Run ``job`` and write its record, whatever happens. The record is returned as well."""
    start = time.time()
    folder = Path(job.out)
    try:
        if job.threads:
            _limit_threads(job.threads)
        runner = job.runner or _pipeline()
        results = runner(job.recipe, folder / "runs" / job.id, Path(job.work))
        ending = {"status": "finished", "results": results}
    except (InputError, WorkError) as error:
        ending = {"status": "failed", "error": str(error), "trace": ""}
    except Exception as error:
        ending = {
            "status": "failed",
            "error": f"{type(error).__name__}: {error}",
            "trace": traceback.format_exc(),
        }
    return keep_record(job, ending, time.time() - start)


def keep_record(job: Job, ending: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Write ``records/ID.json`` and return what it holds."""
    record = {
        "id": job.id,
        "variation": job.variation,
        "seed": job.seed,
        "recipe_hash": recipe_hash(job.recipe),
        "recipe": job.recipe.to_dict(),
        **ending,
        "seconds": round(seconds, 2),
        "ended": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }
    write_json(job.record, record)
    return record


def child(job: Job) -> None:
    """Entry point of a run's own process."""
    _end_with_parent()
    os.setsid()  # Ctrl-C goes to the study, which then asks its runs to keep a checkpoint and end
    if job.quiet:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
    execute(job)


def _pipeline() -> Runner:
    from tinylm.pipeline import run as pipeline

    return pipeline.run


def _limit_threads(threads: int) -> None:
    """Results must not depend on the engine, and sums do depend on the number of threads."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _end_with_parent() -> None:
    """A killed study must not leave a run behind that a resumed one would meet in the same
    folder."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
