"""Training for hours: as many steps as they have time for, the same ones after a stop."""

import dataclasses
import json

import pytest
import torch
from builders import byte_level_tokenizer, random_model, texts
from hypothesis import given
from hypothesis import strategies as st

from tinylm.corpus.pack import pack
from tinylm.errors import InputError
from tinylm.models.teacher import load_model
from tinylm.pipeline.forecast import predict_flops, with_steps
from tinylm.pipeline.recipe import read_recipe
from tinylm.train import length
from tinylm.train.config import TrainConfig
from tinylm.train.learning_rate import trial_steps
from tinylm.train.loop import train

CONFIG = TrainConfig(
    sequence_length=32, batch_size=4, hours=0.01, base_lr=1e-3, compile=False, bf16=False
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return pack(texts(150), byte_level_tokenizer(), tmp_path_factory.mktemp("data") / "train")


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("m") / "m", "llama", byte_level_tokenizer())


@given(st.floats(1e-4, 100), st.floats(1e-3, 100))
def test_the_most_steps_that_fit(hours, seconds):
    config = dataclasses.replace(CONFIG, hours=hours, base_lr="auto")

    def cost(steps):  # 8,192 tokens ten times, forward
        return (steps + 3 * trial_steps(steps) + 10 * 8192 / 128 / 3) * seconds

    steps = length.steps_within(config, seconds)
    assert steps == 1 or cost(steps) <= 3600 * hours
    assert cost(steps + 1) > 3600 * hours


def test_steps_are_timed_once(store, student, tmp_path, monkeypatch):
    timed = []

    def seconds(run):
        timed.append(run.plan.total_steps)
        run.student.release()
        return 36 / 217.5  # four steps beside the looks

    monkeypatch.setattr(length, "_seconds_a_step", seconds)
    first = train(load_model(student, torch.float32), store, CONFIG, tmp_path / "a")
    assert first["steps"] == 4 and timed == [length.FIRST + length.TIMED]
    kept = json.loads((tmp_path / "a" / length.FILE).read_text())
    assert kept["steps"] == 4 and kept["seconds_a_step"] == 36 / 217.5
    train(load_model(student, torch.float32), store, CONFIG, tmp_path / "a")  # finds it there
    assert len(timed) == 1
    longer = dataclasses.replace(CONFIG, hours=0.0101)
    train(load_model(student, torch.float32), store, longer, tmp_path / "a")
    assert len(timed) == 2  # other hours, other steps


def test_timing_leaves_no_trace_in_the_result(store, student, tmp_path):
    short = dataclasses.replace(CONFIG, hours=0.001)
    steps = train(load_model(student, torch.float32), store, short, tmp_path / "a")["steps"]
    known = dataclasses.replace(CONFIG, hours=0.0, steps=steps)
    train(load_model(student, torch.float32), store, known, tmp_path / "b")
    written = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in "ab"]
    assert written[0] == written[1]


def test_one_length_at_a_time():
    with pytest.raises(InputError, match=r"hours = 0.01.*0 beside train.steps"):
        dataclasses.replace(CONFIG, steps=3).validate()
    with pytest.raises(InputError, match=r"hours = -1"):
        dataclasses.replace(CONFIG, hours=-1.0).validate()


def test_the_bill_knows_hours():
    demo = read_recipe("demo", {"train.steps": 0, "train.hours": 0.5})
    settled = with_steps(demo)
    assert settled.train.steps > 1 and settled.train.hours == 0
    assert predict_flops(demo) == pytest.approx(predict_flops(settled), rel=0.01)
