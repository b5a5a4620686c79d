"""Entry point of the command line: finds the command, and turns errors into one line and an exit
code.

Exit codes: 0 done, 1 the work failed, 2 the input is wrong, 130 stopped by Ctrl-C.
"""

import contextlib
import dataclasses
import difflib
import errno
import functools
import inspect
import io
import logging
import os
import re
import sys
import time
import typing
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import tyro

from tinylm import __version__
from tinylm.commands import model, tokenizer, use, whole
from tinylm.errors import PATH_ERRORS, InputError, WorkError
from tinylm.machine import KEPT_BACK, is_first_process, limit_threads
from tinylm.terminal import console

COMMANDS: dict[str, Callable[..., None]] = {
    "init": whole.init,
    "run": whole.run,
    "plan": model.plan,
    "corpus pack": model.corpus_pack,
    "tokenizer count": tokenizer.tokenizer_count,
    "tokenizer compress": tokenizer.tokenizer_compress,
    "tokenizer coverage": tokenizer.tokenizer_coverage,
    "tokenizer remap": tokenizer.tokenizer_remap,
    "inherit": model.inherit,
    "train": model.train,
    "evaluate": use.evaluate,
    "generate": use.generate,
    "chat": use.chat,
    "export": use.export,
    "study run": whole.study_run,
    "study report": whole.study_report,
}


def main(argv: list[str] | None = None) -> None:
    """Entry point of ``tinylm``."""
    if argv is None:
        _use_utf8()
    _speak_utf8()
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] in (["--version"], ["-V"]):
        print(f"tinylm {__version__}")
        return
    try:
        command = parse(argv)
        limit_threads()
        _quiet_torchao()
        console.quiet = not is_first_process()
        command()
    except (InputError, WorkError) as error:
        if not is_first_process():  # which says it too, and has then ended this one
            time.sleep(KEPT_BACK)
        _fail(error, 2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:
        _fail("stopped by Ctrl-C; run the same command again to go on", 130)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        place = error.filename or "while writing"
        if error.errno == errno.ENOSPC:
            _fail(f"the disk is full ({place}): free some space and run again", 2)
        if error.errno not in (*PATH_ERRORS, errno.EIO):
            raise
        _fail(f"{place}: {error.strerror}", 2)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        _fail(
            f"out of memory ({reason[:160]}): compute less at once (train.micro_batch_size in a"
            " recipe, --batch or --stream where the command has it), or use a larger device",
            1,
        )


def _quiet_torchao() -> None:
    """`transformers` imports torchao where it is installed (for ExecuTorch), which tells of kernels
    that we do not use, four lines a command."""
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python, the processor's allocator or a GPU had none left. By name: torch's own class
    of error would cost its import."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return any(words in str(error) for words in ("can't allocate memory", "not enough memory"))


def _use_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale is of another encoding: names of files,
    words of the command line and texts are then read as what they are."""
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _speak_utf8() -> None:
    """Texts go in and out as UTF-8 whatever PYTHONIOENCODING says; a character that a terminal of
    another kind cannot show is written as its number."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue  # replaced by a test or a notebook
        if stream is sys.stdin or not stream.isatty():
            stream.reconfigure(encoding="utf-8")
        if stream is not sys.stdin:
            stream.reconfigure(errors="backslashreplace")


def parse(argv: Sequence[str]) -> Callable[[], None]:
    """The command that ``argv`` names, its arguments bound and not yet run.

    Exits with code 0 after help or a completion script, with code 2 and one line for wrong words.
    """
    name = next((name for n in (2, 1) if (name := " ".join(argv[:n])) in COMMANDS), "")
    if not name and not (argv and argv[0].startswith("--tyro-")):  # completion scripts are tyro's
        _overview(argv)
    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown):
            return _app().cli(prog="tinylm", args=argv)
    except SystemExit as stop:
        if stop.code != 2:
            raise
        _fail(f"{_one_line(shown.getvalue())} (`tinylm {name} --help` explains the options)", 2)


def _app() -> tyro.extras.SubcommandApp:
    """Every command, those of two words in groups. A command returns itself with its arguments."""
    app = tyro.extras.SubcommandApp()
    groups: dict[str, tyro.extras.SubcommandApp] = {}
    for name, command in COMMANDS.items():
        group, _, last = name.rpartition(" ")
        if group and group not in groups:
            groups[group] = tyro.extras.SubcommandApp()
            app.command(groups[group], name=group)
        (groups[group] if group else app).command(name=last)(_binder(command))
    return app


def _binder(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """``command`` as a function that binds its arguments. Settings that are made of several classes
    become as many arguments: the groups of its help."""
    hints = typing.get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    settings: dict[str, tuple[Any, list[str]]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        kind: Any = next(iter(typing.get_args(hints[name])), None)
        parts = _parts(kind) if dataclasses.is_dataclass(kind) else {}
        if not parts:
            kept = parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
            parameters.append(kept)
            continue
        settings[name] = (kind, list(parts))
        for part, group in parts.items():
            only = inspect.Parameter.KEYWORD_ONLY
            parameters.append(inspect.Parameter(part, only, default=group(), annotation=group))

    def bind(**given: Any) -> Callable[[], None]:
        for name, (kind, parts) in settings.items():
            values = [vars(given.pop(part)) for part in parts]
            given[name] = kind(**{key: value for one in values for key, value in one.items()})
        return functools.partial(command, **given)

    functools.update_wrapper(bind, command)
    bind.__annotations__ = {one.name: one.annotation for one in parameters}
    bind.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return tyro.conf.configure(tyro.conf.OmitArgPrefixes)(bind)


def _parts(kind: Any) -> dict[str, Any]:
    """The classes that settings are made of, first fields first, by the name of their group:
    LengthSettings is "length"."""
    bases: list[Any] = [one for one in kind.__mro__[:0:-1] if dataclasses.is_dataclass(one)]
    return {base.__name__.removesuffix("Settings").lower(): base for base in bases}


def _one_line(box: str) -> str:
    """The message in a box of tyro's, whose hook for errors is private: its text between the title
    and the explanation of the option, and of the options it may have meant the first."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    rows = [row.strip("│╭╰─╮╯|+ ") for row in plain.splitlines()[1:]]
    words = " ".join(row for row in rows if row.strip("─-"))  # ASCII where stdout is
    text = re.split("Argument helptext:|For full helptext", words)[0]
    text, _, meant = text.partition("Perhaps you meant:")
    return text.strip() + (f"; did you mean {meant.split()[0].strip(',')}?" if meant else "")


def _overview(argv: Sequence[str]) -> NoReturn:
    """The commands (of the group that ``argv`` begins with), and the end: an error unless that was
    what was asked for."""
    name, rest = " ".join(argv[:1]), list(argv[1:2])
    group = {command: run for command, run in COMMANDS.items() if command.split()[0] == name}
    wanted = name in ("", "-h", "--help") or (bool(group) and rest in ([], ["-h"], ["--help"]))
    stream = sys.stdout if wanted else sys.stderr
    print(
        "tinylm: a large open language model + a corpus -> the best tiny one for a budget\n",
        file=stream,
    )
    for command, run in (group or COMMANDS).items():
        print(f"  tinylm {command:<20} {(run.__doc__ or '').strip().splitlines()[0]}", file=stream)
    print("\n`tinylm COMMAND --help` explains each.", file=stream)
    if wanted:
        sys.exit(0)
    asked = " ".join([name, *rest] if group else [name])
    close = difflib.get_close_matches(asked, COMMANDS, n=1)
    _fail(f"no command {asked!r}" + (f": did you mean `tinylm {close[0]}`?" if close else ""), 2)


def _fail(message: Any, code: int) -> NoReturn:
    print("tinylm: " + " ".join(str(message).split()), file=sys.stderr)
    sys.exit(code)
