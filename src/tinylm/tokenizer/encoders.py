"""Where texts are tokenised for a store, by name: a table that is cheap to import.

An encoder takes batches of texts and gives what each becomes, in their order, whatever runs at the
same time: the store is the same with one process and with many.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from tinylm.corpus.pack import Encode


def _local(tokenizer: Any, workers: int | None) -> "Encode":
    from tinylm.tokenizer.engines import engine_of

    engine = engine_of(tokenizer)
    return lambda batches: map(engine.encode, batches)


def _ray(tokenizer: Any, workers: int | None) -> "Encode":
    from tinylm.tokenizer.cluster import encode_with_ray
    from tinylm.tokenizer.engines import source_of

    return partial(encode_with_ray, source_of(tokenizer), workers)


# (fast `transformers` tokenizer, workers) -> batches of texts -> (ids, lengths) of each batch
ENCODERS: "dict[str, Callable[[Any, int | None], Encode]]" = {
    "local": _local,  # the fastest exact engine here
    "ray": _ray,  # batches spread over a cluster
}
if TYPE_CHECKING:
    Encoder = str
else:
    Encoder = Literal[tuple(ENCODERS)]


def encoder_of(tokenizer: Any, engine: str = "local", workers: int | None = None) -> "Encode":
    """What tokenises as ``tokenizer`` does, by ``engine`` of ``ENCODERS``; ``workers``: processes
    at work at once (ray; by default one a CPU of the cluster)."""
    return ENCODERS[engine](tokenizer, workers)
