"""What must hold on a GPU. Elsewhere each test skips and says why; TINYLM_REHEARSE=1 runs them on
the CPU, to see that they work."""

import copy
import dataclasses
import math
import os

import numpy as np
import pytest
import torch

from tinylm.corpus.document import Document
from tinylm.corpus.store import open_store
from tinylm.evaluate.bits_per_byte import bits_per_byte
from tinylm.inherit.bill import Job
from tinylm.inherit.run import inherit_folder
from tinylm.inherit.score import score
from tinylm.machine import choose_device
from tinylm.models.generate import generate
from tinylm.models.shape import Shape
from tinylm.models.teacher import load_config, load_model, load_tokenizer
from tinylm.train.config import TrainConfig
from tinylm.train.loop import train

REHEARSED = os.environ.get("TINYLM_REHEARSE") == "1"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() and not REHEARSED, reason="PyTorch sees no CUDA device"
    ),
]
DEVICE = choose_device()
CONFIG = TrainConfig(sequence_length=64, batch_size=8, steps=12, checkpoint_every=6, base_lr=3e-3)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of a repeating pattern, which a small model learns in a few steps."""
    from tinylm.corpus.store import write_header

    folder = tmp_path_factory.mktemp("store")
    tokens = (np.arange(40_000) * 7 % 300 + 5).astype(np.uint16)
    tokens.tofile(folder / "tokens.bin")
    np.save(folder / "documents.npy", np.array([0, len(tokens)]))
    header = {"vocab_size": 500, "num_tokens": len(tokens), "num_documents": 1, "dtype": "<u2"}
    write_header(folder, **header, separator=0, tokenizer_hash="", text_bytes=4 * len(tokens))
    return open_store(folder)


def fresh(teacher_dir):
    return load_model(teacher_dir, torch.float32)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"compile": False},
        {"bf16": False},
        {"optimizer": "muon"},
        {"gradient_checkpointing": True},
        {"document_mask": True},
        {"rounds": 2},
        {"loss_chunk": 100},
    ],
    ids=str,
)
def test_training_learns(changes, teacher_dir, store, tmp_path):
    config = dataclasses.replace(CONFIG, **changes)
    result = train(fresh(teacher_dir), store, config, tmp_path, valid_store=store)
    assert result["valid_loss"] < math.log(500) - 0.25


def test_losses_equal_the_cpus(teacher_dir, store, tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, bf16=False, compile=False)
    ours = train(fresh(teacher_dir), store, config, tmp_path / "gpu", valid_store=store)
    monkeypatch.setattr("tinylm.train.run.choose_device", lambda: torch.device("cpu"))
    theirs = train(fresh(teacher_dir), store, config, tmp_path / "cpu", valid_store=store)
    assert ours["valid_loss"] == pytest.approx(theirs["valid_loss"], rel=2e-3)


def test_a_stopped_run_goes_on_close_to_where_it_was(teacher_dir, store, tmp_path, monkeypatch):
    """The backward pass of fused attention adds in no fixed order, so not to the bit."""
    whole = train(fresh(teacher_dir), store, CONFIG, tmp_path / "whole", valid_store=store)

    class Stop(Exception):
        pass

    from tinylm.train import loop

    def killed(run, *step):
        if run.step == 8:
            raise Stop
        original(run, *step)

    original = loop.train_step
    monkeypatch.setattr(loop, "train_step", killed)
    with pytest.raises(Stop):
        train(fresh(teacher_dir), store, CONFIG, tmp_path / "parts", valid_store=store)
    monkeypatch.setattr(loop, "train_step", original)
    parts = train(fresh(teacher_dir), store, CONFIG, tmp_path / "parts", valid_store=store)
    assert parts["valid_loss"] == pytest.approx(whole["valid_loss"], rel=2e-2)


@pytest.mark.parametrize("criterion", ["taylor", "activation"])
def test_scores_equal_the_cpus(criterion, teacher_dir):
    model = fresh(teacher_dir)
    chunks = torch.randint(0, 400, (8, 64), generator=torch.Generator().manual_seed(0))
    cpu = score(copy.deepcopy(model), chunks, criterion, "first-last")
    gpu = score(model.to(DEVICE), chunks.to(DEVICE), criterion, "first-last")
    for ours, theirs in ((gpu.ffn, cpu.ffn), (gpu.q_heads, cpu.q_heads), (gpu.hidden, cpu.hidden)):
        assert ours.device.type == "cpu"
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=1e-4 * float(theirs.max()))


@pytest.mark.parametrize("stream", ["never", "always"])
def test_an_inheritance_equals_the_cpus(stream, teacher_dir):
    ids = torch.randint(0, 400, (16, 64), generator=torch.Generator().manual_seed(0))
    teacher = Shape.from_config(load_config(teacher_dir))
    target = dataclasses.replace(
        teacher, num_layers=teacher.num_layers - 1, intermediate_size=teacher.intermediate_size // 2
    )
    rows = {}
    for device in (torch.device("cpu"), DEVICE):
        repair = ("norms", "refit")
        job = Job(
            teacher, target, torch.float32, device, *ids.shape, "taylor", "similarity", repair
        )
        rows[device] = inherit_folder(teacher_dir, job, ids, stream).model
    cpu, gpu = (rows[device](ids).logits for device in (torch.device("cpu"), DEVICE))
    torch.testing.assert_close(gpu, cpu, rtol=0, atol=2e-2 * float(cpu.detach().abs().max()))


def test_bits_per_byte_equal_the_cpus(teacher_dir):
    from builders import texts

    documents = [Document(text, "made up") for text in texts(12)]
    model, tokenizer = fresh(teacher_dir), load_tokenizer(teacher_dir)
    cpu = bits_per_byte(model, tokenizer, documents)
    gpu = bits_per_byte(fresh(teacher_dir).to(DEVICE), tokenizer, documents)
    assert gpu["bits_per_byte"] == pytest.approx(cpu["bits_per_byte"], rel=5e-3)


def test_greedy_text_equals_the_cpus(teacher_dir):
    model, tokenizer = fresh(teacher_dir), load_tokenizer(teacher_dir)
    cpu = "".join(generate(model, tokenizer, "the river", 24))
    assert "".join(generate(model.to(DEVICE), tokenizer, "the river", 24)) == cpu
