"""The directions of imports are a contract (pyproject, ``tool.importlinter``) that can fail."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tinylm

ROOT = Path(tinylm.__file__).parent


@pytest.mark.parametrize(
    ("module", "line", "code"),
    [
        ("inherit/cut.py", "", 0),
        ("inherit/cut.py", "from tinylm.tokenizer import rewrite", 1),
        ("models/generate.py", "import tinylm.evaluate.forward", 1),
        ("corpus/read.py", "def f():\n    from tinylm.train import loop", 1),
        ("stray.py", "", 1),  # a module that no layer names
    ],
)
def test_an_import_that_points_up_is_refused(tmp_path, module, line, code):
    shutil.copytree(ROOT, tmp_path / "tinylm", ignore=shutil.ignore_patterns("__pycache__"))
    with open(tmp_path / "tinylm" / module, "a") as file:
        file.write(f"\n{line}\n")
    config = Path(__file__).parents[2] / "pyproject.toml"
    program = "import sys; from importlinter.cli import lint_imports as lint;"
    program += f"sys.exit(lint({str(config)!r}, no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
    )
    assert done.returncode == code, done.stdout.decode()


def test_the_root_holds_what_the_layout_says():
    files = {path.stem for path in ROOT.glob("*.py")}
    assert files == {
        "__init__",
        "__main__",
        "artifact",
        "cli",
        "errors",
        "machine",
        "terminal",
    }


def test_no_file_is_above_400_lines_and_no_function_above_80():
    long = []
    for path in ROOT.rglob("*.py"):
        text = path.read_text()
        name = path.relative_to(ROOT)
        if text.count("\n") > 400:
            long.append(f"{name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                arguments = len(node.args.args) + len(node.args.kwonlyargs)
                if lines > 80 or arguments >= 10:
                    long.append(f"{name}, {node.name}: {lines} lines, {arguments} arguments")
    assert not long, long


def test_one_table_of_families():
    defined = [
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if re.search(r"^FAMILIES\b", path.read_text(), re.MULTILINE)
    ]
    assert defined == ["models/families.py"]
