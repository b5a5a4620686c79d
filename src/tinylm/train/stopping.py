"""SIGTERM and SIGINT: finish the step, write a checkpoint, leave with 128 + the signal's number."""

import signal
from pathlib import Path
from types import FrameType
from typing import NoReturn, Self

from tinylm.terminal import console


class StopSignal:
    """While it is entered, SIGTERM and SIGINT only set ``requested``. A second signal ends the
    process at once."""

    def __init__(self) -> None:
        self.requested = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: signals stay with whoever runs it
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def exit(self, out: Path) -> NoReturn:
        """Leave with exit code 143 (SIGTERM) or 130 (SIGINT); call after the checkpoint is
        written."""
        name = signal.Signals(self.requested).name
        newest = max((out / "checkpoints").glob("step-*"), default=None)
        kept = (
            f"{newest} holds the run: the same command goes on from there"
            if newest
            else "no checkpoint is there"
        )
        console.print(f"stopped by {name}; {kept}")
        raise SystemExit(128 + self.requested)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.requested:
            raise SystemExit(128 + number)
        self.requested = number
