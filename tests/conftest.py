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
