"""A corpus read ahead by many processes. What comes out is the same, in the same order, whatever
their number."""

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate, chain, islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from tinylm.corpus.conversation import render
from tinylm.corpus.document import Document
from tinylm.corpus.formats import CHUNK, Chunk, chunks, read_chunk
from tinylm.corpus.read import documents, expand, is_local
from tinylm.corpus.split import Prepared, prepare
from tinylm.errors import InputError, WorkError

# A small corpus is read by this process alone, before others have started: items of CHUNK bytes.
ALONE = 8
AHEAD = 2  # items in work for each process, so much of the text is in memory

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Reading:
    """How the text of a corpus is read and split."""

    text_key: str
    valid_fraction: float
    tokenizer: Any = None  # whose chat template writes conversations
    loss_on: str = ""

    def __call__(self, item: tuple[int, list[Chunk | Document]]) -> Prepared:
        path, parts = item
        read: Iterable[Document] = chain.from_iterable(
            read_chunk(part, self.text_key) if isinstance(part, Chunk) else [part] for part in parts
        )
        if self.tokenizer is not None:
            read = render(read, self.tokenizer, self.loss_on)
        read = (replace(one, path=path) for one in read) if path else read
        return prepare(read, self.valid_fraction)


@dataclass(frozen=True)
class Source:
    """Paths of a corpus that are read as one."""

    paths: Sequence[str]
    number: int = 0  # which of the paths its documents are from, where they are told apart
    limit: int = 0  # the first documents of about so many bytes; 0: all
    needed: bool = False  # it must hold text


def read_ahead(reading: Reading, sources: Sequence[Source], processes: int) -> Iterator[Prepared]:
    """The documents of ``sources``, some megabytes at a time, ready to be split.

    Raises InputError for text that cannot be read, in the order of the text.
    """
    for source in sources:
        items = ((source.number, part) for part in _items(source.paths, reading.text_key))
        left, empty = source.limit, True
        for ready in ordered(reading, items, processes):
            empty = empty and not ready.documents
            if not source.limit:
                yield ready
                continue
            before = accumulate(ready.sizes[:-1], initial=0)  # bytes before each document
            taken = sum(size < left for size in before) if ready.sizes else 0
            left -= sum(ready.sizes)
            whole = taken == len(ready.documents)
            yield ready if whole else prepare(ready.documents[:taken], reading.valid_fraction)
            if left <= 0:
                break
        if empty and source.needed:
            raise InputError(f"corpus {source.paths[0]} holds no text: leave it out of the mixture")


def _items(paths: Sequence[str], text_key: str) -> Iterator[list[Chunk | Document]]:
    """All there is to read, in pieces of CHUNK bytes or a bit more."""
    parts: list[Chunk | Document] = []
    size = 0
    for part in _parts(paths, text_key):
        parts.append(part)
        size += _size(part)
        if size >= CHUNK:
            yield parts
            parts, size = [], 0
    if parts:
        yield parts


def _parts(paths: Sequence[str], text_key: str) -> Iterator[Chunk | Document]:
    for name in paths:
        if is_local(name):
            for file in expand([name], text_key):
                yield from chunks(file)
        else:
            yield from documents([name], text_key)


def _size(part: Chunk | Document) -> int:
    if isinstance(part, Document):
        return len(part.text) + sum(len(content) for _, content in part.messages)
    # a row group may be as large as its file
    return Path(part.path).stat().st_size if part.lines is None else len(part.lines)


def ordered(
    work: Callable[[Item], Result], items: Iterable[Item], processes: int
) -> Iterator[Result]:
    """``map(work, items)``, by so many processes when there are many items. What ``work`` raises is
    raised in its place; a process that dies is a WorkError."""
    items = iter(items)
    yield from map(work, islice(items, ALONE if processes > 1 else None))
    more = list(islice(items, 1))
    if not more:
        return
    workers = [_start(work) for _ in range(processes)]
    free: SimpleQueue[subprocess.Popen] = SimpleQueue()
    for worker in workers:
        free.put(worker)

    def elsewhere(item: Item) -> Result:
        worker = free.get()
        try:
            return _ask(worker, item)
        finally:
            free.put(worker)

    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(processes)  # a thread waits for each process
    try:
        for item in chain(more, items):
            waiting.append(pool.submit(elsewhere, item))
            if len(waiting) >= AHEAD * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for worker in workers:
            worker.kill()
        pool.shutdown(cancel_futures=True)
        for worker in workers:
            worker.communicate()


# Not multiprocessing: its processes run the user's script once more, which may have no guard and
# would then wait for this very run. These end with their input, so when the first process ends,
# and Ctrl-C in a terminal is not theirs.
SERVE = "import sys; sys.path[:] = {path!r}; from tinylm.corpus.ahead import serve; serve()"


def _start(work: Callable[[Any], Any]) -> subprocess.Popen:
    worker = subprocess.Popen(
        [sys.executable, "-c", SERVE.format(path=sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with suppress(BrokenPipeError):  # told when it is asked
        _send(worker.stdin, work)
    return worker


def _send(pipe: Any, what: Any) -> None:
    pickle.dump(what, pipe)
    pipe.flush()


def _ask(worker: subprocess.Popen, item: Any) -> Any:
    try:
        _send(worker.stdin, item)
        error, result = pickle.load(worker.stdout)  # type: ignore[arg-type]
    except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
        raise WorkError(
            "a process that read the corpus was killed (often: out of memory): run the command"
            " again"
        ) from error
    if error is not None:
        raise error
    return result


def serve() -> None:
    """What the other processes do: take the work, then items, and answer (error, result)."""
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a print must not come between answers
    with suppress(EOFError, BrokenPipeError):  # the first process has ended
        work = pickle.load(asked)
        while True:
            item = pickle.load(asked)
            try:
                answer: tuple[Any, Any] = (None, work(item))
            except Exception as error:
                answer = (error, None)
            _send(answers, answer)
