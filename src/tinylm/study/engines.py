"""Where runs are executed: processes of this machine, or a Ray cluster. Both give the same
records."""

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Literal

from tinylm.artifact import read_json
from tinylm.errors import InputError
from tinylm.study.execute import Job, child, execute, keep_record

Jobs = Iterator[Job]
OnRecord = Callable[[dict[str, Any]], None]


def run_local(jobs: Jobs, workers: int, on_record: OnRecord) -> None:
    """Run ``jobs`` in at most ``workers`` processes at a time, one process a job."""
    context = multiprocessing.get_context("spawn")
    running: dict[Any, tuple[Any, Job, float]] = {}
    try:
        for job in jobs:
            process = context.Process(target=child, args=(job,))
            process.start()
            running[process.sentinel] = (process, job, time.time())
            if len(running) >= workers:
                _collect(running, on_record)
        while running:
            _collect(running, on_record)
    finally:
        for process, _, _ in running.values():
            process.terminate()  # the pipeline keeps a checkpoint when asked to end
        for process, _, _ in running.values():
            process.join(timeout=60)
            if process.is_alive():
                process.kill()


def _collect(running: dict[Any, tuple[Any, Job, float]], on_record: OnRecord) -> None:
    for sentinel in wait(list(running)):
        process, job, start = running.pop(sentinel)
        process.join()
        # a crash after the last word costs nothing
        if process.exitcode == 0 or _ended_well(job, start):
            on_record(read_json(job.record))
            continue
        reason = (
            f"signal {-process.exitcode}"
            if process.exitcode < 0
            else f"exit code {process.exitcode}"
        )
        hint = " (often: out of memory)" if process.exitcode == -9 else ""
        where = f"; its output: {job.log}" if job.quiet else ""
        ending = {
            "status": "failed",
            "error": f"the process ended with {reason}{hint}{where}",
            "trace": "",
        }
        on_record(keep_record(job, ending, time.time() - start))


def _ended_well(job: Job, start: float) -> bool:
    """Whether this process, started at ``start``, has written that its run is finished."""
    if not job.record.exists() or job.record.stat().st_mtime < start:
        return False
    return read_json(job.record)["status"] == "finished"


def run_ray(jobs: Jobs, workers: int, on_record: OnRecord) -> None:
    """Run ``jobs`` as Ray tasks, ``workers`` at a time, on the cluster of RAY_ADDRESS or a local
    one.

    The study's folder must be on a file system that every machine sees.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "--engine ray needs Ray: pip install 'tinylm[cluster]', or use --engine local"
        ) from error
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False)
    # One process a run, as locally: nothing of a run stays behind in the next one's.
    remote = ray.remote(max_calls=1, max_retries=0)(execute)
    gpus = 1 if ray.cluster_resources().get("GPU") else 0  # a task that asks for none sees none
    running: dict[Any, tuple[Job, float]] = {}

    def collect() -> None:
        (done, *_), _ = ray.wait(list(running), num_returns=1)
        job, start = running.pop(done)
        try:
            on_record(ray.get(done))
        except ray.exceptions.RayError as error:
            message = f"the Ray worker was lost: {str(error).splitlines()[0]}"
            on_record(
                keep_record(
                    job, {"status": "failed", "error": message, "trace": ""}, time.time() - start
                )
            )

    try:
        for job in jobs:
            running[remote.options(num_cpus=max(1, job.threads), num_gpus=gpus).remote(job)] = (
                job,
                time.time(),
            )
            if len(running) >= workers:
                collect()
        while running:
            collect()
    finally:
        for task in running:
            with contextlib.suppress(Exception):
                ray.cancel(task, force=True)
        if started_here:
            ray.shutdown()


ENGINES: dict[str, Callable[[Jobs, int, OnRecord], None]] = {"local": run_local, "ray": run_ray}
if TYPE_CHECKING:
    Engine = str
else:
    Engine = Literal[tuple(ENGINES)]
