"""One run in many processes (`torchrun ... -m tinylm run RECIPE`).

Every process goes through the same stages. A stage that one process can do is done by the first
while the others wait for its artifact; training and scoring are done by all together. What the
first process decides is told to the others over a group of its own, without a time limit: a cut may
take hours. Where a process ends badly, torchrun ends the others.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from tinylm.errors import InputError, WorkError
from tinylm.machine import choose_device, cores

PATIENCE = timedelta(days=30)
# seconds that a process keeps its error back: where the first one has met the same, it says so and
# torchrun ends the others before they repeat it
KEPT_BACK = 3.0
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
    """The processes of this run as a context; an error is said by the first of them."""
    from tinylm.train.parallel import lost_process

    processes = None
    try:
        with lost_process():
            processes = Processes()
            yield processes
    except (InputError, WorkError):
        if processes is not None and not processes.is_main:
            time.sleep(KEPT_BACK)
        raise


def idle_devices() -> int:
    """GPUs of this machine that a run without torchrun leaves idle."""
    import torch

    alone = "WORLD_SIZE" not in os.environ and torch.cuda.is_available()
    return torch.cuda.device_count() - 1 if alone else 0
