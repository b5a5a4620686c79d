"""Never worse: what a run publishes is the best state by held-out loss, whatever the rate."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.builders import byte_level_tokenizer, texts

from tinylm.corpus.pack import pack
from tinylm.models.teacher import load_model
from tinylm.train import metrics, watch
from tinylm.train.config import TrainConfig
from tinylm.train.learning_rate import FILE
from tinylm.train.loop import train

CONFIG = TrainConfig(
    sequence_length=32,
    batch_size=4,
    steps=20,
    base_lr=3e-3,
    base_batch_tokens=128,
    compile=False,
    bf16=False,
    checkpoint_every=3,
)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("data"), byte_level_tokenizer()
    return pack(texts(150), tokenizer, folder / "train"), pack(
        texts(40, seed=9), tokenizer, folder / "valid"
    )


def run(teacher_dir, stores, out, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    return train(load_model(teacher_dir), stores[0], config, out, valid_store=stores[1])


def weights(folder):
    return load_file(folder / "model.safetensors")


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.fixture
def scripted(monkeypatch):
    """Held-out losses by step instead of measured ones."""

    def script(losses):
        monkeypatch.setattr(
            watch, "measure", lambda run: np.array([0.99, 1.01]) * losses.get(run.step, 5.0)
        )

    return script


def test_a_run_that_learns_publishes_its_last_state_and_says_what_was_gained(
    teacher_dir, stores, tmp_path
):
    result = run(teacher_dir, stores, tmp_path)
    looks = [line for line in metrics.read(tmp_path) if "held_out_loss" in line]
    assert [line["step"] for line in looks] == list(range(0, 21, 2))
    assert result["published_step"] == 20 and result["returns"] == 0
    assert result["held_out_loss_before"] == looks[0]["held_out_loss"]
    assert result["held_out_loss"] == looks[-1]["held_out_loss"] < looks[0]["held_out_loss"] - 0.1


def test_at_a_mad_rate_the_run_goes_back_and_ends_no_worse(teacher_dir, stores, tmp_path, capsys):
    result = run(teacher_dir, stores, tmp_path, base_lr=100.0, warmup_steps=0, steps=60)
    assert result["returns"] >= 1
    assert result["held_out_loss"] <= result["held_out_loss_before"]
    told = capsys.readouterr().err
    assert told.count("back to the weights of step") == result["returns"]
    # the published weights are the best ones, not the last
    assert result["valid_loss"] <= result["held_out_loss_before"] + 1e-6


def test_a_training_that_gains_nothing_publishes_the_first_weights(
    teacher_dir, stores, tmp_path, scripted, capsys
):
    scripted({0: 4.99999})  # 5 later
    result = run(teacher_dir, stores, tmp_path)
    assert result["published_step"] == 0
    assert equal(weights(tmp_path / "model"), weights(teacher_dir))
    assert "gained nothing" in capsys.readouterr().err


def test_the_best_state_in_the_middle_is_published(teacher_dir, stores, tmp_path, scripted, capsys):
    scripted({0: 6.0, 8: 4.0})
    result = run(teacher_dir, stores, tmp_path, export_every=1)
    assert result["published_step"] == 8
    middle = weights(tmp_path / "models" / "step-00000008")
    assert equal(weights(tmp_path / "model"), middle)
    assert "after step 8: it is kept" in capsys.readouterr().err


def test_what_is_tolerated_shrinks_as_the_run_goes_on(teacher_dir, stores, tmp_path, scripted):
    scripted({0: 5.0, 2: 6.7, 4: 6.5, 10: 5.9, 12: 5.9})  # 1.8, 1.6, 1.0 and 0.8 are allowed
    assert run(teacher_dir, stores, tmp_path)["returns"] == 1


def test_a_run_that_went_back_resumes_to_the_same_bits(teacher_dir, stores, tmp_path, scripted):
    scripted({0: 6.0, 4: 5.0, 6: 9.0, 10: 4.0, 12: 4.5})
    run(teacher_dir, stores, tmp_path / "undisturbed")
    for stop_at in (5, 7, 13, 19):  # before and after the return, and after the best state
        out = tmp_path / str(stop_at)
        with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
            due = watch.is_due

            def stop(run, due=due, at=stop_at):
                if run.step == at:
                    run.checkpoints.wait()
                    raise KeyboardInterrupt
                return due(run)

            patch.setattr(watch, "is_due", stop)
            run(teacher_dir, stores, out)
        run(teacher_dir, stores, out)
        assert equal(weights(out / "model"), weights(tmp_path / "undisturbed" / "model"))
        same = [
            [
                {k: v for k, v in line.items() if k in ("step", "loss", "lr", "held_out_loss")}
                for line in metrics.read(folder)
            ]
            for folder in (out, tmp_path / "undisturbed")
        ]
        assert same[0] == same[1]


def test_garbage_in_the_text_costs_steps_and_not_the_model(teacher_dir, stores, tmp_path):
    tokenizer, random = byte_level_tokenizer(), np.random.default_rng(0)
    garbage = ["".join(map(chr, random.integers(33, 1200, 400))) for _ in range(8)]
    mixed = pack([*texts(300), *garbage], tokenizer, tmp_path / "mixed")
    result = run(teacher_dir, (mixed, stores[1]), tmp_path / "run", steps=60)
    assert result["held_out_loss"] < result["held_out_loss_before"] - 0.3


def test_too_many_skipped_steps_end_the_run_with_the_best_weights(
    teacher_dir, stores, tmp_path, capsys
):
    model = load_model(teacher_dir)
    broken = []

    def poison(gradient):  # from the sixth step on
        broken.append(1)
        return gradient * float("nan") if len(broken) > 6 else gradient

    model.model.norm.weight.register_hook(poison)
    config = dataclasses.replace(CONFIG, max_skips=5)
    result = train(model, stores[0], config, tmp_path, valid_store=stores[1])
    assert "6 steps were skipped, the last for a gradient norm of nan" in capsys.readouterr().err
    assert result["held_out_loss"] < result["held_out_loss_before"]
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "model").values())


def test_the_rate_is_measured_once_and_kept(teacher_dir, stores, tmp_path):
    result = run(teacher_dir, stores, tmp_path, base_lr="auto")
    kept = json.loads((tmp_path / FILE).read_text())
    assert result["base_lr"] == kept["base_lr"] and len(kept["trials"]) >= 3
    rates = [rate for rate, _ in kept["trials"]]
    assert min(rates) / 2 <= result["base_lr"] <= max(rates) * 2
    # trials leave no trace: the run is the one at that rate
    alone = run(teacher_dir, stores, tmp_path / "alone", base_lr=result["base_lr"])
    assert alone["held_out_loss"] == result["held_out_loss"]
    assert equal(weights(tmp_path / "alone" / "model"), weights(tmp_path / "model"))
    before = (tmp_path / FILE).stat().st_mtime_ns
    (tmp_path / FILE).touch()
    again = run(teacher_dir, stores, tmp_path, base_lr="auto")
    assert again["learning_rate_seconds"] == result["learning_rate_seconds"]
    assert (tmp_path / FILE).stat().st_mtime_ns != before


def test_without_text_to_judge_on_the_rate_is_a_plain_one_and_that_is_said(
    teacher_dir, stores, tmp_path, capsys
):
    config = dataclasses.replace(CONFIG, base_lr="auto", steps=0)  # all of the store
    result = train(load_model(teacher_dir), stores[0], config, tmp_path)
    assert result["base_lr"] == 1e-3
    assert "no held-out text to measure it on" in capsys.readouterr().err
