"""Every choice that a training has, by the keys of its table, in a run of some steps."""

import dataclasses

import pytest
from builders import corpus_file

from tinylm.corpus.pack import pack
from tinylm.corpus.read import documents
from tinylm.models.teacher import load_model, load_tokenizer
from tinylm.train.config import TrainConfig
from tinylm.train.distillation import DISTILLATIONS, needs_teacher
from tinylm.train.loop import train
from tinylm.train.optimizers import OPTIMIZERS
from tinylm.train.rounds import GRANULARITIES, LOSS_SOURCES, STRATEGIES
from tinylm.train.schedule import SCHEDULES

CONFIG = TrainConfig(
    sequence_length=16,
    batch_size=2,
    steps=6,
    rounds=3,
    base_lr=1e-3,
    compile=False,
    checkpoint_every=0,
)
CHOICES = [
    (key, name)
    for key, table in {
        "strategy": STRATEGIES,
        "granularity": GRANULARITIES,
        "loss_source": LOSS_SOURCES,
        "round_schedule": SCHEDULES,
        "optimizer": OPTIMIZERS,
        "distillation": DISTILLATIONS,
    }.items()
    for name in table
]


@pytest.fixture(scope="module")
def store(teacher_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    corpus = corpus_file(folder / "corpus.jsonl", count=30)
    return pack(documents([str(corpus)]), load_tokenizer(teacher_dir), folder / "packed")


@pytest.mark.parametrize(("key", "name"), CHOICES)
def test_every_choice_trains(key, name, teacher_dir, store, tmp_path):
    config = dataclasses.replace(CONFIG, **{key: name})
    teacher = load_model(teacher_dir) if needs_teacher(config) else None
    result = train(load_model(teacher_dir), store, config, tmp_path, teacher=teacher)
    assert result["steps"] == 6 and result["skipped_steps"] == 0
