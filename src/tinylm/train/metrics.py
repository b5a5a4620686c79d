"""metrics.jsonl, one JSON object a line: the source of every number and picture about a run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinylm.terminal import console
from tinylm.train.trackers import Tracker

FILE = "metrics.jsonl"


class Metrics:
    """Appends lines; on resume it first drops the lines of steps that will be done again."""

    def __init__(self, out: Path, first_step: int, trackers: Sequence[Tracker] = ()) -> None:
        out.mkdir(parents=True, exist_ok=True)
        path = out / FILE
        kept = [line for line in read(out) if _before(line, first_step)] if path.exists() else []
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)
        # open for the whole run; every line reaches the disk
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        self._failed = False
        self.trackers = trackers
        # of an earlier part of the run
        self.validated = {line["step"]: line for line in kept if "valid_loss" in line}

    def log(self, step: int, **values: float | int | str) -> None:
        line = {"step": step, **values}
        try:
            self._file.write(json.dumps(line) + "\n")
        except OSError as error:  # a full disk costs lines, not the run
            if not self._failed:
                console.print(
                    f"[yellow]metrics of step {step} could not be written ({error}); training goes"
                    " on[/]"
                )
            self._failed = True
        for tracker in self.trackers:
            tracker.log(line)

    def close(self) -> None:
        self._file.close()
        for tracker in self.trackers:
            tracker.close()


def _before(line: dict[str, Any], step: int) -> bool:
    """Whether a checkpoint of ``step`` includes what the line says. Losses on held-out text bear
    the next step."""
    return line["step"] < step or (line["step"] == step and "valid_loss" in line)


def read(out: Path) -> list[dict[str, Any]]:
    """All whole lines of a run's metrics; a last line cut short by a kill is left out."""
    lines = []
    for line in (Path(out) / FILE).read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines
