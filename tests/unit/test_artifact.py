import errno
import json
import os
from pathlib import Path

import pytest

from tinylm.artifact import (
    STAGE_VERSIONS,
    atomic_directory,
    atomic_file,
    hash_of,
    require_space,
    resumable_directory,
    write_json,
)
from tinylm.errors import InputError, WorkError
from tinylm.pipeline.stages import Stages, manifest, stage


def test_nothing_is_left_when_the_block_fails(tmp_path):
    with pytest.raises(RuntimeError), atomic_directory(tmp_path / "out") as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_directory_appears_whole_and_never_replaces_unasked(tmp_path):
    with atomic_directory(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "a").read_text() == "1"
    with pytest.raises(InputError, match="exists already"), atomic_directory(tmp_path / "out"):
        pass
    with atomic_directory(tmp_path / "out", replace=True) as folder:
        (folder / "b").write_text("2")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["b"]
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_the_folder_one_stands_in_is_no_place_to_rename_to(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with atomic_directory(Path(".")) as folder:  # empty: may be filled
        (folder / "a").write_text("1")
    assert (tmp_path / "here" / "a").read_text() == "1" and len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr("os.path.ismount", lambda path: True)
    with pytest.raises(InputError, match="mount point"), atomic_directory(tmp_path / "out"):
        pytest.fail("the work must not begin")


@pytest.mark.parametrize(("error", "left"), [(InputError, []), (WorkError, ["half"])])
def test_work_that_failed_goes_on_and_wrong_input_leaves_nothing(error, left, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(error), resumable_directory(out) as folder:
        (folder / "half").touch()
        raise error("why")
    assert [path.name for path in tmp_path.glob("out.partial/half")] == left
    with resumable_directory(out) as folder:
        assert [path.name for path in folder.glob("half")] == left
    assert out.is_dir() and not (tmp_path / "out.partial").exists()


def test_what_a_killed_run_left_is_cleared_away(tmp_path):
    path = stage(tmp_path, "counts", {"a": 1}, lambda folder: None)
    os.rename(path, left := tmp_path / f".{path.name}-x1y2")
    stage(tmp_path, "counts", {"a": 1}, lambda folder: None)
    assert not left.exists() and path.exists()


def test_full_disk_is_an_input_error_and_other_errors_pass(tmp_path):
    with pytest.raises(InputError, match="No space"), atomic_file(tmp_path / "x"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "x"):
        raise FileNotFoundError(errno.ENOENT, "a bug")


def test_require_space(tmp_path):
    require_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(InputError, match="not enough disk"):
        require_space(tmp_path, 10**18)


def test_hash_depends_on_values_not_on_order():
    assert hash_of({"a": 1, "b": (1, 2)}) == hash_of({"b": [1, 2], "a": 1})
    assert hash_of({"a": 1}) != hash_of({"a": 2})


def test_a_stage_runs_once_for_the_same_inputs(tmp_path):
    runs = []

    def build(folder):
        runs.append(1)
        write_json(folder / "x.json", 1)
        return {"n": len(runs)}

    first, again = (
        stage(tmp_path, "score", {"a": 1}, build),
        stage(tmp_path, "score", {"a": 1}, build),
    )
    assert first == again and manifest(first)["result"] == {"n": 1} and len(runs) == 1
    assert stage(tmp_path, "score", {"a": 2}, build) != first


def test_a_resumable_stage_finds_what_it_left(tmp_path):
    def killed(folder):
        (folder / "checkpoint").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path, "train", {}, killed, resumable=True)
    assert not list(tmp_path.glob("train-*[0-9a-f]"))
    done = stage(
        tmp_path, "train", {}, lambda folder: (folder / "checkpoint").read_text(), resumable=True
    )
    assert manifest(done)["result"] == "half" and not list(tmp_path.glob("*.partial"))


def test_stages_remember_results_and_seconds(tmp_path):
    stages = Stages(tmp_path, 1)
    stages("count tokens", {}, lambda folder: {"tokens": 3}, kind="counts")
    assert stages.result("count tokens") == {"tokens": 3}
    assert stages.seconds()["count tokens"] >= 0
    assert (
        json.loads((stages.folders["count tokens"] / "manifest.json").read_text())["stage"]
        == "counts"
    )


def test_a_stage_says_how_long_the_whole_will_take(tmp_path, capfd, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("tinylm.pipeline.stages.time.monotonic", lambda: clock[0])
    stages = Stages(tmp_path, 3, expected={"counts": 120.0, "pack": 240.0, "train": 600.0})

    def takes(seconds):
        def build(folder):
            clock[0] += seconds

        return build

    stages("counts", {}, takes(5))
    assert "1/3 counts  about 16 min to the end" in capfd.readouterr().err
    stages("pack", {}, takes(120))  # half of what was foretold
    assert "2/3 pack  about 14 min to the end" in capfd.readouterr().err
    stages("train", {}, takes(300))
    assert "3/3 train  about 5 min to the end" in capfd.readouterr().err
    again = Stages(tmp_path, 1)
    again("train", {}, takes(0))
    assert capfd.readouterr().err.strip() == "1/1 train"


def test_a_raised_version_is_another_artifact_here_and_in_all_that_follows(tmp_path, monkeypatch):
    def names() -> list[str]:
        first = stage(tmp_path, "counts", {"a": 1}, lambda folder: None)
        return [first.name, stage(tmp_path, "compact", {"counts": first.name}, lambda f: None).name]

    before = names()
    assert names() == before
    monkeypatch.setitem(STAGE_VERSIONS, "counts", STAGE_VERSIONS["counts"] + 1)
    assert not set(names()) & set(before)


def test_a_stage_without_a_version_cannot_be_made(tmp_path):
    with pytest.raises(KeyError, match="forgotten"):
        stage(tmp_path, "forgotten", {}, lambda folder: None)
