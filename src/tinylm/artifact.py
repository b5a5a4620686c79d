"""A stage's output: a directory named by the hash of what made it, written atomically, with a manifest.

A half-written artifact is never visible under its final name: everything is written beside it in a hidden folder and
renamed at the end. ``os.replace`` of a directory is atomic on one file system, so SIGKILL at any moment leaves either
nothing or the whole thing.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinylm.errors import InputError
from tinylm.terminal import console

MANIFEST = "manifest.json"


def hash_of(value: Any) -> str:
    """16 hex digits of the SHA-256 of ``value`` as canonical JSON (paths and other objects by ``str``)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, 16 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def require_space(path: Path, needed_bytes: int) -> None:
    """Raise InputError when the file system that will hold ``path`` has less than ``needed_bytes`` free."""
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise InputError(
            f"not enough disk for {path}: {needed_bytes / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free; "
            "free some space or choose another --out"
        )


@contextmanager
def atomic_directory(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a scratch folder that becomes ``path`` when the block ends well, and disappears when it does not.

    Raises InputError when ``path`` exists already (unless ``replace``) or its parent cannot be written.
    """
    path = Path(os.path.abspath(path))  # beside "." would be inside it
    refuse_filled(path, replace)
    if os.path.ismount(path):
        raise InputError(f"{path} is a mount point, which cannot be renamed to: give a folder inside it")
    scratch = _scratch_beside(path)
    try:
        with _clear_disk_errors(path):
            yield scratch
            _flush(scratch)
            if path.exists():
                refuse_filled(path, replace)  # another run may have been quicker
                old = scratch.with_name(scratch.name + ".old")
                os.replace(path, old)
                os.replace(scratch, path)
                shutil.rmtree(old, ignore_errors=True)
            else:
                os.replace(scratch, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def refuse_filled(path: Path, replace: bool = False) -> None:
    """InputError when there is something at ``path`` that may not be replaced."""
    if path.exists() and not replace and any(path.iterdir() if path.is_dir() else [path]):
        raise InputError(f"{path} exists already: choose another --out or remove it first")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a scratch file name that becomes ``path`` (replacing it) when the block ends well."""
    path = Path(path)
    scratch = _scratch_beside(path)
    try:
        with _clear_disk_errors(path):
            yield scratch / path.name
            os.replace(scratch / path.name, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with atomic_file(path) as scratch:
        scratch.write_text(json.dumps(value, indent=2, ensure_ascii=False, default=_json_default) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a missing or broken file is an InputError that names it."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): remove it or make it again") from error


def stage(
    root: Path, name: str, inputs: Mapping[str, Any], build: Callable[[Path], Any], *, resumable: bool = False
) -> Path:
    """The artifact ``root/name-HASH`` for ``inputs``: returned at once if it exists, else made by ``build(folder)``.

    ``inputs`` is everything the result depends on (config values and the names of input artifacts). What ``build``
    returns is kept in the manifest under ``result``, its time under ``seconds``. With ``resumable`` the folder being
    worked in (``name-HASH.partial``) survives a kill, and ``build`` is called again on what it finds there.
    """
    path = Path(root) / f"{name}-{hash_of({'stage': name, **inputs})}"
    if (path / MANIFEST).exists():
        return path
    with one_builder(path):
        for left in path.parent.glob(f".{path.name}-*"):  # of a run that was killed: nobody else works on it now
            shutil.rmtree(left, ignore_errors=True)
        if not (path / MANIFEST).exists():  # another process may have made it while we waited
            _build(path, name, inputs, build, resumable)
    return path


@contextmanager
def one_builder(path: Path) -> Iterator[None]:
    """Runs that share ``path`` wait for one another here instead of building the same thing twice."""
    with _clear_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_name(f".{path.name}.lock"), "w")  # noqa: SIM115 - closed by the `with` below
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(path: Path, name: str, inputs: Mapping[str, Any], build: Callable[[Path], Any], resumable: bool) -> None:
    before = 0.0
    with _partial_directory(path) if resumable else atomic_directory(path, replace=True) as folder:
        clock = folder / ".seconds"
        if clock.exists():
            before = float(clock.read_text() or 0)
        start = time.monotonic()
        try:
            result = build(folder)
        except BaseException:
            if resumable:
                clock.write_text(str(before + time.monotonic() - start))
            raise
        clock.unlink(missing_ok=True)
        seconds = round(before + time.monotonic() - start, 2)
        write_json(folder / MANIFEST, {"stage": name, "inputs": dict(inputs), "seconds": seconds, "result": result})


@contextmanager
def _partial_directory(path: Path) -> Iterator[Path]:
    partial = path.with_name(path.name + ".partial")
    with _clear_disk_errors(path):
        partial.mkdir(parents=True, exist_ok=True)
        yield partial
        _flush(partial)
        os.replace(partial, path)


def manifest(path: Path) -> dict[str, Any]:
    """The manifest of an artifact made by :func:`stage`."""
    return read_json(Path(path) / MANIFEST)


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """InputError while another process works in ``out``: two commands in one folder would spoil each other's work."""
    with _clear_disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        lock = open(out / ".lock", "w")  # noqa: SIM115 - closed by the `with` below
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"another tinylm is working in {out}: wait for it or choose another --out") from error
        yield


class Stages:
    """Runs stages under ``work`` and remembers their folders and times."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.folders: dict[str, Path] = {}

    def __call__(
        self,
        name: str,
        inputs: Mapping[str, Any],
        build: Callable[[Path], Any],
        *,
        kind: str = "",
        resumable: bool = False,
    ) -> Path:
        """The artifact ``kind-HASH``; ``name`` is what people call it. ``build`` as in :func:`stage`."""
        console.print(f"[bold]{name}[/bold]")
        self.folders[name] = stage(self.work, kind or name, inputs, build, resumable=resumable)
        return self.folders[name]

    def result(self, name: str) -> Any:
        return manifest(self.folders[name])["result"]

    def seconds(self) -> dict[str, float]:
        return {name: manifest(folder)["seconds"] for name, folder in self.folders.items()}


def _scratch_beside(path: Path) -> Path:
    with _clear_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        scratch.chmod(path.parent.stat().st_mode & 0o777)  # mkdtemp makes it private; results are for sharing
    return scratch


@contextmanager
def _clear_disk_errors(path: Path) -> Iterator[None]:
    """One clear line where the disk is full or the place cannot be written; any other error passes as it is."""
    reasons = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno in reasons:
            raise InputError(f"cannot write {path}: {error.strerror}; nothing was left behind") from error
        if "No space left on device" in str(error):  # safetensors and torch wrap the system's error in their own
            raise InputError(f"cannot write {path}: the disk is full; nothing was left behind") from error
        raise


def _flush(folder: Path) -> None:
    """Wait until all of ``folder`` is on the disk: after a power cut a name must not stand for empty files."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_symlink():
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _json_default(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return value.tolist()
    return str(value)
