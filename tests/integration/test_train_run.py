"""Whole training runs on a tiny model: it learns, is repeatable, survives being killed, and refuses
wrong input."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import byte_level_tokenizer, family_model, texts
from safetensors.torch import load_file

from tinylm.corpus.pack import pack
from tinylm.corpus.store import open_store
from tinylm.errors import InputError, WorkError
from tinylm.models.teacher import load_model, load_tokenizer
from tinylm.train import loop, metrics, watch
from tinylm.train import resume as resume_module
from tinylm.train.batches import make_plan
from tinylm.train.config import TrainConfig
from tinylm.train.evaluation import evaluate
from tinylm.train.loop import train
from tinylm.train.resume import resume, save_checkpoint
from tinylm.train.run import Run
from tinylm.train.schedule import learning_rate
from tinylm.train.step import train_step

GOLDEN = [
    6.2014,
    6.1966,
    6.1008,
    6.0242,
    6.0572,
    5.8832,
    5.82,
    5.7456,
    5.7172,
    5.6501,
    5.6112,
    5.5443,
    5.4955,
    5.4989,
    5.4883,
    5.4798,
    5.4319,
    5.4361,
    5.3936,
    5.4255,
]
CONFIG = TrainConfig(
    strategy="exp-loss",
    sequence_length=32,
    batch_size=4,
    steps=20,
    rounds=2,
    compile=False,
    checkpoint_every=4,
    base_batch_tokens=128,
    base_lr=1e-3,
    warmup_steps=0,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return pack(texts(150), byte_level_tokenizer(), tmp_path_factory.mktemp("data") / "store")


@pytest.fixture(scope="module")
def undisturbed(teacher_dir, store, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(load_model(teacher_dir), store, CONFIG, out, tokenizer=load_tokenizer(teacher_dir))
    return out


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def assert_bitwise_equal(out: Path, other: Path) -> None:
    ours, theirs = weights(out), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    lines = [
        [[line.get(k) for k in ("step", "loss", "lr", "round", "held_out_loss")] for line in read]
        for read in (metrics.read(out), metrics.read(other))
    ]
    assert lines[0] == lines[1]


def advance(run: Run, steps: int) -> None:
    """What the loop does, without its end."""
    for _ in range(steps):
        if watch.is_due(run):
            watch.look(run)
        train_step(run, *run.plan.locate(run.step))


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in metrics.read(out) if "loss" in line]


def test_golden_losses(teacher_dir, store, tmp_path):
    """Twenty steps in float32 from fixed weights and data; a change of any part of the engine shows
    here."""
    train(
        load_model(teacher_dir), store, dataclasses.replace(CONFIG, bf16=False, rounds=1), tmp_path
    )
    assert losses(tmp_path) == pytest.approx(GOLDEN, abs=2e-3)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("model_type", ["gemma2", "gemma3_text", "granite", "phi3", "olmo2"])
def test_the_first_loss_is_the_familys_own(model_type, bf16, store, tmp_path):
    """Capped, scaled and windowed: what the engine trains on is what the model says of itself."""
    more = (
        {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
        if model_type == "gemma2"
        else {}
    )
    model = family_model(model_type, vocab_size=store.vocab_size, sliding_window=16, **more)
    plan = make_plan(config := dataclasses.replace(CONFIG, bf16=bf16, rounds=1, steps=2), store)
    window = torch.from_numpy(store.windows(plan.pool.reshape(-1)[plan.batch(0, 0)], 32))
    with torch.no_grad():
        logits = model(window[:, :-1]).logits
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), window[:, 1:].flatten()
    ).item()
    train(model, store, config, tmp_path)
    assert losses(tmp_path)[0] == pytest.approx(expected, abs=0.05 if bf16 else 1e-4)


def test_equals_a_plain_loop_with_the_library_loss(teacher_dir, store, tmp_path):
    """Eight steps against transformers' own loss, PyTorch's AdamW and clipping, on the same batches
    and rates."""
    config = dataclasses.replace(CONFIG, bf16=False, rounds=1, steps=8)
    train(load_model(teacher_dir), store, config, tmp_path)
    plan, model = make_plan(config, store), load_model(teacher_dir)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    expected = []
    for step in range(8):
        window = torch.from_numpy(store.windows(plan.pool.reshape(-1)[plan.batch(0, step)], 32))
        logits = model(window[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, plan, step)
        optimizer.step()
        optimizer.zero_grad()
        expected.append(loss.item())
    assert losses(tmp_path) == pytest.approx(expected, abs=1e-4)


def test_the_same_run_twice_gives_the_same_bits(teacher_dir, store, undisturbed, tmp_path):
    result = train(load_model(teacher_dir), store, CONFIG, tmp_path / "again")
    assert_bitwise_equal(tmp_path / "again", undisturbed)
    assert result["steps"] == 20 and result["tokens_trained"] == 20 * 128


def test_it_learns_and_writes_a_plain_model(undisturbed, teacher_dir, store):
    first, last = np.mean(losses(undisturbed)[:3]), np.mean(losses(undisturbed)[-3:])
    assert last < first - 0.1
    model = load_model(undisturbed / "model")
    assert model.dtype == torch.float32 and model.config._attn_implementation == "sdpa"
    before = load_model(teacher_dir)
    assert not torch.equal(model.lm_head.weight, before.lm_head.weight)
    assert (undisturbed / "model" / "tokenizer.json").exists()
    choice = np.load(undisturbed / "rounds" / "round-1.npz")
    assert np.isfinite(choice["losses"]).all() and len(choice["chosen"]) == round(
        0.5 * len(choice["sequences"])
    )


SCRIPT = """
import sys
from tinylm.corpus.store import open_store
from tinylm.models.teacher import load_model
from tinylm.train.batches import make_plan
from tinylm.train.config import TrainConfig
from tinylm.train.loop import train
model, store, out, config = sys.argv[1:]
train(load_model(model), open_store(store), TrainConfig(**eval(config)), out)
"""


def start(teacher_dir, store, out: Path, config: TrainConfig, before: str = "") -> subprocess.Popen:
    arguments = [
        sys.executable,
        "-c",
        before + SCRIPT,
        teacher_dir,
        store.path,
        out,
        repr(config.to_dict()),
    ]
    return subprocess.Popen(
        list(map(str, arguments)), env=os.environ, stderr=subprocess.PIPE, text=True
    )


def wait_for_step(process: subprocess.Popen, out: Path, step: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if (out / metrics.FILE).exists() and any(
            line["step"] >= step for line in metrics.read(out)
        ):
            return
        time.sleep(0.005)
    raise AssertionError(
        f"step {step} was not reached: {process.stderr.read() if process.stderr else ''}"
    )


@pytest.mark.parametrize("step", [10, 15])  # in round 0, in round 1
def test_sigkill_then_the_same_command_gives_the_same_bits(
    teacher_dir, store, undisturbed, tmp_path, step
):
    process = start(teacher_dir, store, tmp_path / "run", CONFIG)
    wait_for_step(process, tmp_path / "run", step)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run" / "model").exists()
    train(load_model(teacher_dir), store, CONFIG, tmp_path / "run")
    assert_bitwise_equal(tmp_path / "run", undisturbed)


SLOW_WRITES = """
import time
import torch.distributed.checkpoint as dcp
write = dcp.HuggingFaceStorageWriter.write_data
def slow(self, plan, planner):
    done = write(self, plan, planner)
    if "00000008" in str(self.path):
        open(str(self.path) + "/../../writing", "w").close()
        time.sleep(60)
    return done
dcp.HuggingFaceStorageWriter.write_data = slow
"""


def test_sigkill_inside_a_checkpoint_gives_the_same_bits(teacher_dir, store, undisturbed, tmp_path):
    """Its tensors are on disk, its name is not: the run goes on from the checkpoint before."""
    process = start(teacher_dir, store, tmp_path / "run", CONFIG, before=SLOW_WRITES)
    end = time.monotonic() + 60
    while not (tmp_path / "run" / "writing").exists() and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == [".step-00000008.partial", "step-00000004"]
    train(load_model(teacher_dir), store, CONFIG, tmp_path / "run")
    lines = metrics.read(tmp_path / "run")
    assert [line["step"] for line in lines if "loss" in line] == list(range(20))
    assert_bitwise_equal(tmp_path / "run", undisturbed)


def test_resume_of_compiled_layers_gives_the_same_bits(teacher_dir, store, tmp_path):
    config = dataclasses.replace(CONFIG, compile=True, steps=8, rounds=1)
    train(load_model(teacher_dir), store, config, tmp_path / "undisturbed")
    run = Run(load_model(teacher_dir), store, config, tmp_path / "run", None)
    resume(run)
    advance(run, 4)
    save_checkpoint(run)
    run.checkpoints.wait()
    train(load_model(teacher_dir), store, config, tmp_path / "run")
    assert_bitwise_equal(tmp_path / "run", tmp_path / "undisturbed")


def test_sigterm_writes_a_checkpoint_and_exits_with_143(teacher_dir, store, tmp_path):
    config = dataclasses.replace(CONFIG, steps=100_000, rounds=1, checkpoint_every=0)
    process = start(teacher_dir, store, tmp_path, config)
    wait_for_step(process, tmp_path, 5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert "stopped by SIGTERM" in process.stderr.read()
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    assert int(checkpoint.name.removeprefix("step-")) == metrics.read(tmp_path)[-1]["step"] + 1


def test_a_damaged_checkpoint_costs_steps_but_not_the_result(
    teacher_dir, store, undisturbed, tmp_path
):
    run = Run(load_model(teacher_dir), store, CONFIG, tmp_path, None)
    resume(run)
    for _ in range(2):
        advance(run, 3)
        save_checkpoint(run)
    run.checkpoints.wait()
    (newest,) = (tmp_path / "checkpoints" / "step-00000006").glob("*.safetensors")
    newest.write_bytes(newest.read_bytes()[:-100])
    train(load_model(teacher_dir), store, CONFIG, tmp_path)
    assert_bitwise_equal(tmp_path, undisturbed)


def test_micro_batches_give_the_same_losses_to_float_tolerance(teacher_dir, store, tmp_path):
    exact = dataclasses.replace(CONFIG, bf16=False, rounds=1, steps=6)
    train(load_model(teacher_dir), store, exact, tmp_path / "whole")
    train(
        load_model(teacher_dir),
        store,
        dataclasses.replace(exact, micro_batch_size=2),
        tmp_path / "pieces",
    )
    assert losses(tmp_path / "pieces") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)


def test_documents_do_not_see_each_other_with_the_document_mask(teacher_dir, store, tmp_path):
    """A document gets the same losses packed behind another one as alone at the front of a
    window."""
    run = Run(
        load_model(teacher_dir),
        store,
        dataclasses.replace(CONFIG, bf16=False, document_mask=True),
        tmp_path,
        None,
    )
    start = int(store.documents[1])
    ids = torch.from_numpy(store.windows([0], 200)[:, :-1]).to(run.device)
    positions = torch.from_numpy(store.positions([0], 200)).to(run.device)
    packed = run.student.hidden(ids, positions)[start:]
    alone = run.student.hidden(ids[:, start:], positions[:, start:])
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(run.student.hidden(ids)[start:], alone, atol=1e-2)


def test_a_model_taught_by_itself_has_no_divergence(teacher_dir, store, tmp_path):
    config = dataclasses.replace(
        CONFIG, bf16=False, distillation="live", distillation_weight=1.0, steps=2, rounds=1
    )
    train(load_model(teacher_dir), store, config, tmp_path, teacher=load_model(teacher_dir))
    assert losses(tmp_path)[0] == pytest.approx(0.0, abs=1e-5)


def test_distillation_pulls_the_student_to_its_teacher(teacher_dir, undisturbed, store, tmp_path):
    config = dataclasses.replace(CONFIG, distillation="live", distillation_weight=1.0, rounds=1)
    train(
        load_model(teacher_dir), store, config, tmp_path, teacher=load_model(undisturbed / "model")
    )
    assert losses(tmp_path)[-1] < 0.5 * losses(tmp_path)[0]


def test_validation_gives_loss_and_bits_per_byte(teacher_dir, store, tmp_path):
    result = train(
        load_model(teacher_dir),
        store,
        dataclasses.replace(CONFIG, evaluate_every=10),
        tmp_path,
        valid_store=store,
    )
    lines = [line for line in metrics.read(tmp_path) if "valid_loss" in line]
    assert [line["step"] for line in lines] == [10, 20]
    assert lines[1]["valid_loss"] < lines[0]["valid_loss"]
    bits = result["valid_loss"] / np.log(2) * store.num_tokens / store.text_bytes
    assert result["valid_bits_per_byte"] == pytest.approx(bits)


def test_the_model_of_any_step_is_a_plain_directory_with_the_weights_of_its_checkpoint(
    teacher_dir, store, tmp_path
):
    config = dataclasses.replace(CONFIG, export_every=8, checkpoint_every=8)
    train(load_model(teacher_dir), store, config, tmp_path, tokenizer=byte_level_tokenizer())
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == [
        "step-00000008",
        "step-00000016",
    ]
    exported = dict(load_model(tmp_path / "models" / "step-00000008").named_parameters())
    (file,) = (tmp_path / "checkpoints" / "step-00000008").glob("*.safetensors")
    saved = {key: value for key, value in load_file(file).items() if key.startswith("weight.")}
    assert saved.keys() == {f"weight.{name}" for name in exported}
    assert all(
        torch.equal(value, exported[key.removeprefix("weight.")]) for key, value in saved.items()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_written_config_names_the_format_of_the_weights(teacher_dir, store, tmp_path, dtype):
    model = load_model(teacher_dir, dtype)
    # as in mixtures of experts: saved, not trained
    model.register_buffer("correction", torch.tensor([3.0, 4.0]))
    # frozen: written as it came, not as bfloat16 has it
    model.model.norm.weight.requires_grad_(False).fill_(1.001)
    train(
        model,
        store,
        dataclasses.replace(CONFIG, bf16=dtype == torch.float32, steps=2, rounds=1),
        tmp_path,
    )
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == str(
        dtype
    ).removeprefix("torch.")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert weights["model.embed_tokens.weight"].dtype == dtype and weights[
        "correction"
    ].tolist() == [3.0, 4.0]
    assert torch.equal(
        weights["model.norm.weight"],
        torch.full((len(weights["model.norm.weight"]),), 1.001, dtype=dtype),
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_by_a_signal_then_the_same_command_gives_the_same_bits(
    teacher_dir, store, undisturbed, tmp_path, monkeypatch, number, code
):
    step = loop.train_step

    def signalled(run, round_number, inside):
        step(run, round_number, inside)
        if run.step == 13:
            signal.raise_signal(number)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(loop, "train_step", signalled)
        train(load_model(teacher_dir), store, CONFIG, tmp_path)
    assert stopped.value.code == code and (tmp_path / "checkpoints" / "step-00000013").exists()
    train(load_model(teacher_dir), store, CONFIG, tmp_path)
    assert_bitwise_equal(tmp_path, undisturbed)


def test_a_run_goes_on_with_smaller_micro_batches(teacher_dir, store, undisturbed, tmp_path):
    """As on a machine with less memory: the same losses up to rounding."""
    run = Run(load_model(teacher_dir), store, CONFIG, tmp_path, None)
    resume(run)
    for _ in range(5):
        train_step(run, *run.plan.locate(run.step))
    save_checkpoint(run)
    run.checkpoints.wait()
    fewer = dataclasses.replace(
        CONFIG, micro_batch_size=1, loss_chunk=16, gradient_checkpointing=True
    )
    train(load_model(teacher_dir), store, fewer, tmp_path)
    assert losses(tmp_path) == pytest.approx(losses(undisturbed), rel=2e-3)


def test_a_stop_right_after_validation_loses_and_repeats_no_line(teacher_dir, store, tmp_path):
    config = dataclasses.replace(CONFIG, evaluate_every=4)
    run = Run(load_model(teacher_dir), store, config, tmp_path, None)
    resume(run)
    for _ in range(4):
        train_step(run, *run.plan.locate(run.step))
    evaluate(run, store)
    save_checkpoint(run)
    run.checkpoints.wait()
    train(load_model(teacher_dir), store, config, tmp_path, valid_store=store)
    assert [line["step"] for line in metrics.read(tmp_path) if "valid_loss" in line] == [
        4,
        8,
        12,
        16,
        20,
    ]
    assert [line["step"] for line in metrics.read(tmp_path) if "loss" in line] == list(range(20))


def test_steps_that_are_not_numbers_are_skipped_and_stop_the_run_after_a_limit(
    teacher_dir, store, tmp_path
):
    model = load_model(teacher_dir)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    config = dataclasses.replace(CONFIG, max_skips=2)
    with pytest.raises(InputError, match="a loss of nan on held-out text before the first step"):
        train(model, store, config, tmp_path)
    config = dataclasses.replace(config, never_worse=False)
    with pytest.raises(WorkError, match="3 steps were skipped, the last for a loss of nan"):
        train(model, store, config, tmp_path)
    assert not (tmp_path / "model").exists()


class TestWrongInput:
    @pytest.mark.parametrize(("more", "text"), [(1, " <more0>"), (17, " <more16>")])
    def test_a_store_of_a_larger_vocabulary(self, teacher_dir, tmp_path, more, text):
        tokenizer = byte_level_tokenizer()
        tokenizer.add_tokens([f"<more{number}>" for number in range(more)])
        larger = pack([one + text for one in texts(20)], tokenizer, tmp_path / "store")
        with pytest.raises(InputError, match="vocabulary of"):
            train(load_model(teacher_dir), larger, CONFIG, tmp_path / "run")

    def test_a_store_made_by_another_tokenizer(self, teacher_dir, tmp_path):
        other = pack(texts(20), byte_level_tokenizer(400), tmp_path / "store")
        with pytest.raises(InputError, match="another tokenizer"):
            train(
                load_model(teacher_dir),
                other,
                CONFIG,
                tmp_path / "run",
                tokenizer=load_tokenizer(teacher_dir),
            )

    def test_a_damaged_store(self, teacher_dir, tmp_path):
        damaged = pack(texts(20), byte_level_tokenizer(), tmp_path / "store")
        file = tmp_path / "store" / "tokens.bin"
        file.write_bytes(file.read_bytes()[:-1] + b"\x01")
        with pytest.raises(InputError, match="checksum differs"):
            train(load_model(teacher_dir), damaged, CONFIG, tmp_path / "run")

    def test_a_checkpoint_of_other_settings(self, teacher_dir, store, undisturbed):
        with pytest.raises(InputError, match="its settings differs"):
            train(load_model(teacher_dir), store, dataclasses.replace(CONFIG, seed=1), undisturbed)

    def test_a_checkpoint_of_other_weights(self, teacher_dir, store, tmp_path):
        """Of two models of one shape the second must not go on where the first stopped."""
        short = dataclasses.replace(CONFIG, checkpoint_every=2)
        train(load_model(teacher_dir), store, short, tmp_path)
        other = load_model(teacher_dir)
        with torch.no_grad():
            other.model.norm.weight[0] += 1
        with pytest.raises(InputError, match="its first weights differs"):
            train(other, store, short, tmp_path)

    def test_a_checkpoint_of_an_older_tinylm_is_gone_on_from(
        self, teacher_dir, store, tmp_path, monkeypatch
    ):
        short = dataclasses.replace(CONFIG, checkpoint_every=2)
        identity = resume_module.identity
        known = ("settings", "data", "model shape")
        monkeypatch.setattr(
            resume_module, "identity", lambda run: {key: identity(run)[key] for key in known}
        )
        train(load_model(teacher_dir), store, short, tmp_path)
        monkeypatch.undo()
        assert train(load_model(teacher_dir), store, short, tmp_path)["steps"] > 0

    def test_distillation_without_a_teacher(self, teacher_dir, store, tmp_path):
        with pytest.raises(InputError, match="needs a teacher"):
            train(
                load_model(teacher_dir),
                store,
                dataclasses.replace(CONFIG, distillation="live"),
                tmp_path,
            )


def test_the_commands(teacher_dir, tmp_path, capsys):
    from builders import corpus_file

    from tinylm.artifact import alone_in
    from tinylm.cli import main

    corpus = corpus_file(tmp_path / "corpus.jsonl", 60)
    data, out = tmp_path / "data", tmp_path / "run"
    main(
        [
            "corpus",
            "pack",
            "--tokenizer",
            str(teacher_dir),
            "--corpus",
            str(corpus),
            "--out",
            str(data),
        ]
    )
    assert "60 documents" in capsys.readouterr().out
    command = [
        "train",
        "--model",
        str(teacher_dir),
        "--data",
        str(data),
        "--out",
        str(out),
        "--init",
        "random",
    ]
    main(
        [
            *command,
            "--steps",
            "3",
            "--sequence-length",
            "32",
            "--no-compile",
            "--rounds",
            "2",
            "--valid",
            str(data),
        ]
    )
    assert json.loads((out / "result.json").read_text())["steps"] == 3
    assert load_model(out / "model").config.vocab_size == open_store(data).vocab_size
    with alone_in(out), pytest.raises(SystemExit):
        main([*command, "--steps", "3", "--sequence-length", "32"])
    assert "another tinylm is working in" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main([*command, "--rounds", "0"])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("tinylm: train.rounds = 0")


@pytest.mark.parametrize("block", ["plain", "pangu-pi"])
def test_a_plan_is_trained_from_random_weights(teacher_dir, tmp_path, capsys, block):
    from builders import corpus_file

    from tinylm.cli import main

    corpus, data = corpus_file(tmp_path / "corpus.jsonl", 60), tmp_path / "data"
    main(
        [
            "corpus",
            "pack",
            "--tokenizer",
            str(teacher_dir),
            "--corpus",
            str(corpus),
            "--out",
            str(data),
        ]
    )
    rows = open_store(data).vocab_size
    plan = tmp_path / "plan"
    main(f"plan --budget 1e6 --vocab-size {rows} --limit 1 --block {block} --out {plan}".split())
    planned = json.loads((plan / "plan.json").read_text())["candidates"][0]
    command = (
        f"train --model {teacher_dir} --data {data} --steps 2 --sequence-length 32 --no-compile"
        " --shape"
    )
    main(
        [
            *command.split(),
            str(plan / "SHAPE.toml"),
            "--init",
            "random",
            "--out",
            str(tmp_path / "run"),
        ]
    )
    trained = load_model(tmp_path / "run" / "model")
    assert sum(parameter.numel() for parameter in trained.parameters()) == planned["parameters"]
    with pytest.raises(SystemExit) as end:
        main([*command.split(), str(plan / "SHAPE.toml"), "--out", str(tmp_path / "other")])
    assert end.value.code == 2 and "add --init random" in capsys.readouterr().err
