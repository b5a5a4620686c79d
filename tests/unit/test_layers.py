"""The directions of imports are a contract (pyproject, ``tool.importlinter``) that can fail."""

import os
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
    """Six modules and twelve rooms; no file above 400 lines, no function above 80."""
    files = {path.stem for path in ROOT.glob("*.py")}
    assert files == {"__init__", "__main__", "artifact", "cli", "errors", "machine", "terminal"}
