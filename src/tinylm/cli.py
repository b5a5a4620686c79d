"""Entry point of the command line: finds the command, and turns errors into one line and an exit
code.

Exit codes: 0 done, 1 the work failed, 2 the input is wrong.
"""

import contextlib
import functools
import io
import re
import sys
from collections.abc import Callable
from typing import Any

import tyro

from tinylm import __version__
from tinylm.commands import model, tokenizer, use, whole
from tinylm.errors import InputError, WorkError

COMMANDS: dict[str, Callable[..., None]] = {
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
    argv = list(sys.argv[1:] if argv is None else argv)
    words = 2 if " ".join(argv[:2]) in COMMANDS else 1
    name = " ".join(argv[:words])
    if name in ("--version", "-V"):
        print(f"tinylm {__version__}")
        return
    if name not in COMMANDS:
        _overview(name, argv[1:2])
    try:
        _parse(COMMANDS[name], name, argv[words:])()
    except InputError as error:
        _fail(error, 2)
    except WorkError as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        _fail("stopped by Ctrl-C; run the same command again to go on", 130)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        if error.errno == 28:  # ENOSPC
            _fail(
                f"the disk is full ({error.filename or 'while writing'}): free some space and run"
                " again",
                2,
            )
        raise


def _parse(command: Callable[..., None], name: str, arguments: list[str]) -> Callable[[], None]:
    """The command with its arguments bound; a wrong argument is one line, not the parser's box."""

    @functools.wraps(command)
    def bind(*args: Any, **kwargs: Any) -> Callable[[], None]:
        return functools.partial(command, *args, **kwargs)

    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown):
            return tyro.cli(bind, prog=f"tinylm {name}", args=arguments)
    except SystemExit as stop:
        if stop.code == 2:
            # the box is coloured when stdout is a terminal
            plain = re.sub(r"\x1b\[[0-9;]*m", "", shown.getvalue())
            box = [line.strip("│╭╰─╮╯ ") for line in plain.splitlines()]
            lines = [
                line
                for line in box
                if line and line != f"tinylm {name} --help" and not line.startswith("For full")
            ]
            # the first line is the box's title
            text = " ".join(lines[1:]).split("Argument helptext:")[0].strip()
            _fail(f"{text} (`tinylm {name} --help` explains the options)", 2)
        raise


def _overview(name: str, rest: list[str]) -> None:
    """The commands (of the group ``name``), and the end: an error unless that was what was asked
    for."""
    group = {command: run for command, run in COMMANDS.items() if command.split()[0] == name}
    shown = group or COMMANDS
    wanted = name in ("", "-h", "--help") or (bool(group) and rest in ([], ["-h"], ["--help"]))
    stream = sys.stdout if wanted else sys.stderr
    print(
        "tinylm: a large open language model + a corpus -> the best tiny one for a budget\n",
        file=stream,
    )
    for command, run in shown.items():
        print(f"  tinylm {command:<20} {(run.__doc__ or '').strip().splitlines()[0]}", file=stream)
    print("\n`tinylm COMMAND --help` explains each.", file=stream)
    if not wanted:
        _fail(f"no command {' '.join([name, *rest] if group else [name])!r}", 2)
    sys.exit(0)


def _fail(message: object, code: int) -> None:
    print("tinylm: " + " ".join(str(message).split()), file=sys.stderr)
    sys.exit(code)
