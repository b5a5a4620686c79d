"""Count and encode over a Ray cluster: this process reads, the workers tokenize. Same numbers as on
one machine.

Install the extra (`pip install tinylm[cluster]`); RAY_ADDRESS or `ray.init` in the caller picks the
cluster, otherwise a local one is started.
"""

import json
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tinylm.corpus.pack import Encoded
from tinylm.errors import InputError, WorkError
from tinylm.tokenizer.count import count_shard
from tinylm.tokenizer.engines import Engine
from tinylm.tokenizer.shards import Shard
from tinylm.tokenizer.source import Source

WAITING = 2  # a worker: bounds the memory of what was read and is not done yet


class Worker:
    """One process of the cluster with an engine of its own."""

    def __init__(self, source: bytes) -> None:
        data = json.loads(source)
        self.source = Source(Path(data["folder"]), data["data"])
        self.engine = Engine(self.source)

    def count(self, shard: Shard, parts: Path | None) -> tuple[np.ndarray, str]:
        return count_shard(self.engine, shard, parts, self.source.hash)

    def encode(self, texts: list[str]) -> Encoded:
        return self.engine.encode(texts)


@contextmanager
def ray_workers(source: Source, workers: int | None) -> Iterator[tuple[Any, list[Any]]]:
    """Ray, and ``workers`` processes of its cluster (by default one per CPU) with an engine each.

    Raises:
        InputError: no Ray. WorkError: a worker was lost.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "engine ray needs the package ray: pip install ray, or leave --engine out"
        ) from error
    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        packed = ray.put(json.dumps({"folder": str(source.folder), "data": source.data}).encode())
        remote = ray.remote(num_cpus=1)(Worker)
        count = workers or int(ray.cluster_resources().get("CPU", 1))
        yield ray, [remote.remote(packed) for _ in range(count)]
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise WorkError(
            f"a Ray worker was lost ({reason}): run again, what is done is kept"
        ) from error
    finally:
        if started:
            ray.shutdown()


def count_with_ray(
    source: Source, shards: Iterator[Shard], parts: Path | None, workers: int | None
) -> Iterator[tuple[Shard, np.ndarray, str]]:
    """(shard without its texts, int64[BLOCKS, V], "ray: what ran") for every shard, in their
    order. ``parts`` must be a folder that every machine sees."""
    with ray_workers(source, workers) as (ray, actors):
        waiting: deque[tuple[Any, Shard]] = deque()

        def first() -> tuple[Shard, np.ndarray, str]:
            task, shard = waiting.popleft()
            vectors, ran = ray.get(task)
            return shard, vectors, f"ray: {ran}"

        for number, shard in enumerate(shards):
            task = actors[number % len(actors)].count.remote(shard, parts)
            waiting.append((task, Shard([], shard.bytes, shard.documents)))
            if len(waiting) >= WAITING * len(actors):
                yield first()
        while waiting:
            yield first()


def encode_with_ray(
    source: Source, workers: int | None, batches: Iterator[list[str]]
) -> Iterator[Encoded]:
    """What each batch of texts becomes, in their order."""
    with ray_workers(source, workers) as (ray, actors):
        waiting: deque[Any] = deque()
        for number, texts in enumerate(batches):
            waiting.append(actors[number % len(actors)].encode.remote(texts))
            if len(waiting) >= WAITING * len(actors):
                yield ray.get(waiting.popleft())
        while waiting:
            yield ray.get(waiting.popleft())
