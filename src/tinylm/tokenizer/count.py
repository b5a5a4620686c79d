"""Count how often each token is emitted over a corpus of any size: shard by shard, in constant
memory, resumable.

A shard is some megabytes of text. Each gives an int64[V] vector for each block of it, and two
totals; sums merge. With ``parts`` given, the vectors of each shard are kept on disk under the hash
of (tokenizer, its text): a second run of the same command reads the text again but tokenizes only
what is new.
"""

import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tinylm.artifact import atomic_file, require_file_name
from tinylm.corpus.document import Document
from tinylm.corpus.formats import kind_of
from tinylm.corpus.read import EMBEDDED, documents, expand, is_local
from tinylm.errors import InputError, WorkError
from tinylm.terminal import progress_bar
from tinylm.tokenizer.counters import COUNTERS
from tinylm.tokenizer.engines import Engine
from tinylm.tokenizer.shards import SHARD_BYTES, Shard, even_places, shards
from tinylm.tokenizer.source import Source, read_source

# A corpus in so many stretches of about the same length: each is new text to the others. An eighth
# is long enough to hold what a corpus has by stretches (a book, a project): see expected_growth.
STRETCHES = 8
BLOCKS = 16  # of a shard, counted apart

Results = Iterator[tuple[Shard, np.ndarray, str]]  # shard, int64[BLOCKS, V], what ran


@dataclass(frozen=True)
class Counts:
    """What was counted. ``counts[t]`` = times token t was emitted; ``bytes`` are UTF-8 bytes of
    text. ``stretches``: ``counts`` by consecutive parts of the text; None in files of before."""

    counts: np.ndarray  # int64[V]
    bytes: int
    documents: int
    tokenizer_hash: str
    tokenizer: str  # where the tokenizer was read
    corpora: tuple[str, ...] = ()
    engine: str = ""
    stretches: np.ndarray | None = None  # int64[at most STRETCHES, V]

    @property
    def tokens(self) -> int:
        return int(self.counts.sum())

    @property
    def tokens_per_byte(self) -> float:
        return self.tokens / max(1, self.bytes)

    def __add__(self, other: "Counts") -> "Counts":
        if other.tokenizer_hash != self.tokenizer_hash:
            raise InputError(
                f"counts of {self.tokenizer} and {other.tokenizer} do not add: different tokenizers"
            )
        return replace(
            self,
            counts=self.counts + other.counts,
            bytes=self.bytes + other.bytes,
            documents=self.documents + other.documents,
            corpora=tuple(dict.fromkeys(self.corpora + other.corpora)),
            engine=self.engine if other.engine == self.engine else f"{self.engine}; {other.engine}",
            stretches=None
            if self.stretches is None or other.stretches is None
            else np.concatenate([self.stretches, other.stretches]),
        )

    def save(self, path: str | Path) -> None:
        """Write an .npz, atomically. Keys are the field names."""
        path = Path(path)
        with atomic_file(path) as scratch, open(scratch, "wb") as file:
            stretches = (
                np.zeros((0, len(self.counts))) if self.stretches is None else self.stretches
            )
            np.savez_compressed(
                file,
                counts=self.counts,
                bytes=self.bytes,
                documents=self.documents,
                tokenizer_hash=self.tokenizer_hash,
                tokenizer=self.tokenizer,
                corpora=np.array(self.corpora, dtype=str),
                engine=self.engine,
                stretches=stretches,
            )

    @staticmethod
    def load(path: str | Path) -> "Counts":
        """Read what :meth:`save` wrote. Raises InputError for a file that is missing, broken or of
        another kind."""
        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as data:
                stretches = data.get("stretches", [])
                return Counts(
                    counts=data["counts"].astype(np.int64),
                    bytes=int(data["bytes"]),
                    documents=int(data["documents"]),
                    tokenizer_hash=str(data["tokenizer_hash"]),
                    tokenizer=str(data["tokenizer"]),
                    corpora=tuple(map(str, data["corpora"])),
                    engine=str(data["engine"]),
                    stretches=stretches if len(stretches) else None,
                )
        except FileNotFoundError as error:
            raise InputError(
                f"counts {path} do not exist: make them with `tinylm tokenizer count`"
            ) from error
        except Exception as error:  # zip, numpy and key errors: all mean the same to the reader
            raise InputError(f"{path} is no counts file ({error}): make it again") from error


def count(
    tokenizer_dir: str | Path,
    texts: Iterable[Document | str | Path],
    *,
    engine: str = "local",
    shard_bytes: int = SHARD_BYTES,
    parts: Path | None = None,
    workers: int | None = None,
    total_bytes: int | None = None,
) -> Counts:
    """Count the tokens of ``texts`` (documents, or paths of corpora as
    :func:`tinylm.corpus.read.documents` takes).

    engine: "local" = gigatoken where it is exact, else tokenizers; "ray" spreads shards over a Ray
    cluster. parts: folder for the counts of finished shards (resume). workers: shards at work at
    once (ray).
    """
    if engine not in COUNTERS:
        raise InputError(f"engine {engine!r} is unknown: use one of {', '.join(COUNTERS)}")
    if workers is not None and workers < 1:
        raise InputError(f"--workers {workers} must be 1 or more")
    source = read_source(tokenizer_dir)
    items, corpora = _as_documents(texts)
    stretches, names, done = _Stretches(), [], [0, 0]
    stream = shards(items, shard_bytes)
    results = COUNTERS[engine](source, stream, parts, workers)
    start = time.perf_counter()
    with progress_bar("counting", total_bytes / 1e6 if total_bytes else None, "MB") as bar:
        for shard, vectors, ran in results:
            stretches.add(vectors)
            names.append(ran)
            done = [done[0] + shard.bytes, done[1] + shard.documents]
            bar.advance(
                shard.bytes / 1e6, f"{done[0] / 1e6 / (time.perf_counter() - start):.1f} MB/s"
            )
    if not stretches.vectors:
        raise InputError("the corpus holds no text: nothing to count")
    ran = "; ".join(dict.fromkeys(names))
    even = stretches.even()
    return Counts(
        even.sum(0),
        done[0],
        done[1],
        source.hash,
        str(tokenizer_dir),
        corpora,
        ran,
        even,
    )


class _Stretches:
    """The counts of consecutive stretches of a text of unknown length: when there are many,
    neighbours become one."""

    def __init__(self) -> None:
        self.vectors: list[np.ndarray] = []  # int64[V] each

    def add(self, vectors: np.ndarray) -> None:
        """``vectors`` int64[n, V] of what comes next."""
        self.vectors += [vector for vector in vectors if vector.any()]
        while len(self.vectors) > 4 * BLOCKS:
            pairs = range(0, len(self.vectors), 2)
            self.vectors = [np.sum(self.vectors[at : at + 2], axis=0) for at in pairs]

    def even(self) -> np.ndarray:
        """int64[at most STRETCHES, V]: neighbours put together to stretches of about one length."""
        every = np.stack(self.vectors)
        places = even_places(every.sum(1), STRETCHES)
        return np.stack([every[places == place].sum(0) for place in np.unique(places)])


def count_files(
    tokenizer_dir: str | Path,
    corpora: Sequence[str],
    out: Path,
    *,
    engine: str = "local",
    workers: int | None = None,
    resume: bool = True,
) -> Counts:
    """:func:`count` over corpora on disk, saved as ``out``. Finished shards wait in ``out``.parts
    until the end."""
    require_file_name(out)
    parts = out.with_name(out.name + ".parts") if resume else None
    size = estimated_bytes(corpora)
    counts = count(
        tokenizer_dir, list(corpora), engine=engine, parts=parts, workers=workers, total_bytes=size
    )
    counts.save(out)
    if parts is not None:
        shutil.rmtree(parts, ignore_errors=True)
    return counts


def corpus_of(counts: Counts) -> Iterator[Document] | None:
    """The texts that were counted, when the counts name them and they are still there."""
    # a hub dataset is not read a second time
    here = all(name == EMBEDDED or Path(name).exists() for name in counts.corpora)
    return documents(counts.corpora) if counts.corpora and here else None


def count_shard(
    engine: Engine, shard: Shard, parts: Path | None, tokenizer_hash: str
) -> tuple[np.ndarray, str]:
    """The counts of one shard, from ``parts`` if they are there. Returns (int64[BLOCKS, V], what
    ran)."""
    if parts is None:
        return engine.count(shard.texts, BLOCKS), engine.name
    path = parts / f"{tokenizer_hash}-{shard.digest()}-{BLOCKS}.npz"
    if path.exists():
        try:
            with np.load(path, allow_pickle=False) as data:
                return data["counts"], str(data["engine"])
        except Exception as error:  # a file of ours that does not read back
            raise WorkError(f"{path} is damaged ({error}): remove it and run again") from error
    vectors, ran = engine.count(shard.texts, BLOCKS), engine.name
    with atomic_file(path) as scratch, open(scratch, "wb") as file:
        np.savez_compressed(file, counts=vectors, engine=ran)
    return vectors, ran


def count_here(
    source: Source, stream: Iterator[Shard], parts: Path | None, fast: bool = True
) -> Results:
    """Count ``stream`` in this process; ``fast``: by the fastest engine that is exact here."""
    engine = Engine(source, fast)
    for shard in stream:
        yield shard, *count_shard(engine, shard, parts, source.hash)


def _as_documents(
    texts: Iterable[Document | str | Path],
) -> tuple[Iterator[Document], tuple[str, ...]]:
    """Documents, and the corpora's names when ``texts`` are paths."""
    if isinstance(texts, (list, tuple)) and texts and not isinstance(texts[0], Document):
        return documents(texts), tuple(map(str, texts))
    return iter(texts), ()  # type: ignore[arg-type]


def estimated_bytes(corpora: Sequence[str]) -> int | None:
    """About how much text the corpora hold, for the time left: exact for plain text, x 3 for
    compressed files."""
    if not all(map(is_local, corpora)):
        return None
    return sum(path.stat().st_size * (3 if kind_of(path)[1] else 1) for path in expand(corpora))
