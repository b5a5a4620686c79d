"""What a long scoring or repair has found so far, so that one that was killed goes on where it was.

With a folder everything is kept there, also what would else be in memory meanwhile: the states
between the layers of a teacher that is read from disk.
"""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tinylm.artifact import optional_json, write_json

SECONDS = 60.0  # between two savings of the same thing
IDENTITY = "identity.json"

Tensors = Mapping[str, Tensor]


class Progress:
    """Named groups of tensors: in ``folder``, or in memory without one. ``identity`` names what
    they are progress of: what a folder holds of something else is thrown away."""

    def __init__(
        self,
        folder: Path | None = None,
        identity: str = "",
        seconds: float = SECONDS,
    ) -> None:
        self.folder, self.seconds, self.identity = folder, seconds, identity
        self._held: dict[str, Tensors] = {}
        self._saved: dict[str, float] = {}
        if folder is not None:
            if optional_json(folder / IDENTITY).get("of") != identity:
                shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / IDENTITY, {"of": identity, "way": self.way})

    @property
    def way(self) -> str:
        """How what is kept was found (:meth:`go`)."""
        known = optional_json(self.folder / IDENTITY) if self.folder else {}
        return str(known.get("way", ""))

    def go(self, way: str) -> None:
        """Work goes on in the given ``way`` (where the teacher is, number format, device): what was
        found in another is thrown away, because they keep other things under the same names."""
        if self.folder is not None and self.way != way:
            self.clear()
            write_json(self.folder / IDENTITY, {"of": self.identity, "way": way})

    def put(self, name: str, tensors: Tensors) -> None:
        """Keep ``tensors`` under ``name`` until they are taken."""
        if self.folder is None:
            self._held[name] = tensors
            return
        scratch = self.folder / f".{name}"
        save_file({key: t.detach().contiguous().cpu() for key, t in tensors.items()}, scratch)
        os.replace(scratch, self._path(name))
        self._saved[name] = time.monotonic()

    def get(self, name: str) -> Tensors | None:
        """What is kept under ``name``; None where nothing whole is."""
        if self.folder is None:
            return self._held.get(name)
        try:
            with safe_open(self._path(name), framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (FileNotFoundError, SafetensorError):
            return None

    def has(self, name: str) -> bool:
        if self.folder is None:
            return name in self._held
        try:
            with safe_open(self._path(name), framework="pt"):
                return True
        except (FileNotFoundError, SafetensorError):
            return False

    def drop(self, name: str) -> None:
        self._held.pop(name, None)
        if self.folder is not None:
            self._path(name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Keep nothing any more."""
        self._held.clear()
        for path in self.folder.glob("*.safetensors") if self.folder else ():
            path.unlink()

    def is_due(self, name: str) -> bool:
        """Whether to :meth:`put` what has been found so far: where there is a folder, and not more
        often than every ``seconds``."""
        now = time.monotonic()
        return self.folder is not None and now - self._saved.setdefault(name, now) >= self.seconds

    def once(self, name: str, make: Callable[[], Tensors]) -> Tensors:
        """What ``make`` gives, made once."""
        if self.folder is None:
            return make()
        found = self.get(name)
        if found is None:
            found = make()
            self.put(name, found)
        return found

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}.safetensors"


def numbered(tensors: list[Tensor], prefix: str = "") -> dict[str, Tensor]:
    """A list under names, for :meth:`Progress.put`."""
    return {f"{prefix}{number}": tensor for number, tensor in enumerate(tensors)}


def as_list(tensors: Tensors, prefix: str = "", like: Tensor | None = None) -> list[Tensor]:
    """The list of :func:`numbered`, on the device of ``like``."""
    count = sum(name.startswith(prefix) and name.removeprefix(prefix).isdigit() for name in tensors)
    found = [tensors[f"{prefix}{number}"] for number in range(count)]
    return found if like is None else [tensor.to(like.device) for tensor in found]
