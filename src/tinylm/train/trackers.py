"""Thin adapters that repeat the lines of metrics.jsonl to wandb, trackio or TensorBoard."""

import importlib
from pathlib import Path
from typing import Any, Protocol

from tinylm.errors import InputError

_NEEDS = {"wandb": "wandb", "trackio": "trackio", "tensorboard": "torch.utils.tensorboard"}


class Tracker(Protocol):
    def log(self, line: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


def start_tracker(name: str, out: Path, settings: dict[str, Any]) -> Tracker:
    """``name`` is wandb, trackio or tensorboard; InputError where it is not installed."""
    try:
        library = importlib.import_module(_NEEDS[name])
    except ImportError as error:
        raise InputError(
            f"train.trackers: {name} is not installed: `pip install {name}`"
        ) from error
    if name == "tensorboard":
        return _TensorBoard(library.SummaryWriter(str(out / "tensorboard")))
    return _Online(library, library.init(project="tinylm", name=out.name, config=settings))


class _Online:
    """wandb, and trackio, which has the same functions."""

    def __init__(self, library: Any, run: Any) -> None:
        self.library, self.run = library, run

    def log(self, line: dict[str, Any]) -> None:
        self.library.log(
            {key: value for key, value in line.items() if key != "step"}, step=line["step"]
        )

    def close(self) -> None:
        self.library.finish()


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def log(self, line: dict[str, Any]) -> None:
        for key, value in line.items():
            if isinstance(value, (int, float)) and key != "step":
                self.writer.add_scalar(key, value, line["step"])

    def close(self) -> None:
        self.writer.close()
