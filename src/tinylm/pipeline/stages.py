"""The stages of a run: each makes one artifact, a folder named by the hash of what made it, with a
manifest."""

import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tinylm.artifact import (
    STAGE_VERSIONS,
    atomic_directory,
    hash_of,
    one_builder,
    partial_directory,
    read_json,
    write_json,
)
from tinylm.pipeline.launch import Processes
from tinylm.render.numbers import hours
from tinylm.terminal import console

MANIFEST = "manifest.json"
SHORT = 10.0  # seconds: what took longer is said
LONG = 60.0  # seconds to the end, which are said


def stage(
    root: Path,
    name: str,
    inputs: Mapping[str, Any],
    build: Callable[[Path], Any],
    *,
    resumable: bool = False,
) -> Path:
    """The artifact ``root/name-HASH`` for ``inputs``: returned at once if it exists, else made by
    ``build(folder)``.

    ``name`` is of ``STAGE_VERSIONS``; ``inputs`` is everything else that the result depends on
    (config values and the names of input artifacts).
    What ``build`` returns is kept in the manifest under ``result``, its time under ``seconds``.
    With ``resumable`` the folder being worked in (``name-HASH.partial``) survives a kill, and
    ``build`` is called again on what it finds there.
    """
    key = {"stage": name, "version": STAGE_VERSIONS[name], **inputs}
    path = Path(root) / f"{name}-{hash_of(key)}"
    if (path / MANIFEST).exists():
        return path
    with one_builder(path):
        # of a run that was killed: nobody else works on it now
        for left in path.parent.glob(f".{path.name}-*"):
            shutil.rmtree(left, ignore_errors=True)
        if not (path / MANIFEST).exists():  # another process may have made it while we waited
            _build(path, name, inputs, build, resumable)
    return path


def _build(
    path: Path, name: str, inputs: Mapping[str, Any], build: Callable[[Path], Any], resumable: bool
) -> None:
    before = 0.0
    directory = partial_directory if resumable else atomic_directory
    with directory(path, replace=True) as folder:
        clock = folder / ".seconds"
        if clock.exists():
            before = float(clock.read_text(encoding="utf-8") or 0)
        start = time.monotonic()
        try:
            result = build(folder)
        except BaseException:
            if resumable:
                clock.write_text(str(before + time.monotonic() - start), encoding="utf-8")
            raise
        clock.unlink(missing_ok=True)
        seconds = round(before + time.monotonic() - start, 2)
        write_json(
            folder / MANIFEST,
            {"stage": name, "inputs": dict(inputs), "seconds": seconds, "result": result},
        )


def manifest(path: Path) -> dict[str, Any]:
    """The manifest of an artifact made by :func:`stage`."""
    return read_json(Path(path) / MANIFEST)


class Stages:
    """Runs stages under ``work``, says which of ``total`` it is at, and remembers their folders and
    times."""

    def __init__(
        self,
        work: Path,
        total: int,
        processes: Processes | None = None,
        expected: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.work, self.total = work, total
        self.expected = expected  # seconds of each stage that takes some
        self._spent, self._foretold = 0.0, 0.0  # of the stages that were made here
        self.processes = processes or Processes()
        self.folders: dict[str, Path] = {}

    def __call__(
        self,
        name: str,
        inputs: Mapping[str, Any],
        build: Callable[[Path], Any],
        *,
        kind: str = "",
        resumable: bool = False,
        together: bool = False,
    ) -> Path:
        """The artifact ``kind-HASH``; ``name`` is what people call it. ``build`` as in
        :func:`stage`; with ``together`` all processes call it, else the first alone."""
        if name not in self.folders:  # a stage that is asked for again is done
            console.print(
                f"{len(self.folders) + 1}/{self.total} [bold]{name}[/bold]{self._left()}",
                highlight=False,
            )
        start = time.monotonic()
        self.processes.use_threads(together)
        if self.processes.is_main:

            def announced(folder: Path) -> Any:
                if together:
                    self.processes.tell("build", folder)
                return build(folder)

            made = stage(self.work, kind or name, inputs, announced, resumable=resumable)
            self.processes.tell("made", made)
        else:
            while True:
                word, made = self.processes.hear()
                if word == "made":
                    break
                build(made)
        self.folders[name] = made
        spent = time.monotonic() - start
        if spent > SHORT:
            self._spent, self._foretold = (
                self._spent + spent,
                self._foretold + self.expected.get(name, 0.0),
            )
            console.print(f"    {name}: {hours(spent)}", highlight=False)
        return self.folders[name]

    def _left(self) -> str:
        """The time that all stages to come should take, by their arithmetic and by how right it
        was so far."""
        seconds = sum(cost for name, cost in self.expected.items() if name not in self.folders)
        if self._foretold > SHORT:
            seconds *= self._spent / self._foretold
        return f"  about {hours(seconds)} to the end" if seconds > LONG else ""

    def result(self, name: str) -> Any:
        return manifest(self.folders[name])["result"]

    def seconds(self) -> dict[str, float]:
        return {name: manifest(folder)["seconds"] for name, folder in self.folders.items()}


def file_stamps(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Name, size and time of change of each file: other content is another stage."""
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
