"""What the documents say can be run: commands parse, files exist, the Python example works."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from builders import corpus_file, tiny_teacher

from tinylm import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "docs/decisions").glob("*.md"))
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of these languages ("" is none)."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def commands(page: Path) -> list[list[str]]:
    """Every command of the shell blocks, as words; comments, prompts and variables are cut off."""
    found = []
    for block in blocks(page, "sh", "bash", "console", ""):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"^\$ ", "", line.strip())
            line = re.sub(r"^([A-Z_]+=\S+ +)+", "", line)
            if re.match(r"(\S*/)?(tinylm|make|python3?|torchrun|benchmarks/\S+) ", line):
                found.append(shlex.split(re.split(r" [|;&>]+ ", line)[0], comments=True))
    return found


COMMANDS = [
    pytest.param(words, id=f"{page.name}: {' '.join(words)[:70]}")
    for page in PAGES
    for words in commands(page)
]


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 40 and any("run" in str(command.id) for command in COMMANDS)


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_of_the_documents_is_one(words, capsys):
    if "-m" in words and "tinylm" in words:  # python -m tinylm, torchrun ... -m tinylm
        words = words[words.index("tinylm") :]
    program, *arguments = words
    if program.endswith("tinylm"):
        if "..." in arguments:  # the rest of a command that stands in full elsewhere
            arguments = [*arguments[:1], "--help"]
        try:
            cli.parse(arguments)
        except SystemExit as stop:
            assert stop.code == 0, capsys.readouterr().err
    elif program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(arguments) <= set(targets)
    elif program.startswith("benchmarks/"):
        assert (ROOT / program).is_file()
    elif program.startswith("python") and arguments[0].endswith(".py"):
        script = ROOT / arguments[0]
        assert script.is_file()
        for option in (word for word in arguments if word.startswith("--")):
            assert f'"{option.split("=")[0]}"' in script.read_text(), option


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_no_cell_of_a_table_has_more_than_25_words(page):
    rows = [line for line in page.read_text().splitlines() if line.startswith("|")]
    cells = [cell.strip() for row in rows for cell in row.strip("|").split("|")]
    long = [cell for cell in cells if len(cell.split()) > 25]
    assert not long


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_modules_and_files_that_are_named_exist(page):
    """`tinylm.x.y`, `room/file.py` and src/ paths in running text."""
    text, package = page.read_text(), ROOT / "src/tinylm"
    for name in re.findall(r"from (tinylm[\w.]*) import|import (tinylm\.[\w.]+)", text):
        module = ROOT / "src" / "".join(name).replace(".", "/")
        assert module.is_dir() or module.with_suffix(".py").is_file(), name
    for name in re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", text):
        assert any((place / name).is_file() for place in (package, ROOT, ROOT / "src")), name


def test_readme_begins_with_something_to_run():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert any(line.startswith("make run") for line in lines[:30])
    assert len(lines) < 150


def test_the_python_example_of_readme_runs(tmp_path, monkeypatch):
    pytest.importorskip("xllamacpp")
    tiny_teacher(tmp_path / "teacher")
    (tmp_path / "texts").mkdir()
    corpus_file(tmp_path / "texts" / "corpus.jsonl", count=300)
    (code,) = blocks(ROOT / "README.md", "python")
    assert len(code.strip().splitlines()) <= 13
    for said, small in {
        "16384": "384",
        "32e6": "140e3",
        "range(64), 512": "range(16), 32",
        "rounds=2": "rounds=2, steps=4, sequence_length=32, compile=False",
    }.items():
        assert said in code
        code = code.replace(said, small)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "tiny.gguf").stat().st_size > 0 and "tinylm" in sys.modules
