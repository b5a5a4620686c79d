import os

import pytest

from tinylm import cores


@pytest.fixture
def quota(tmp_path, monkeypatch):
    """A container whose cpu.max holds what is given, on a machine of 8 cores."""

    def give(text):
        (tmp_path / "cpu.max").write_text(text)
        real = cores.Path
        monkeypatch.setattr(
            cores, "Path", lambda path: tmp_path / "cpu.max" if "cgroup" in path else real(path)
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
    assert cores.cores() == expected


def test_threads_are_limited_only_where_a_container_is_smaller(quota, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    quota("max 100000")
    cores.limit_threads()
    assert "OMP_NUM_THREADS" not in os.environ
    quota("200000 100000")
    cores.limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    cores.limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "5"


def test_without_affinity_the_machine_decides(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert cores.allowed() == 3
