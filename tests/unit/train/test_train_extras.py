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
from tinylm.train import metrics, teacher_table
from tinylm.train.batches import micro_batches
from tinylm.train.config import TrainConfig
from tinylm.train.forgetting import measure
from tinylm.train.inputs import check_valid_store
from tinylm.train.loop import train
from tinylm.train.master_weights import MasterWeights
from tinylm.train.optimizers import OPTIMIZERS
from tinylm.train.rounds import select
from tinylm.train.student import Student
from tinylm.train.trackers import TRACKERS

CONFIG = TrainConfig(
    sequence_length=32,
    batch_size=4,
    steps=12,
    compile=False,
    bf16=False,
    checkpoint_every=0,
    base_batch_tokens=128,
    base_lr=1e-3,
    warmup_steps=0,
    never_worse=False,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return pack(texts(80), byte_level_tokenizer(), tmp_path_factory.mktemp("data") / "store")


@pytest.fixture
def own_store(tmp_path):
    """One that teacher tables are written into."""
    return pack(texts(80), byte_level_tokenizer(), tmp_path / "own-store")


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
    first, second = (
        read_json(tmp_path / "rounds" / f"forgetting-{number}.json") for number in (0, 1)
    )
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


def test_data_are_drawn_by_what_the_teacher_finds_easier(teacher_dir, store, tmp_path, capsys):
    config = dataclasses.replace(
        CONFIG, rounds=2, strategy="excess-loss", effective_sample=0.5, granularity="sequence"
    )
    with pytest.raises(InputError, match=r"train\.strategy = 'excess-loss' needs a teacher"):
        train(load_model(teacher_dir), store, config, tmp_path / "none")
    teacher = load_model(teacher_dir)
    result = train(load_model(teacher_dir), store, config, tmp_path, teacher=teacher)
    kept = np.load(tmp_path / "rounds" / "round-1.npz")
    plain = Student(teacher, config, torch.device("cpu"), torch.float32)
    for place in (0, 5):
        (piece,) = micro_batches(
            store, config, kept["sequences"].ravel()[[place]], plain.model.device
        )
        expected = float(plain(piece)[1])
        above = np.load(tmp_path / "rounds" / "teacher-losses.npy")
        assert above[place] == pytest.approx(expected, rel=1e-5)
    assert kept["chosen"].tolist() == select(config, kept["losses"] - above, None, 1).tolist()
    assert kept["chosen"].tolist() != select(config, kept["losses"], None, 1).tolist()
    (drawn,) = result["rounds_drawn"]
    assert drawn["effective_sample"] == pytest.approx(0.5) and drawn["temperature"] > 0
    assert drawn["read"] == [16, 16]  # of 32 sequences half are read twice
    assert "effective sample of 50%" in capsys.readouterr().err
    # a resumed run and a control need no teacher's losses again
    control = train(
        load_model(teacher_dir), store, config, tmp_path / "c", teacher=teacher, order_from=tmp_path
    )
    assert control["rounds_drawn"] == [{"round": 2, "read": [16, 16]}]
    assert not (tmp_path / "c" / "rounds" / "teacher-losses.npy").exists()


def test_a_stored_teacher_teaches_like_a_live_one_and_is_computed_once(
    teacher_dir, own_store, tmp_path, monkeypatch
):
    store = own_store
    live = dataclasses.replace(CONFIG, distillation="live", distillation_weight=0.9)
    stored = dataclasses.replace(live, distillation="stored", stored_top_k=256)
    teacher = load_model(teacher_dir)
    with torch.no_grad():
        teacher.lm_head.weight *= 4  # so that it has something to say
    asked = []
    fill = teacher_table._fill
    monkeypatch.setattr(teacher_table, "_fill", lambda *a: (asked.append(len(a[3])), fill(*a)))
    train(load_model(teacher_dir), store, live, tmp_path / "live", teacher=teacher)
    train(load_model(teacher_dir), store, stored, tmp_path / "stored", teacher=teacher)
    assert losses(tmp_path / "stored") == pytest.approx(losses(tmp_path / "live"), rel=0.02)
    train(load_model(teacher_dir), store, stored, tmp_path / "again", teacher=teacher)
    assert losses(tmp_path / "again") == losses(tmp_path / "stored")
    whole = store.num_sequences(CONFIG.sequence_length)
    train(
        load_model(teacher_dir),
        store,
        dataclasses.replace(stored, seed=1),
        tmp_path / "seed",
        teacher=teacher,
    )
    first, again, other_seed = asked
    # another seed asks only for what is missing
    assert 0 < first < whole and again == 0 and other_seed < first
    train(
        load_model(teacher_dir),
        store,
        dataclasses.replace(stored, stored_top_k=8),
        tmp_path / "k",
        teacher=teacher,
    )
    assert asked[-1] == first  # another k is another table
    assert len(list(store.path.glob("teacher-*"))) == 2


def test_rows_of_a_killed_run_are_not_computed_again(teacher_dir, own_store, tmp_path, monkeypatch):
    store = own_store
    config = dataclasses.replace(CONFIG, distillation="stored", stored_top_k=16)
    asked = []

    head = Student.hidden

    def hidden(self, ids, positions=None):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(ids))
        return head(self, ids, positions)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Student, "hidden", hidden)
        train(load_model(teacher_dir), store, config, tmp_path, teacher=load_model(teacher_dir))
    done = np.load(next(store.path.glob("teacher-*/done.npy")))
    assert done.sum() == sum(asked)
    train(load_model(teacher_dir), store, config, tmp_path, teacher=load_model(teacher_dir))
    assert len(losses(tmp_path)) == CONFIG.steps


@pytest.mark.parametrize("problem", ["short", "other tokenizer"])
def test_held_out_text_that_cannot_be_scored_is_refused_before_training(
    teacher_dir, store, tmp_path, problem
):
    held_out = pack(
        texts(1 if problem == "short" else 30), byte_level_tokenizer(), tmp_path / "held-out"
    )
    config = dataclasses.replace(
        CONFIG, sequence_length=CONFIG.sequence_length if problem != "short" else 1000
    )
    if problem == "short":
        with pytest.raises(InputError, match="less than one sequence of 1000"):
            check_valid_store(held_out, store, config)
    else:
        other = dataclasses.replace(held_out, tokenizer_hash="another")
        with pytest.raises(InputError, match="another tokenizer"):
            train(load_model(teacher_dir), store, config, tmp_path / "run", valid_store=other)
        assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_full_disk_costs_lines_of_metrics_but_not_the_run(tmp_path, capsys):
    log = metrics.Metrics(tmp_path, 0)

    class Full:
        def write(self, text):
            raise OSError(28, "No space left on device")

    log._file = Full()
    log.log(0, loss=1.0)
    log.log(1, loss=1.0)
    assert capsys.readouterr().err.count("could not be written") == 1


def test_gradient_checkpointing_gives_the_same_losses(teacher_dir, store, tmp_path):
    train(load_model(teacher_dir), store, CONFIG, tmp_path / "plain")
    again = dataclasses.replace(CONFIG, gradient_checkpointing=True)
    train(load_model(teacher_dir), store, again, tmp_path / "again")
    assert losses(tmp_path / "again") == pytest.approx(losses(tmp_path / "plain"), abs=1e-6)


def test_muon_moves_the_matrices_of_the_layers_and_learns(teacher_dir, store, tmp_path):
    model = load_model(teacher_dir)
    adamw, muon = OPTIMIZERS["muon"](
        TrainConfig(optimizer="muon"), MasterWeights(model, torch.float32)
    )
    moved = sum(len(group["params"]) for group in muon.param_groups)
    assert moved == 4 * 7  # q, k, v, o, gate, up, down of four layers
    assert (
        sum(len(group["params"]) for group in adamw.param_groups)
        == len(list(model.parameters())) - moved
    )
    config = dataclasses.replace(CONFIG, optimizer="muon", checkpoint_every=5)
    train(model, store, config, tmp_path / "run")
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0] - 0.1


@pytest.mark.parametrize("name", TRACKERS)
def test_trackers_get_every_line(name, teacher_dir, store, tmp_path, monkeypatch):
    lines = []
    # torch's writer takes the settings as no argument and every value by itself
    writer = SimpleNamespace(
        add_scalar=lambda key, value, step: key == "loss" and lines.append((step, value)),
        close=lambda: lines.append("finished"),
    )
    fake = SimpleNamespace(
        SummaryWriter=lambda folder: lines.append(0) or writer,
        init=lambda **settings: lines.append(settings["config"]["seed"]),
        log=lambda values, step: lines.append((step, values["loss"])),
        finish=lambda: lines.append("finished"),
    )
    monkeypatch.setitem(sys.modules, TRACKERS[name][0], fake)
    train(
        load_model(teacher_dir),
        store,
        dataclasses.replace(CONFIG, steps=2, trackers=(name,)),
        tmp_path,
    )
    assert lines == [0, (0, losses(tmp_path)[0]), (1, losses(tmp_path)[1]), "finished"]


def test_a_tracker_that_is_not_installed_is_an_input_error(
    teacher_dir, store, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(InputError, match="trackio is not installed"):
        train(
            load_model(teacher_dir),
            store,
            dataclasses.replace(CONFIG, trackers=("trackio",)),
            tmp_path,
        )
