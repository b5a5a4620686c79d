import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # so that tests can `from builders import ...`
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def teacher_dir(tmp_path_factory) -> Path:
    """A tiny random teacher shared by the session; read only."""
    from builders import tiny_teacher

    return tiny_teacher(tmp_path_factory.mktemp("models") / "teacher")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, teacher_dir) -> Path:
    """A recipe of seconds, beside its corpus."""
    from builders import TINY_RECIPE, corpus_file

    folder = tmp_path_factory.mktemp("recipe")
    corpus = corpus_file(folder / "corpus.jsonl", count=300)
    path = folder / "tiny.toml"
    path.write_text(TINY_RECIPE.format(teacher=teacher_dir, corpus=corpus))
    return path
