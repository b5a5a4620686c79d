"""Put a model on the hub in one commit: its directory with the card, and files made from it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tinylm.errors import InputError, WorkError
from tinylm.terminal import print_table


def uploads(model_dir: Path, files: Sequence[Path], *, with_card: bool = True) -> dict[str, Path]:
    """{path in the repository: file}: everything in ``model_dir`` but hidden files, and ``files``
    under their own names (a folder with what is in it).

    Raises:
        InputError: no card (unless not ``with_card``), a file that is missing, two files of one
            name.
    """
    if with_card and not (model_dir / "README.md").exists():
        raise InputError(
            f"{model_dir} has no card, which the hub shows and searches: write it with `tinylm"
            f" export --format card --model {model_dir}`, then push"
        )
    found = {str(path.relative_to(model_dir)): path for path in _files_in(model_dir)}
    for file in files:
        if not file.exists():
            raise InputError(f"{file} does not exist: nothing was pushed")
        inside = _files_in(file) if file.is_dir() else [file]
        for path in inside:
            name = str(path.relative_to(file.parent))
            if found.setdefault(name, path) != path:
                raise InputError(f"{path} and {found[name]} would both be {name}: rename one")
    return found


def push(
    model_dir: Path,
    repository: str,
    files: Sequence[Path] = (),
    *,
    private: bool = False,
    dry_run: bool = False,
    planned: Sequence[str] = (),
) -> dict[str, Path]:
    """Upload :func:`uploads` to ``repository`` (USER/NAME, made if it is not there); with
    ``dry_run`` only tell what would go, ``planned`` too, which is written before. Returns what
    went.

    Raises:
        InputError: a name the hub does not take, no right to write there. WorkError: the hub did
            not take it.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(f"--push {repository}: the hub takes names like USER/NAME") from error
    found = uploads(model_dir, files, with_card="README.md" not in planned)
    rows = [(name, f"{path.stat().st_size / 1e6:,.2f} MB") for name, path in sorted(found.items())]
    rows += [(name, "written first") for name in planned if name not in found]
    print_table(f"{'would go' if dry_run else 'goes'} to {repository}", ("file", "size"), rows)
    if dry_run:
        return found
    api = HfApi()
    with _clear_hub_errors(repository):
        api.create_repo(repository, private=private, exist_ok=True)
        operations = [CommitOperationAdd(name, path) for name, path in sorted(found.items())]
        commit = api.create_commit(
            repository, operations, commit_message=f"{model_dir.name}, made with tinylm"
        )
    print(commit.commit_url)
    return found


def _files_in(folder: Path) -> list[Path]:
    """Files under ``folder`` that are not hidden, nor in a hidden folder."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    ]


@contextmanager
def _clear_hub_errors(repository: str) -> Iterator[None]:
    """One line for what a hub answers, or that it does not."""
    # HTTPError is of the client that this version of the hub's library uses
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        yield
    except (LocalTokenNotFoundError, OfflineModeIsEnabled) as error:
        raise InputError(f"--push {repository}: {str(error).splitlines()[0]}") from error
    except HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else 0
        if code == 401:
            raise InputError(
                f"--push {repository}: the hub does not know who you are: set HF_TOKEN, or run `hf"
                " auth login`"
            ) from error
        if code == 403:
            raise InputError(f"--push {repository}: your token may not write there") from error
        raise WorkError(f"--push {repository}: {str(error).splitlines()[0]}") from error
    except ValueError as error:  # of the card's metadata, which the library lets the hub check
        lines = [line.strip("- ") for line in str(error).splitlines()[1:] if line.strip()]
        raise InputError(f"--push {repository}: README.md: {'; '.join(lines) or error}") from error
    except RuntimeError as error:  # of the library's own program for large files
        raise WorkError(f"--push {repository}: {str(error).splitlines()[0]}") from error
    except HTTPError as error:
        raise WorkError(
            f"--push {repository}: the hub cannot be reached ({error}); nothing was changed there"
        ) from error
