import dataclasses

import numpy as np
import pytest
import torch
from builders import byte_level_tokenizer, texts
from hypothesis import given, settings
from hypothesis import strategies as st

from tinylm.corpus.pack import pack
from tinylm.errors import InputError
from tinylm.train.batches import Prefetch, make_plan, micro_batches
from tinylm.train.config import TrainConfig


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return pack(texts(120), byte_level_tokenizer(), tmp_path_factory.mktemp("data") / "store")


CONFIG = TrainConfig(sequence_length=16, batch_size=4, rounds=2)


def test_round_zero_reads_every_sequence_once(store):
    plan = make_plan(CONFIG, store)
    read = np.concatenate(
        [plan.pool.reshape(-1)[plan.batch(0, step)] for step in range(plan.steps[0])]
    )
    assert len(set(read.tolist())) == len(read) == store.num_sequences(16) // 4 * 4
    assert plan.steps == (len(plan.pool), round(0.5 * len(plan.pool)))


@pytest.mark.parametrize("granularity", ["batch", "sequence"])
def test_later_rounds_read_what_was_chosen_in_another_order(store, granularity):
    plan = make_plan(dataclasses.replace(CONFIG, granularity=granularity), store)
    chosen = np.arange(0, plan.pool.size // plan.unit_size, 2)
    count = len(chosen) if granularity == "batch" else len(chosen) // 4
    batches = [plan.batch(1, step, chosen) for step in range(count)]
    read = np.concatenate(batches)
    assert len(set(read.tolist())) == len(read)
    units = read // 4 if granularity == "batch" else read
    assert set(units.tolist()) <= set(chosen.tolist())
    assert read.tolist() != sorted(read.tolist())
    assert (plan.batch(1, 0, chosen) == batches[0]).all()


@given(steps=st.integers(3, 400), rounds=st.integers(1, 3), rate=st.floats(0.05, 1.0))
@settings(max_examples=40, deadline=None)
def test_given_steps_are_spread_over_the_rounds_exactly(store, steps, rounds, rate):
    config = dataclasses.replace(CONFIG, steps=steps, rounds=rounds, sampling_rate=rate)
    plan = make_plan(config, store)
    assert len(plan.steps) == rounds and min(plan.steps) >= 1
    if steps > 20:
        assert plan.total_steps == steps
    where = [plan.locate(step) for step in range(plan.total_steps)]
    assert where == [
        (number, step) for number, length in enumerate(plan.steps) for step in range(length)
    ]


def test_more_steps_than_data_pass_over_it_again_in_a_new_order(store):
    plan = make_plan(dataclasses.replace(CONFIG, rounds=1, steps=10_000), store)
    size = len(plan.pool)
    first = [plan.batch(0, step)[0] for step in range(size)]
    second = [plan.batch(0, size + step)[0] for step in range(size)]
    assert sorted(first) == sorted(second) and first != second


def test_micro_batches_together_are_the_batch(store):
    sequences = np.array([3, 9, 1, 4])
    whole = next(micro_batches(store, CONFIG, sequences, torch.device("cpu")))
    pieces = list(
        micro_batches(
            store, dataclasses.replace(CONFIG, micro_batch_size=2), sequences, torch.device("cpu")
        )
    )
    assert torch.equal(torch.cat([piece.ids for piece in pieces]), whole.ids)
    assert torch.equal(whole.ids[:, 1:], whole.targets[:, :-1])
    assert whole.positions is None


def test_too_little_data_is_an_input_error(store):
    with pytest.raises(InputError, match="less than one batch"):
        make_plan(dataclasses.replace(CONFIG, batch_size=100_000), store)
    with pytest.raises(InputError, match="at least one for each"):
        make_plan(dataclasses.replace(CONFIG, steps=1), store)


def test_a_batch_read_ahead_is_the_batch_read_alone():
    calls = []

    def read(round_number, step):
        calls.append((round_number, step))
        return round_number * 100 + step

    prefetch = Prefetch(read, (3, 2))
    order = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert [prefetch(*key) for key in order] == [0, 1, 2, 100, 101]
    # each once, and none of the next round before its data are chosen
    assert sorted(calls) == order
    assert prefetch(0, 1) == 1  # a step out of order is read when it is asked for


def test_what_fails_while_reading_ahead_is_raised_at_its_step():
    def read(_, step):
        if step == 1:
            raise OSError("the store is gone")
        return step

    prefetch = Prefetch(read, (3,))
    assert prefetch(0, 0) == 0
    with pytest.raises(OSError, match="the store is gone"):
        prefetch(0, 1)


@pytest.mark.parametrize(
    ("steps", "rounds", "expected"), [(8, 5, (4, 1, 1, 1, 1)), (9, 3, (3, 3, 3)), (2, 2, (1, 1))]
)
def test_rounds_add_up_to_the_steps(store, steps, rounds, expected):
    config = dataclasses.replace(
        CONFIG, steps=steps, rounds=rounds, strategy="all", batch_size=1, micro_batch_size=0
    )
    assert make_plan(config, store).steps == expected
