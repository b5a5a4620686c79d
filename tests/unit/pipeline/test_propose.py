"""`tinylm init`: a recipe that fits the hours, and that runs."""

import pytest
from builders import corpus_file

from tinylm.cli import main
from tinylm.errors import InputError
from tinylm.pipeline import propose as module
from tinylm.pipeline.forecast import predict_flops
from tinylm.pipeline.propose import propose
from tinylm.pipeline.recipe import read_recipe

SPEED = 2e8  # FLOP/s of a made-up machine


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "machine_speed", lambda: SPEED)
    return str(corpus_file(tmp_path / "texts.jsonl", 20))


BUDGET = 44_480  # a cut that the tests' teacher has


@pytest.mark.parametrize("hours", [0.1, 0.3, 0.6])
def test_training_takes_the_hours(hours, corpus, teacher_dir):
    recipe, words = propose(str(teacher_dir), [corpus], hours, BUDGET)
    assert predict_flops(recipe) / SPEED == pytest.approx(hours * 3600, rel=0.05)
    assert recipe.tokenizer.vocab_size <= 500
    assert any("parameters" in word for word in words)


def test_no_more_than_twenty_tokens_a_parameter(corpus, teacher_dir):
    recipe, words = propose(str(teacher_dir), [corpus], 1000.0, BUDGET)
    budget = recipe.architecture.budget
    assert recipe.train.steps * recipe.train.tokens_per_batch == pytest.approx(20 * budget, rel=0.1)
    assert any("more hours suit a larger student" in word for word in words)


def test_little_time_is_said(corpus, teacher_dir):
    _, words = propose(str(teacher_dir), [corpus], 0.0001, BUDGET)
    assert any("below 1 a parameter" in word for word in words)


@pytest.mark.parametrize(
    ("hours", "budget", "words"),
    [
        (0.0, 0.0, "--hours 0 must be more"),
        (float("nan"), 0.0, "--hours nan"),
        (1.0, 1e12, "--budget 1e.12 must lie between"),
        (1.0, 45_000, "no cut of the teacher has 0.045 million"),
    ],
)
def test_what_fits_no_student(hours, budget, words, corpus, teacher_dir):
    with pytest.raises(InputError, match=words):
        propose(str(teacher_dir), [corpus], hours, budget)


def test_the_file_is_a_recipe(corpus, teacher_dir, tmp_path, capsys):
    out = tmp_path / "tiny-one.toml"
    words = [
        "--teacher",
        str(teacher_dir),
        "--corpus",
        corpus,
        "--hours",
        "0.3",
        "--budget",
        str(BUDGET),
    ]
    main(["init", *words, "--out", str(out)])
    said = capsys.readouterr().out
    assert f"tinylm run {out} --dry-run" in said
    recipe = read_recipe(out)
    assert recipe.name == "tiny-one" and recipe.corpus.paths == (corpus,)
    assert recipe == propose(str(teacher_dir), [corpus], 0.3, BUDGET, name="tiny-one")[0]
    main(["run", str(out), "--dry-run"])
    with pytest.raises(SystemExit) as stop:
        main(["init", *words, "--out", str(out)])
    assert stop.value.code == 2 and "exists already" in capsys.readouterr().err
