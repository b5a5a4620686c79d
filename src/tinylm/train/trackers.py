"""Thin adapters that repeat the lines of metrics.jsonl to wandb, trackio or TensorBoard."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tinylm.errors import InputError


class Tracker(Protocol):
    def log(self, line: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


class _Online:
    """wandb, and trackio, which has the same functions."""

    def __init__(self, library: Any, out: Path, settings: dict[str, Any]) -> None:
        self.library, self.run = (
            library,
            library.init(project="tinylm", name=out.name, config=settings),
        )

    def log(self, line: dict[str, Any]) -> None:
        self.library.log(
            {key: value for key, value in line.items() if key != "step"}, step=line["step"]
        )

    def close(self) -> None:
        self.library.finish()


class _TensorBoard:
    def __init__(self, library: Any, out: Path, settings: dict[str, Any]) -> None:
        self.writer = library.SummaryWriter(str(out / "tensorboard"))

    def log(self, line: dict[str, Any]) -> None:
        for key, value in line.items():
            if isinstance(value, (int, float)) and key != "step":
                self.writer.add_scalar(key, value, line["step"])

    def close(self) -> None:
        self.writer.close()


# name -> (module to import, adapter: (module, out, settings) -> Tracker)
TRACKERS: dict[str, tuple[str, Callable[[Any, Path, dict[str, Any]], Tracker]]] = {
    "wandb": ("wandb", _Online),
    "trackio": ("trackio", _Online),
    "tensorboard": ("torch.utils.tensorboard", _TensorBoard),
}
if TYPE_CHECKING:
    TrackerName = str
else:
    TrackerName = Literal[tuple(TRACKERS)]


def start_tracker(name: str, out: Path, settings: dict[str, Any]) -> Tracker:
    """``name`` is of ``TRACKERS``; InputError where it is not installed."""
    module, adapter = TRACKERS[name]
    try:
        library = importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"train.trackers: {name} is not installed: `pip install {name}`"
        ) from error
    return adapter(library, out, settings)
