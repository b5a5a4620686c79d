"""A study from its file to its report, with a runner that stands in for the pipeline."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from study_fakes import BASE, STUDY, fake_pipeline, fake_pipeline_on

from tinylm.artifact import alone_in
from tinylm.errors import InputError, WorkError
from tinylm.study import cost
from tinylm.study.report import write_report
from tinylm.study.runner import run_study
from tinylm.study.spec import read_study
from tinylm.study.summary import summarise


@pytest.fixture
def study_file(tmp_path):
    (tmp_path / "base.toml").write_text(BASE)
    path = tmp_path / "rounds-small.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture(autouse=True)
def no_stopwatch(monkeypatch):
    """The measured matrix product has a test of its own."""
    monkeypatch.setattr(cost, "machine_speed", lambda: 1e11)


def calls(out: Path) -> dict[str, int]:
    return {
        path.parent.name: len(path.read_text().split())
        for path in sorted((out / "runs").glob("*/calls"))
    }


def without_times(out: Path) -> dict:
    results = json.loads((out / "results.json").read_text())
    return {key: value for key, value in results.items() if key != "times"}


def test_a_whole_study(study_file, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    results = run_study(read_study(study_file), tmp_path / "out", workers=2, runner=fake_pipeline)
    assert results["state"] == {"finished": 11, "failed": 0, "to do": 0}
    assert results["verdicts"] == {"two rounds": "better", "five rounds": "better"}
    two = results["rungs"][1]
    assert (
        two["difference"] == pytest.approx(-0.1, abs=0.02)
        and two["interval"][0] < -0.1 < two["interval"][1]
    )
    low, high = two["document_interval"]
    assert low < two["difference"] < high < 0
    assert two["bits_per_byte"] == two["mean"] and two["seeds"] == [0, 1, 2]
    assert (
        results["noise_floor"]["runs"] == 5
        and results["noise_floor"]["verdict"] == "no difference seen"
    )
    assert results["equal_budget"]["equal"]
    assert results["by_source"]["plots"]["one"] == pytest.approx(
        results["by_source"]["law"]["one"] + 1
    )
    page = (tmp_path / "out" / "report.html").read_text()
    assert (
        "two rounds: <b>better</b>" in page
        and "More rounds help." in page
        and page.count("<svg") == 2
    )
    assert results["repeat"].endswith("--scale cpu --workers 2")
    assert set(calls(tmp_path / "out").values()) == {1}
    record = json.loads(next((tmp_path / "out" / "records").glob("*.json")).read_text())
    assert record["results"]["bits_per_byte"]["threads"] == max(1, (os.cpu_count() or 1) // 2), (
        "its share of the cores"
    )
    run_study(read_study(study_file), tmp_path / "again", workers=2, runner=fake_pipeline)
    assert without_times(tmp_path / "out") == without_times(tmp_path / "again")


def test_a_failing_and_a_killed_run_do_not_stop_the_others(study_file, tmp_path):
    for setting, reason in ((13, "training diverged"), (14, "signal 9")):
        out = tmp_path / str(setting)
        study = read_study(study_file, settings={"train.log_every": setting})
        with pytest.raises(WorkError, match=r"3 of 11 runs failed.*report\.html"):
            run_study(study, out, workers=2, runner=fake_pipeline)
        results = summarise(out)
        assert results["state"] == {"finished": 8, "failed": 3, "to do": 0}
        assert results["verdicts"] == {"two rounds": "better", "five rounds": "not measured"}
        assert all(reason in run["error"] for run in results["runs"] if run["status"] == "failed")
        assert (
            reason in (out / "report.html").read_text()
            and reason in (out / "report.md").read_text()
        )


def test_failed_runs_are_tried_again_and_finished_ones_are_not(study_file, tmp_path):
    out = tmp_path / "out"
    broken = read_study(study_file, settings={"train.log_every": 13})
    with pytest.raises(WorkError):
        run_study(broken, out, runner=fake_pipeline)
    with pytest.raises(WorkError):
        run_study(broken, out, runner=fake_pipeline)
    count = calls(out)
    assert {count[name] for name in count if "five" in name} == {2}
    assert {count[name] for name in count if "five" not in name} == {1}


def test_a_killed_study_goes_on_without_redoing_finished_runs(study_file, tmp_path):
    out = tmp_path / "out"
    script = (
        "from study_fakes import fake_pipeline; from pathlib import Path\nfrom tinylm.study.runner"
        " import run_study; from tinylm.study.spec import read_study\nif __name__ == '__main__':\n"
        f"    run_study(read_study({str(study_file)!r}, settings={{'train.log_every': 15}}),"
        f" Path({str(out)!r}), runner=fake_pipeline)\n"
    )
    (tmp_path / "go.py").write_text(script)
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]),
    }
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "go.py")], env=env, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while len(list(out.glob("records/*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path.stem for path in out.glob("records/*.json")}
    assert 2 <= len(done) < 11
    preliminary = summarise(out)
    write_report(preliminary, out)
    assert "preliminary" in (out / "report.html").read_text() and preliminary["state"][
        "to do"
    ] == 11 - len(done)
    # the orphaned run notices and ends; nothing of it may land in the folder afterwards
    time.sleep(1.5)
    assert {path.stem for path in out.glob("records/*.json")} == done
    study = read_study(study_file, settings={"train.log_every": 15})
    results = run_study(study, out, workers=4, runner=fake_pipeline)
    assert results["state"]["finished"] == 11
    assert {calls(out)[name] for name in done} == {1}


def test_max_hours_stops_before_a_run_that_would_not_fit(study_file, tmp_path, capfd, monkeypatch):
    study = read_study(study_file, settings={"train.log_every": 15})
    # nothing has ended yet: the estimate counts
    monkeypatch.setattr(cost, "machine_speed", lambda: 1e9)
    assert (
        run_study(study, tmp_path / "out", max_hours=1e-3, runner=fake_pipeline)["state"][
            "finished"
        ]
        == 0
    )
    monkeypatch.setattr(cost, "machine_speed", lambda: 1e30)
    results = run_study(study, tmp_path / "out", max_hours=2.5 / 3600, runner=fake_pipeline)
    assert 1 <= results["state"]["finished"] <= 2 and results["state"]["to do"] >= 9
    assert "run again to go on" in capfd.readouterr().err
    assert (
        run_study(study, tmp_path / "out", workers=4, runner=fake_pipeline)["state"]["finished"]
        == 11
    )


def test_each_variation_takes_the_best_of_its_own_trials(study_file, tmp_path):
    out = tmp_path / "out"
    study_file.write_text("tune = { train.base_lr = [1e-3, 2e-3, 5e-3, 1e-1] }\n" + STUDY)
    study = read_study(study_file, settings={"train.log_every": 16})
    results = run_study(study, out, workers=2, runner=fake_pipeline)
    rates = {rung["name"]: rung["changes"]["train.base_lr"] for rung in results["rungs"]}
    assert rates == {"one": 1e-3, "two rounds": 2e-3, "five rounds": 5e-3}
    assert results["state"] == {"finished": 11, "failed": 0, "to do": 0}
    (note,) = results["notes"]
    assert "one: base lr 0.001 (at the edge of train.base_lr); two rounds: base lr 0.002;" in note
    trials = json.loads((out / "tuning" / "results.json").read_text())
    assert trials["state"] == {"finished": 9, "failed": 3, "to do": 0}, "a mad rate stops nothing"
    # the best trial is the run with that seed
    assert len(calls(out / "tuning")) == 12 and len(calls(out)) == 8
    assert [rung["values"][0] for rung in results["rungs"]] == [
        min(rung["mean"] or 9 for rung in trials["rungs"] if rung["name"].startswith(f"{name},"))
        for name in rates
    ]
    before = without_times(out)
    run_study(study, out, workers=2, runner=fake_pipeline)
    assert without_times(out) == before and set(calls(out).values()) == {1}


def test_a_variation_can_take_the_values_of_another(study_file, tmp_path):
    out = tmp_path / "out"
    text = STUDY.replace('name = "five rounds"', 'name = "five rounds"\ntuned_as = "two rounds"')
    study_file.write_text("tune = { train.base_lr = [1e-3, 2e-3, 5e-3] }\n" + text)
    results = run_study(read_study(study_file), out, workers=2, runner=fake_pipeline)
    rates = {rung["name"]: rung["changes"]["train.base_lr"] for rung in results["rungs"]}
    assert rates == {"one": 1e-3, "two rounds": 2e-3, "five rounds": 2e-3}
    assert results["state"] == {"finished": 11, "failed": 0, "to do": 0}
    assert len(calls(out / "tuning")) == 6 and len(calls(out)) == 9


def test_a_tuned_study_stops_in_its_trials_where_the_hours_end(study_file, tmp_path, monkeypatch):
    study_file.write_text("tune = { train.base_lr = [1e-3, 2e-3] }\n" + STUDY)
    study = read_study(study_file)
    monkeypatch.setattr(cost, "machine_speed", lambda: 1.0)
    results = run_study(study, tmp_path / "out", max_hours=1e-3, runner=fake_pipeline)
    assert results["title"].endswith("trials") and results["state"]["to do"] == 6
    assert not (tmp_path / "out" / "study.json").exists()


def test_a_variation_without_a_trial_that_ended_is_one_line(study_file, tmp_path):
    study_file.write_text("tune = { train.base_lr = [1e-3, 2e-3] }\n" + STUDY)
    study = read_study(study_file, settings={"train.log_every": 13})
    with pytest.raises(WorkError, match=r"five rounds: no trial ended, see .*report.html"):
        run_study(study, tmp_path / "out", workers=2, runner=fake_pipeline)


def test_more_seeds_may_be_added_but_settings_may_not_change(study_file, tmp_path):
    out = tmp_path / "out"
    run_study(read_study(study_file), out, workers=2, runner=fake_pipeline)
    study_file.write_text(STUDY.replace("[0, 1, 2]", "[0, 1, 2, 3]"))
    assert run_study(read_study(study_file), out, runner=fake_pipeline)["state"]["finished"] == 14
    assert set(calls(out).values()) == {1}
    with pytest.raises(InputError, match="runs that this call leaves out"):
        run_study(read_study(study_file, seeds=(0,)), out, runner=fake_pipeline)
    assert summarise(out)["state"]["finished"] == 14
    with pytest.raises(InputError, match="other settings: choose another --out"):
        run_study(read_study(study_file, settings={"train.steps": 30}), out, runner=fake_pipeline)


def test_ray_gives_identical_results(study_file, tmp_path):
    ray = pytest.importorskip("ray", reason="the extra tinylm[ray] is not installed")
    import study_fakes

    ray.cloudpickle.register_pickle_by_value(study_fakes)
    study = read_study(study_file, settings={"train.log_every": 13})
    for engine in ("local", "ray"):
        with pytest.raises(WorkError, match="3 of 11"):
            run_study(study, tmp_path / engine, engine=engine, workers=2, runner=fake_pipeline)
    assert without_times(tmp_path / "local") == without_times(tmp_path / "ray")


def test_bad_calls_are_one_clear_line(study_file, tmp_path):
    study = read_study(study_file)
    with pytest.raises(InputError, match="--engine slurm"):
        run_study(study, tmp_path / "out", engine="slurm")
    with pytest.raises(InputError, match="--workers 0"):
        run_study(study, tmp_path / "out", workers=0)
    with alone_in(tmp_path / "busy"), pytest.raises(InputError, match="another tinylm is working"):
        run_study(study, tmp_path / "busy", runner=fake_pipeline)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        run_study(study, tmp_path / "file" / "out", runner=fake_pipeline)
    with pytest.raises(InputError, match="holds no study"):
        summarise(tmp_path)


def test_a_run_of_another_default_is_done_again_and_an_unstarted_study_may_change(
    study_file, tmp_path
):
    out = tmp_path / "out"
    one = {"seeds": (0,), "noise_seeds": (7,)}
    with pytest.raises(InputError, match="--workers 0"):
        run_study(read_study(study_file), out, workers=0, runner=fake_pipeline)
    run_study(
        read_study(study_file, settings={"train.steps": 90}, **one),
        out,
        max_hours=1e-9,
        runner=fake_pipeline,
    )
    run_study(read_study(study_file, **one), out, runner=fake_pipeline)
    record = next((out / "records").glob("*.json"))
    values = json.loads(record.read_text())
    values["recipe"]["train"]["clip"] = 0.5  # what the default was then; the hash holds no defaults
    record.write_text(json.dumps(values))
    run_study(read_study(study_file, **one), out, runner=fake_pipeline)
    assert sorted(calls(out).values()) == [1, 1, 1, 2]


def test_a_dollar_in_a_name_is_no_formula(study_file, tmp_path):
    study_file.write_text(STUDY.replace("two rounds", "two $x_$ rounds"))
    results = run_study(read_study(study_file), tmp_path / "out", runner=fake_pipeline)
    assert (
        results["state"]["finished"] == 11
        and "two $x_$ rounds" in (tmp_path / "out" / "report.md").read_text()
    )


def test_a_study_that_goes_on_on_another_processor_says_so(
    study_file, tmp_path, capfd, monkeypatch
):
    out = tmp_path / "out"
    on_a, on_b = (partial(fake_pipeline_on, f"Processor {name}") for name in "AB")
    monkeypatch.setattr("tinylm.study.runner.cpu_name", lambda: "Processor A")
    run_study(read_study(study_file, seeds=(0,)), out, runner=on_a)
    run_study(read_study(study_file, seeds=(0, 1)), out, runner=on_a)
    assert "earlier runs of this study" not in capfd.readouterr().err
    assert "kinds of processor" not in (out / "report.md").read_text()
    monkeypatch.setattr("tinylm.study.runner.cpu_name", lambda: "Processor B")
    results = run_study(read_study(study_file), out, runner=on_b)
    said = " ".join(capfd.readouterr().err.split())
    assert "are of Processor A, this is Processor B: their arithmetic alone" in said
    assert results["processors"] == ["Processor A", "Processor B"]
    assert "The runs are of 2 kinds of processor" in (out / "report.md").read_text()
