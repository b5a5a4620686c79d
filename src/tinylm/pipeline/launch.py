"""One run in many processes: `tinylm run RECIPE --processes N`, or `torchrun ... -m tinylm run
RECIPE` on several machines.

Every process goes through the same stages. A stage that one process can do is done by the first
while the others wait for its artifact; training and scoring are done by all together. What the
first process decides is told to the others over a group of its own, without a time limit: a cut may
take hours. Where a process ends badly, whoever started them ends the others.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from tinylm.errors import InputError, WorkError
from tinylm.machine import KEPT_BACK, choose_device, cores

PATIENCE = timedelta(days=30)
T = TypeVar("T")


class Processes:
    """The processes of a run: which one this is, and what the first tells the others."""

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ.get("RANK", 0)) if self.size > 1 else 0
        self.here = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))  # on this machine
        if self.size > 1:
            import torch.distributed as dist

            from tinylm.train.parallel import World

            World(choose_device())  # meets the others
            self.group = dist.new_group(backend="gloo", timeout=PATIENCE)

    @property
    def is_main(self) -> bool:
        """Whether this process does what one can do, writes the files and talks to the person."""
        return self.rank == 0

    def alone(self, check: Callable[..., None], *arguments: Any) -> None:
        """Call ``check`` in the first process."""
        if self.is_main:
            check(*arguments)

    def tell(self, word: str, value: Any) -> None:
        """The first process to all others, which :meth:`hear` it."""
        if self.size > 1:
            self._broadcast([word, value])

    def hear(self) -> tuple[str, Any]:
        """What the first process tells; waits for it as long as it takes."""
        said: list[Any] = [None, None]
        self._broadcast(said)
        return said[0], said[1]

    def _broadcast(self, said: list[Any]) -> None:
        import torch.distributed as dist

        dist.broadcast_object_list(said, src=0, group=self.group)

    def gather(self, compute: Callable[[], T]) -> list[T]:
        """What each process computes, in the order of processes, known to all; an error of one of
        them is raised in all."""
        if self.size == 1:
            return [compute()]
        import torch.distributed as dist

        mine: tuple[Any, Exception | None]
        try:
            mine = (compute(), None)
        except (InputError, WorkError) as error:
            mine = (None, error)
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, mine, group=self.group)
        for _, failure in found:
            if failure is not None:
                raise failure
        return [value for value, _ in found]

    def use_threads(self, together: bool) -> None:
        """All cores for the one process that works while others wait, else a share for each."""
        if self.size > 1:
            import torch

            torch.set_num_threads(max(1, cores() // self.here if together else cores()))


@contextmanager
def launched() -> Iterator[Processes]:
    """The processes of this run as a context."""
    from tinylm.train.parallel import lost_process

    with lost_process():
        yield Processes()


def idle_devices() -> int:
    """GPUs of this machine that a run in one process leaves idle."""
    import torch

    alone = "WORLD_SIZE" not in os.environ and torch.cuda.is_available()
    return torch.cuda.device_count() - 1 if alone else 0


def spawn(count: int, words: list[str]) -> int:
    """Run `tinylm WORDS` in ``count`` processes of this machine; the exit code. When one ends badly
    the others are ended within seconds, and one line says which."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    # each process settles its number of threads stage by stage, from this one on
    shared |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    # of a process that is lost torch's network layer prints its own stack, in every other one
    shared |= {"TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR")}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tinylm", *words],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            start_new_session=True,  # Ctrl-C reaches them through this process, once
        )
        for rank in range(count)
    ]
    # Ctrl-C and SIGTERM end the processes, which write a checkpoint; this one waits for them
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda caught, _: _end(running, caught))
    codes = [process.poll() for process in running]
    while None in codes and not any(codes):
        time.sleep(0.1)
        codes = [process.poll() for process in running]
    failed = {rank: code for rank, code in enumerate(codes) if code}
    for rank, code in failed.items():
        if code < 0:
            name = signal.Signals(-code).name
            print(
                f"tinylm: process {rank} of {count} was ended by {name}: the same command goes on"
                " from the last checkpoint",
                file=sys.stderr,
            )
    if failed:
        time.sleep(KEPT_BACK / 3)  # what the first process has to say about it
        _end(running, signal.SIGTERM)
    for process in running:
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:  # waits for one that is gone
            process.kill()
            process.wait()
    code = next(iter(failed.values()), 0)
    return 128 - code if code < 0 else code


def _end(running: list[subprocess.Popen[bytes]], number: int) -> None:
    for process in running:
        if process.poll() is None:
            process.send_signal(number)
