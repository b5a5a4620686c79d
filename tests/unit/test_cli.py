import subprocess
import sys

import pytest
import torch

from tinylm import cli
from tinylm.errors import InputError, WorkError


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_teaches_itself(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*name.split(), "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0 and f"tinylm {name}" in out and len(out.splitlines()) > 8


CONTRACT = (
    "run, tokenizer count, tokenizer compress, tokenizer coverage, plan, inherit, corpus pack,"
    " train, evaluate, generate, export, study run, study report"
).split(", ")


def test_the_contract_is_there():
    assert set(CONTRACT) <= set(cli.COMMANDS)


def test_help_does_not_load_torch():
    code = (
        "import sys; from tinylm import cli\ntry: cli.main(['train', '--help'])\nexcept SystemExit:"
        " pass\n"
    )
    code += "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("two\n lines"), 2),
        (WorkError("x"), 1),
        (KeyboardInterrupt(), 130),
        (OSError(28, "full", "f"), 2),
        (MemoryError(), 1),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] . can't allocate memory: you tried"), 1),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore words"), 1),
    ],
)
def test_errors_are_one_line_with_their_code(error, code, monkeypatch, capsys):
    def fail() -> None:
        """Fails."""
        raise error

    monkeypatch.setitem(cli.COMMANDS, "fail", fail)
    with pytest.raises(SystemExit) as stop:
        cli.main(["fail"])
    err = capsys.readouterr().err
    assert stop.value.code == code and err.startswith("tinylm: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "plan --budget many --vocab-size 100",
            "Error parsing --budget: could not convert string to float: 'many'",
        ),
        ("plan --vocab-size 100", "--budget"),
        ("plan --budget 1e6 --vocab-size 9 --batchs 3", "--batchs, 3; did you mean --batches?"),
        ("plan --budget 1e6 --vocab-size 100 --nope 3", "--nope"),
        ("study run ladder --scale huge", "'huge'"),
    ],
)
@pytest.mark.parametrize("terminal", [False, True])
def test_a_wrong_option_is_one_line(words, message, terminal, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    with pytest.raises(SystemExit) as stop:
        cli.main(words.split())
    err = capsys.readouterr().err
    assert (
        stop.value.code == 2
        and err.startswith("tinylm: ")
        and message in err
        and err.count("\n") == 1
    )
    assert not set("\x1b│╭╰") & set(err)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 0),
        (["--help"], 0),
        (["tokenizer"], 0),
        (["nonsense"], 2),
        (["tokenizer", "--help"], 0),
        (["tokenizer", "cuont"], 2),
        (["study", "rum", "x"], 2),
    ],
)
def test_overview(arguments, code, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == code
    shown = capsys.readouterr()
    assert "tinylm tokenizer count" in shown.out + shown.err or arguments[0] == "study"
    assert "did you mean `tinylm tokenizer count`?" in shown.err or arguments[1:] != ["cuont"]
    assert (f"no command {' '.join(arguments[:2])!r}" in shown.err) == (code == 2)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_overview_has_one_sentence_a_command(name, capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    line = next(row for row in capsys.readouterr().out.splitlines() if f"tinylm {name} " in row)
    assert line.endswith(".") and len(line) <= 120


def test_a_shell_can_complete(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--tyro-print-completion", "bash"])
    script = capsys.readouterr().out
    assert not stop.value.code and "--vocab-size" in script and "coverage" in script
