"""A stage's output: a directory named by the hash of what made it, written atomically, with a
manifest.

A half-written artifact is never visible under its final name: everything is written beside it in a
hidden folder and renamed at the end. ``os.replace`` of a directory is atomic on one file system, so
SIGKILL at any moment leaves either nothing or the whole thing.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinylm.errors import PATH_ERRORS, InputError, WorkError

# Part of every artifact's name: raised when the same inputs give another result, so that nothing
# made before is taken for it. One reason a line.
STAGE_VERSIONS = {
    "teacher": 3,  # a GGUF's spaces, BOS and all its ends of text are read
    "corpus": 2,  # line ends stay as they are
    "counts": 2,  # by stretches of the text
    "compact": 3,  # the growth of new text is foretold from stretches left out
    "architecture": 1,
    "pack": 1,
    "inherit": 4,  # calibration is spread over the text, the refit weighs tokens by their stream
    "random": 1,
    "train": 3,  # the best state by held-out loss is published; p - 1 in float32
    "score": 3,  # after the separator they were trained with; the bits of each document are kept
    "floors": 1,
    "tasks": 1,
    "samples": 2,  # they end with a sentence
    "answers": 2,  # kept answers to tasks: the way they are computed
}


LOCK = ".lock"  # of the process that works in a folder


def hash_of(value: Any) -> str:
    """16 hex digits of the SHA-256 of ``value`` as canonical JSON (paths and other objects by
    ``str``)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, 16 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def require_space(path: Path, needed_bytes: int) -> None:
    """Raise InputError when the file system that will hold ``path`` has less than ``needed_bytes``
    free."""
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise InputError(
            f"not enough disk for {path}: {needed_bytes / 1e9:.2f} GB needed, {free / 1e9:.2f} GB"
            " free; free some space or choose another --out"
        )


@contextmanager
def atomic_directory(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a scratch folder that becomes ``path`` when the block ends well, and disappears when it
    does not.

    Raises InputError when ``path`` exists already (unless ``replace``) or its parent cannot be
    written.
    """
    path = Path(os.path.abspath(path))  # beside "." would be inside it
    refuse_filled(path, replace)
    if os.path.ismount(path):
        raise InputError(
            f"{path} is a mount point, which cannot be renamed to: give a folder inside it"
        )
    scratch = _scratch_beside(path)
    try:
        with clear_disk_errors(path):
            yield scratch
            _share(scratch)
            _put(scratch, path, replace)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def resumable_directory(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield the folder PATH.partial, which becomes ``path`` when the block ends well. An error
    takes it away; a kill, Ctrl-C or a WorkError (a worker that is lost, a file that went away)
    leaves it, and the next call goes on with what it finds there.

    Raises InputError when ``path`` exists already (unless ``replace``), its parent cannot be
    written, or another process is at work on it.
    """
    path = Path(os.path.abspath(path))
    refuse_filled(path, replace)
    partial = path.with_name(path.name + ".partial")
    with alone_in(partial):
        try:
            with partial_directory(path, replace=replace):
                yield partial
            (path / LOCK).unlink()
        except WorkError:
            raise
        except Exception:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextmanager
def partial_directory(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield the folder PATH.partial, which becomes ``path`` when the block ends well and stays when
    it does not. For one process at a time: see :func:`one_builder`."""
    partial = path.with_name(path.name + ".partial")
    with clear_disk_errors(path):
        partial.mkdir(parents=True, exist_ok=True)
        yield partial
        _share(partial)
        _put(partial, path, replace)


def _put(scratch: Path, path: Path, replace: bool) -> None:
    """Give ``scratch`` the name ``path``, in one step."""
    flush(scratch)
    if path.exists():
        refuse_filled(path, replace)  # another run may have been quicker
        old = scratch.with_name(scratch.name + ".old")
        os.replace(path, old)
        os.replace(scratch, path)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(scratch, path)


def _share(folder: Path) -> None:
    """Files that only their owner may read (safetensors writes them so) get the folder's mode."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and not path.stat().st_mode & 0o077:
            path.chmod(folder.stat().st_mode & 0o666)


def refuse_filled(path: Path, replace: bool = False) -> None:
    """InputError when there is something at ``path`` that may not be replaced."""
    if path.exists() and not replace and any(path.iterdir() if path.is_dir() else [path]):
        raise InputError(f"{path} exists already: choose another --out or remove it first")


def require_file_name(path: Path) -> None:
    """InputError, before any work, where a file cannot be written at ``path``: a folder or a device
    is there, or the place is not ours to write in."""
    path = Path(path)
    with clear_disk_errors(path):
        if path.is_dir():
            raise InputError(f"{path} is a folder: give the name of a file")
        if path.exists() and not path.is_file():  # root could rename a file over /dev/null
            raise InputError(f"{path} is a device or a pipe, not a file: give the name of a file")
        there = next(folder for folder in path.absolute().parents if folder.exists())
    if not there.is_dir():
        raise InputError(f"cannot write {path}: {there} is a file, not a folder")
    if not os.access(there, os.W_OK):
        raise InputError(f"cannot write {path}: {there} is not yours to write in")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a scratch file name that becomes ``path`` (replacing it) when the block ends well.

    A link stays a link: the file it leads to is replaced.
    """
    path = Path(os.path.realpath(path))
    require_file_name(path)
    scratch = _scratch_beside(path)
    try:
        with clear_disk_errors(path):
            yield scratch / path.name
            os.replace(scratch / path.name, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 whatever the locale, atomically.

    File names that are no UTF-8 come as lone surrogates: written as ``\\udcff``, which JSON reads
    back as they were.
    """
    with atomic_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=_json_default) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a missing, unreadable or broken file is an InputError that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    # RecursionError: nesting without end
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not valid JSON ({error}): remove it or make it again"
        ) from error


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; anything else in the file is an InputError that names it."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}, a JSON object is needed")
    return value


def optional_json(path: Path) -> dict[str, Any]:
    """A JSON object, or {} when there is no such file."""
    return read_object(path) if path.exists() else {}


@contextmanager
def one_builder(path: Path) -> Iterator[None]:
    """Runs that share ``path`` wait for one another here instead of building the same thing
    twice."""
    with clear_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_name(f".{path.name}.lock")):
        yield


@contextmanager
def alone_in(out: Path, first: bool = True) -> Iterator[None]:
    """InputError while another process works in ``out``: two commands in one folder would spoil
    each other's work. ``first``: of the processes of one command, which share the folder."""
    if not first:
        yield
        return
    with clear_disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    from filelock import Timeout  # 30 ms that `--help` need not take

    try:
        with _locked(out / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise InputError(
            f"another tinylm is working in {out}: wait for it or choose another --out"
        ) from error


@contextmanager
def _locked(path: Path, timeout: float = -1) -> Iterator[None]:
    """Hold the lock of ``path``, which ends with this process; below 0 seconds wait for ever."""
    from filelock import FileLock

    lock = FileLock(path, timeout)
    with clear_disk_errors(path):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _scratch_beside(path: Path) -> Path:
    with clear_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        # mkdtemp makes it private; results are for sharing
        scratch.chmod(path.parent.stat().st_mode & 0o777)
    return scratch


@contextmanager
def clear_disk_errors(path: Path) -> Iterator[None]:
    """One clear line where the disk is full or the place cannot be written; any other error passes
    as it is."""
    reasons = (*PATH_ERRORS, errno.ENOSPC, errno.EEXIST)
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno in reasons:
            raise InputError(
                f"cannot write {path}: {error.strerror}; nothing was left behind"
            ) from error
        # safetensors and torch wrap the system's error in their own
        if "No space left on device" in str(error):
            raise InputError(
                f"cannot write {path}: the disk is full; nothing was left behind"
            ) from error
        raise


def flush(folder: Path) -> None:
    """Wait until all of ``folder`` is on the disk: after a power cut a name must not stand for
    empty files."""
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
