"""The device table runs on any two models and ends in one line of JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from builders import tiny_teacher

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "device_table.py"


def test_device_table(tmp_path):
    pytest.importorskip("xllamacpp")
    teacher = tiny_teacher(tmp_path / "teacher", hidden_size=128, intermediate_size=256)
    student = tiny_teacher(tmp_path / "student", num_hidden_layers=1)
    command = [
        sys.executable,
        SCRIPT,
        "--teacher",
        teacher,
        "--student",
        student,
        "--rounds",
        "1",
        "--threads",
        "1",
    ]
    done = subprocess.run(
        [*command, "--quantize", "q8_0"], capture_output=True, text=True, check=True
    )
    *lines, last = done.stdout.splitlines()
    result = json.loads(last)
    assert list(result)[-1] == "ratio" and result["ratio"] > 0
    assert 0 < result["size_ratio"] < 1
    assert [(row["model"], row["format"]) for row in result["rows"]] == [
        ("teacher", "Q8_0"),
        ("student", "Q8_0"),
    ]
    assert all(
        row["peak_mb"] > 0 and row["load_s"] > 0 and row["decode_tokens_per_s"] > 0
        for row in result["rows"]
    )
    assert len([line for line in lines if line.startswith("| ")]) == 3
