"""Forgetting, the teacher table, Muon, trackers."""

import dataclasses
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import byte_level_tokenizer, texts

from tinylm.artifact import read_json
from tinylm.corpus.pack import pack
from tinylm.errors import InputError
from tinylm.models.teacher import load_model
from tinylm.train import metrics
from tinylm.train.config import TrainConfig
from tinylm.train.forgetting import measure
from tinylm.train.loop import train
from tinylm.train.optim import MasterWeights, make_optimizers

CONFIG = TrainConfig(
    sequence_length=32, batch_size=4, steps=12, compile=False, bf16=False, checkpoint_every=0, base_batch_tokens=128
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return pack(texts(80), byte_level_tokenizer(), tmp_path_factory.mktemp("data") / "store")


def losses(out):
    return [line["loss"] for line in metrics.read(out) if "loss" in line]


def test_forgetting_is_the_early_loss_above_the_late_one():
    at_end = np.linspace(3.0, 2.0, 100)  # what was seen first is known least
    result = measure(np.full(100, 4.0), at_end)
    assert result["forgetting"] == pytest.approx(at_end[:25].mean() - at_end[75:].mean())
    assert result["learned"] == pytest.approx(1.5)
    assert measure(np.full(100, 4.0), np.full(100, 2.0))["forgetting"] == 0
    assert len(result["loss_at_end"]) == 40 and result["loss_at_end"][0] > result["loss_at_end"][-1]


def test_a_run_records_forgetting_of_every_round_with_a_picture(teacher_dir, store, tmp_path):
    config = dataclasses.replace(CONFIG, rounds=2, forgetting=True)
    result = train(load_model(teacher_dir), store, config, tmp_path)
    first, second = (read_json(tmp_path / "rounds" / f"forgetting-{number}.json") for number in (0, 1))
    assert first["batches"] == 8 and second["batches"] == 4
    assert result["forgetting"] == second["forgetting"]
    assert first["loss_when_seen"][0] == pytest.approx(losses(tmp_path)[0], abs=1e-4)
    assert "<svg" in (tmp_path / "rounds" / "forgetting.svg").read_text()


def test_losses_seen_while_training_may_choose_instead_of_a_pass(teacher_dir, store, tmp_path):
    config = dataclasses.replace(CONFIG, rounds=2, loss_source="training")
    train(load_model(teacher_dir), store, config, tmp_path)
    choice = np.load(tmp_path / "rounds" / "round-1.npz")
    assert np.array_equal(choice["losses"], choice["seen"])
    first_batch = choice["losses"].reshape(choice["sequences"].shape)[0].mean()
    assert first_batch == pytest.approx(losses(tmp_path)[0], abs=1e-4)


def test_a_stored_teacher_teaches_like_a_live_one_and_is_computed_once(teacher_dir, store, tmp_path, monkeypatch):
    table = tmp_path / "table"
    live = dataclasses.replace(CONFIG, distillation="live", distillation_weight=0.9)
    stored = dataclasses.replace(live, distillation="stored", stored_top_k=256)
    teacher = load_model(teacher_dir)
    with torch.no_grad():
        teacher.lm_head.weight *= 4  # so that it has something to say
    train(load_model(teacher_dir), store, live, tmp_path / "live", teacher=teacher)
    train(load_model(teacher_dir), store, stored, tmp_path / "stored", teacher=teacher, teacher_table=table)
    assert losses(tmp_path / "stored") == pytest.approx(losses(tmp_path / "live"), rel=0.02)
    made = (table / "top_ids.npy").stat().st_mtime_ns
    train(load_model(teacher_dir), store, stored, tmp_path / "again", teacher=teacher, teacher_table=table)
    assert (table / "top_ids.npy").stat().st_mtime_ns == made
    assert losses(tmp_path / "again") == losses(tmp_path / "stored")
    other = dataclasses.replace(stored, stored_top_k=8)
    train(load_model(teacher_dir), store, other, tmp_path / "other", teacher=teacher, teacher_table=table)
    assert (table / "top_ids.npy").stat().st_mtime_ns != made


def test_muon_moves_the_matrices_of_the_layers_and_learns(teacher_dir, store, tmp_path):
    model = load_model(teacher_dir)
    adamw, muon = make_optimizers(TrainConfig(optimizer="muon"), MasterWeights(model, torch.float32))
    moved = sum(len(group["params"]) for group in muon.param_groups)
    assert moved == 4 * 7  # q, k, v, o, gate, up, down of four layers
    assert sum(len(group["params"]) for group in adamw.param_groups) == len(list(model.parameters())) - moved
    config = dataclasses.replace(CONFIG, optimizer="muon", checkpoint_every=5)
    train(model, store, config, tmp_path / "run")
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0] - 0.1


def test_trackers_get_every_line(teacher_dir, store, tmp_path, monkeypatch):
    lines = []
    fake = SimpleNamespace(
        init=lambda **settings: lines.append(settings["config"]["seed"]),
        log=lambda values, step: lines.append((step, values["loss"])),
        finish=lambda: lines.append("finished"),
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    train(load_model(teacher_dir), store, dataclasses.replace(CONFIG, steps=2, trackers=("wandb",)), tmp_path)
    assert lines == [0, (0, losses(tmp_path)[0]), (1, losses(tmp_path)[1]), "finished"]


def test_a_tracker_that_is_not_installed_is_an_input_error(teacher_dir, store, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(InputError, match="trackio is not installed"):
        train(load_model(teacher_dir), store, dataclasses.replace(CONFIG, trackers=("trackio",)), tmp_path)
