import os
import subprocess
import sys

import pytest
import torch

from tinylm import machine
from tinylm.errors import InputError
from tinylm.machine import choose_device


def test_a_device_is_the_one_asked_for_or_the_processs_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [str(choose_device(asked)) for asked in ("auto", "cpu", "cuda:0")] == [
        "cuda:1",
        "cpu",
        "cuda:0",
    ]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="process 2 of this machine has no GPU"):
        choose_device()


@pytest.mark.parametrize("asked", ["cuda", "cuda:1", "gpu", "mps"])
def test_a_device_that_is_not_there_is_one_line(asked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert str(choose_device()) == "cpu"
    with pytest.raises(InputError, match=f"--device {asked}: PyTorch sees no such device"):
        choose_device(asked)


def test_apples_device_is_taken_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert str(choose_device("mps")) == "mps" and str(choose_device()) == "cpu"


WITHOUT_LINUX = """
import importlib, os, pkgutil, sys
import lm_eval.api.task, torch, torch.distributed
from transformers import AutoTokenizer, PreTrainedModel
for name in ("fcntl", "resource"):  # not on Windows
    sys.modules[name] = None
for name in ("sched_getaffinity", "posix_fadvise"):  # not on macOS
    if hasattr(os, name):
        delattr(os, name)
import tinylm
for module in pkgutil.walk_packages(tinylm.__path__, "tinylm."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from tinylm.machine import cores
print("cores", cores())
"""


def test_every_module_imports_where_linux_is_not():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LINUX], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("cores ")


@pytest.fixture
def quota(tmp_path, monkeypatch):
    """A container whose cpu.max holds what is given, on a machine of 8 cores."""

    def give(text):
        (tmp_path / "cpu.max").write_text(text)
        real = machine.Path
        monkeypatch.setattr(
            machine, "Path", lambda path: tmp_path / "cpu.max" if "cgroup" in path else real(path)
        )

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return give


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 1),
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("200000", 2),
    ],
)
def test_cores_are_those_that_may_be_used(text, expected, quota):
    quota(text)
    assert machine.cores() == expected


def test_threads_are_limited_only_where_a_container_is_smaller(quota, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    quota("max 100000")
    machine.limit_threads()
    assert "OMP_NUM_THREADS" not in os.environ
    quota("200000 100000")
    machine.limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    machine.limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "5"


def test_without_affinity_the_machine_decides(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert machine.allowed() == 3
