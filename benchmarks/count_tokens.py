"""Counting tokens: `tinylm tokenizer count` against `tokenizers`' own `encode_batch_fast` on the
same text in one run.

    python benchmarks/count_tokens.py --tokenizer DIR --corpus FILE... [--megabytes 60]

Both get the same documents from memory and both end in one int64[V] vector; loading the tokenizer
is in neither time. The peer encodes batches of 1,000 documents and adds them up with
`numpy.bincount`, which is the fastest simple way. `ratio` is our MB/s over the peer's; `identical`
says whether the two vectors are equal.
"""

import argparse
import json
import platform
import time
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from tinylm.corpus.document import Document
from tinylm.corpus.read import documents
from tinylm.machine import cores
from tinylm.models.teacher import resolve
from tinylm.tokenizer.engines import Engine
from tinylm.tokenizer.shards import SHARD_BYTES, shards
from tinylm.tokenizer.source import Source, read_source


def texts_of(corpora: list[str], megabytes: float) -> list[Document]:
    """Every n-th document, about ``megabytes`` in all, so that all files have their share."""
    found = list(documents(corpora))
    total = sum(len(document.text.encode()) for document in found)
    step = max(1, round(total / (megabytes * 1e6)))
    return found[::step]


def count_ours(engine: Engine, texts: Sequence[Document]) -> np.ndarray:
    return sum(
        (engine.count(shard.texts)[0] for shard in shards(texts, SHARD_BYTES)),
        np.zeros(engine.source.size, np.int64),
    )


def count_peer(source: Source, texts: Sequence[Document]) -> np.ndarray:
    counts = np.zeros(source.size, dtype=np.int64)
    for start, end in pairwise([*range(0, len(texts), 1000), len(texts)]):
        encoded = source.fast.encode_batch_fast(
            [one.text for one in texts[start:end]], add_special_tokens=False
        )
        counts += np.bincount(np.concatenate([one.ids for one in encoded]), minlength=source.size)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--corpus", nargs="+", required=True)
    parser.add_argument("--megabytes", type=float, default=60)
    options = parser.parse_args()
    source, texts = (
        read_source(resolve(options.tokenizer)),
        texts_of(options.corpus, options.megabytes),
    )
    size = sum(len(one.text.encode()) for one in texts) / 1e6
    engine = Engine(source)
    start = time.perf_counter()
    ours = count_ours(engine, texts)
    middle = time.perf_counter()
    peer = count_peer(source, texts)
    end = time.perf_counter()
    result = {
        "peer": "tokenizers encode_batch_fast",
        "tokenizer": options.tokenizer,
        "engine": engine.name,
        "megabytes": size,
        "documents": len(texts),
        "tokens": int(ours.sum()),
        "ours_megabytes_per_second": size / (middle - start),
        "peer_megabytes_per_second": size / (end - middle),
        "identical": bool(np.array_equal(ours, peer)),
        "cpus": cores(),
        "machine": platform.machine(),
        "ratio": (end - middle) / (middle - start),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
