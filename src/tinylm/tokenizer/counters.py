"""Where tokens are counted, by name: a table that is cheap to import."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal


def _local(source: Any, stream: Any, parts: Any, workers: int | None) -> Any:
    from tinylm.tokenizer.count import count_here

    return count_here(source, stream, parts)


def _tokenizers(source: Any, stream: Any, parts: Any, workers: int | None) -> Any:
    from tinylm.tokenizer.count import count_here

    return count_here(source, stream, parts, fast=False)


def _ray(source: Any, stream: Any, parts: Any, workers: int | None) -> Any:
    from tinylm.tokenizer.cluster import count_with_ray

    return count_with_ray(source, stream, parts, workers)


# (source, shards, folder of finished shards, workers) -> of each shard, in their order: (shard,
# int64[BLOCKS, V], what ran)
COUNTERS: dict[str, Callable[[Any, Any, Any, int | None], Any]] = {
    "local": _local,  # the fastest exact engine here
    "tokenizers": _tokenizers,  # the reference
    "ray": _ray,  # shards spread over a cluster
}
if TYPE_CHECKING:
    Counter = str
else:
    Counter = Literal[tuple(COUNTERS)]
