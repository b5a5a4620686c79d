"""SIGTERM and SIGINT: finish the step, write a checkpoint, leave with 128 + the signal's number."""

import signal
from pathlib import Path
from types import FrameType
from typing import Self

from tinylm.terminal import console


class StopSignal:
    """While it is entered, SIGTERM and SIGINT only set ``requested``. A second signal ends the process at once."""

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

    def exit_if_requested(self, out: Path) -> None:
        """Leave with exit code 143 (SIGTERM) or 130 (SIGINT); call after the checkpoint is written."""
        if self.requested:
            name = signal.Signals(self.requested).name
            console.print(f"stopped by {name}; checkpoint written to {out}: the same command goes on from there")
            raise SystemExit(128 + self.requested)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.requested:
            raise SystemExit(128 + number)
        self.requested = number
