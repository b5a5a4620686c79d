"""`tinylm run` in two processes: the results of one, errors and kills in one line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def start(*arguments, processes: int = 2, torchrun: bool = False) -> subprocess.Popen:
    command = [sys.executable, "-m"]
    words = ["run", *map(str, arguments)]
    if torchrun:
        command += ["torch.distributed.run", f"--nproc-per-node={processes}", "--standalone", "-m"]
    elif processes > 1:
        words += ["--processes", str(processes)]
    return subprocess.Popen(
        [*command, "tinylm", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_give_the_results_of_one(recipe, tmp_path):
    found = {}
    for processes in (1, 2):
        out = tmp_path / str(processes)
        # no chaos: sums in another order alone
        words = ["train.bf16=false", "train.base_lr=2e-3"]
        words += ["train.steps=0", "train.tokens_per_parameter=0.03"]
        running = start(
            recipe, "--out", out, "--set", *words, processes=processes, torchrun=processes == 2
        )
        said, errors = running.communicate(timeout=300)
        assert running.returncode == 0, errors
        assert said.count("model: ") == 1  # one of them talks
        assert errors.count("17/17") == 1
        found[processes] = json.loads((out / "results.json").read_text())
    one, two = found[1], found[2]
    assert two["bits_per_byte"] == pytest.approx(one["bits_per_byte"], rel=2e-3)
    steps = round(0.03 * one["parameters"]["student"] / 128)
    assert two["tokens_trained"] == one["tokens_trained"] == 128 * steps
    names = [
        {path.name for path in (tmp_path / str(count) / "work").iterdir() if path.name[0] != "."}
        for count in (1, 2)
    ]
    assert {name.split("-")[0] for name in names[0]} == {name.split("-")[0] for name in names[1]}
    again = start(recipe, "--out", tmp_path / "2", "--set", *words, processes=1)
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0 and "reloaded" not in errors  # finds all of it


def test_threads_are_of_one_process(recipe, tmp_path):
    running = start(recipe, "--out", tmp_path / "out", "--threads", "1")
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 2 and "--threads is for one process" in errors


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("train.batch_size=3", "must be a multiple of"),  # found by the processes together
        ("train.steps=abc", "train.steps"),  # found before they meet
    ],
)
def test_wrong_input_is_said_once(recipe, tmp_path, change, words):
    running = start(recipe, "--out", tmp_path / "out", "--set", change)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 2
    assert errors.count(words) == 1
    assert "Traceback" not in errors


def test_a_killed_process_ends_the_other_and_the_run_goes_on(recipe, tmp_path):
    out = tmp_path / "out"
    words = [recipe, "--out", out, "--set", "train.steps=60", "control.enabled=false"]
    running = start(*words)
    deadline = time.monotonic() + 240
    while not list(out.glob("work/train-*.partial/checkpoints/step-*")):
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.05)
    second = child_of_rank(running.pid, 1)
    os.kill(second, signal.SIGKILL)
    killed = time.monotonic()
    _, errors = running.communicate(timeout=60)
    assert time.monotonic() - killed < 30
    assert running.returncode == 128 + signal.SIGKILL
    assert errors.count("process 1 of 2 was ended by SIGKILL: the same command goes on") == 1
    assert "another process" not in errors and "Traceback" not in errors
    again = start(*words)
    said, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert "bits per byte" in said


def child_of_rank(parent: int, rank: int) -> int:
    """The process id of one of the processes that ``parent`` started."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
            words = (stat.parent / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(fields[1]) == parent and f"RANK={rank}".encode() in words:
            return int(stat.parent.name)
    raise AssertionError("no such process")
