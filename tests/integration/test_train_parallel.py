"""Two gloo processes by torchrun against one: the same losses, and checkpoints that either can go
on from."""

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from builders import byte_level_tokenizer, texts

from tinylm.corpus.pack import pack
from tinylm.models.teacher import load_model
from tinylm.train import metrics
from tinylm.train.config import TrainConfig
from tinylm.train.loop import train

# A vocabulary of 501 rows and norms of 64 do not all divide by two: slices are uneven.
CONFIG = TrainConfig(
    sequence_length=32,
    batch_size=4,
    steps=8,
    rounds=2,
    bf16=False,
    compile=False,
    checkpoint_every=3,
    keep_checkpoints=9,
    base_batch_tokens=128,
    base_lr=1e-3,
    warmup_steps=0,
)
SCRIPT = """
import sys
from tinylm.corpus.store import open_store
from tinylm.models.teacher import load_model
from tinylm.train.config import TrainConfig
from tinylm.train.loop import train
model, store, out, config = sys.argv[1:]
config = TrainConfig(**eval(config))
teacher = load_model(model) if config.distillation != "none" else None
train(load_model(model), open_store(store), config, out, teacher)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return pack(texts(80), byte_level_tokenizer(), tmp_path_factory.mktemp("data") / "store")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    from builders import tiny_teacher

    return tiny_teacher(
        tmp_path_factory.mktemp("models") / "odd",
        vocab_size=500,
        hidden_size=64,
        intermediate_size=101,
    )


def processes(
    count: int, teacher: Path, store, out: Path, config: TrainConfig, tmp_path: Path
) -> None:
    script = tmp_path / "train_script.py"
    script.write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={count}",
        f"--master-port={port}",
    ]
    arguments = [script, teacher, store.path, out, repr(config.to_dict())]
    done = subprocess.run(
        [*launch, *map(str, arguments)],
        # gloo, also where one GPU is
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in metrics.read(out) if "loss" in line]


def test_two_processes_train_as_one_and_their_checkpoint_resumes_on_one(teacher, store, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    train(load_model(teacher), store, CONFIG, one)
    processes(2, teacher, store, two, CONFIG, tmp_path)
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert len(losses(two)) == 8  # one process writes, not both
    ours, theirs = (dict(load_model(out / "model").named_parameters()) for out in (one, two))
    for name, weight in ours.items():
        assert (weight - theirs[name]).abs().max() < 1e-3, name

    resumed = tmp_path / "resumed"  # as killed after step 3 of the two-process run
    (resumed / "checkpoints").mkdir(parents=True)
    os.rename(two / "checkpoints" / "step-00000003", resumed / "checkpoints" / "step-00000003")
    train(load_model(teacher), store, CONFIG, resumed)
    steps = [line["step"] for line in metrics.read(resumed) if "loss" in line]
    assert steps == [3, 4, 5, 6, 7]
    assert losses(resumed) == pytest.approx(losses(one)[3:], rel=1e-4)


def test_a_checkpoint_of_one_process_resumes_on_two(teacher, store, tmp_path):
    train(load_model(teacher), store, CONFIG, tmp_path / "one")
    (tmp_path / "two" / "checkpoints").mkdir(parents=True)
    name = Path("checkpoints") / "step-00000006"
    os.rename(tmp_path / "one" / name, tmp_path / "two" / name)
    processes(
        2, teacher, store, tmp_path / "two", dataclasses.replace(CONFIG, model_copies=1), tmp_path
    )
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one")[6:], rel=1e-4)


def test_whole_copies_of_the_model_train_as_one_process(teacher, store, tmp_path):
    """HSDP: two copies of two slices each, four processes."""
    config = dataclasses.replace(CONFIG, model_copies=2, checkpoint_every=3)
    train(load_model(teacher), store, CONFIG, tmp_path / "one")
    processes(4, teacher, store, tmp_path / "four", config, tmp_path)
    assert losses(tmp_path / "four") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    for out in ("four", "resumed"):
        (tmp_path / out / "checkpoints").mkdir(parents=True, exist_ok=True)
    name = Path("checkpoints") / "step-00000006"
    os.rename(tmp_path / "four" / name, tmp_path / "resumed" / name)
    train(
        load_model(teacher),
        store,
        dataclasses.replace(CONFIG, model_copies=2),
        tmp_path / "resumed",
    )
    assert losses(tmp_path / "resumed") == pytest.approx(losses(tmp_path / "one")[6:], rel=1e-4)


@pytest.mark.parametrize(("optimizer", "distillation"), [("muon", "live"), ("adamw", "stored")])
def test_optimisers_distillation_and_exports_do_not_depend_on_the_processes(
    teacher, store, tmp_path, optimizer, distillation
):
    changes = {
        "optimizer": optimizer,
        "distillation": distillation,
        "export_every": 4,
        "checkpoint_every": 0,
    }
    config = dataclasses.replace(CONFIG, **changes)
    train(load_model(teacher), store, config, tmp_path / "one", load_model(teacher))
    for table in store.path.glob("teacher-*"):
        shutil.rmtree(table)  # two processes make their own
    processes(2, teacher, store, tmp_path / "two", config, tmp_path)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    for name in ("models/step-00000004", "model"):
        ours, theirs = (
            dict(load_model(tmp_path / out / name).named_parameters()) for out in ("one", "two")
        )
        assert all((ours[key] - theirs[key]).abs().max() < 1e-3 for key in ours)
