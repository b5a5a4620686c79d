"""benchmarks/gpu/run.sh goes its whole way on a CPU: what fails there would cost a GPU's time."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_part_of_the_gpu_kit_ends_well(tmp_path):
    command = ["bash", "benchmarks/gpu/run.sh", "all", "--sizes", "tiny", "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--skip", "tests"],
        cwd=ROOT,
        env=os.environ | {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert set(parts) == {"train-tiny", "taylor", "inherit", "speed", "depth"}
    assert {"tiny tinylm", "tiny trainer"} == set(parts["train-tiny"]["rows"])
    assert all(part["ratio"] > 0 for part in parts.values())


def test_a_part_without_time_is_told_and_fails_the_run(tmp_path):
    command = ["bash", "benchmarks/gpu/run.sh", "2", "--sizes", "tiny", "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--within", "1"],
        cwd=ROOT,
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "taylor         no time left" in done.stdout
