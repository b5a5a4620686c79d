"""Mixtures of sources: shares hold whatever the sizes, and the pool is a pure function."""

import dataclasses

import numpy as np
import pytest
from builders import byte_level_tokenizer, texts
from hypothesis import given, settings
from hypothesis import strategies as st

from tinylm.corpus.document import Document
from tinylm.corpus.pack import pack
from tinylm.corpus.store import open_store
from tinylm.errors import InputError
from tinylm.train.batches import make_plan
from tinylm.train.config import TrainConfig
from tinylm.train.mixture import passes, quotas

CONFIG = TrainConfig(
    sequence_length=16, batch_size=4, steps=50, rounds=1, mixture=(0.25, 0.75), seed=3
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two sources; the second holds an eighth of the first."""
    found = [Document(text, "a", 0) for text in texts(80)]
    found += [Document(text, "b", 1) for text in texts(90)[80:]]
    return pack(found, byte_level_tokenizer(), tmp_path_factory.mktemp("data") / "store")


def source_of(store, sequences: np.ndarray) -> np.ndarray:
    return np.searchsorted(store.source_ends, sequences * 16, side="right")


def test_a_store_knows_where_each_path_ends(store, tmp_path):
    alone = pack(texts(80), byte_level_tokenizer(), tmp_path / "a")
    assert store.source_ends == (alone.num_tokens, store.num_tokens)
    assert open_store(store.path).source_ends == store.source_ends
    assert alone.source_ends == ()  # one path, as before


def test_a_path_without_text_is_a_source_too(tmp_path):
    words = [Document("some words", "one", path) for path in (0, 2)]
    store = pack(words, byte_level_tokenizer(), tmp_path / "store", sources=4)
    half, whole = store.num_tokens // 2, store.num_tokens
    assert store.source_ends == (half, half, whole, whole)


def test_shares_hold_whatever_the_sizes(store):
    plan = make_plan(CONFIG, store)
    where = source_of(store, plan.pool.ravel())
    assert plan.pool.size == 200
    assert np.bincount(where).tolist() == [50, 150]
    small = np.sort(plan.pool.ravel()[where == 1])
    counts = np.unique(small, return_counts=True)[1]
    assert counts.max() - counts.min() <= 1  # no sequence twice before all were read once
    first = plan.pool.ravel()[where == 0]
    assert len(set(first.tolist())) == 50


def test_the_pool_is_a_pure_function_and_mixes(store):
    plan, again = make_plan(CONFIG, store), make_plan(CONFIG, store)
    assert (plan.pool == again.pool).all()
    other = make_plan(dataclasses.replace(CONFIG, seed=4), store)
    assert (plan.pool != other.pool).any()
    batches = source_of(store, plan.pool.ravel()).reshape(plan.pool.shape)
    assert len({tuple(row) for row in batches.tolist()}) > 20 or (batches.std(axis=1) > 0).any()


def test_what_is_never_read_guards_the_run(store):
    plan = make_plan(CONFIG, store)
    left = plan.unused(store, 10_000)
    assert not set(left.tolist()) & set(plan.pool.ravel().tolist())
    assert len(set(left.tolist())) == len(left)


def test_a_source_of_weight_0_is_not_read(store):
    plan = make_plan(dataclasses.replace(CONFIG, mixture=(0.0, 2.0)), store)
    assert set(source_of(store, plan.pool.ravel()).tolist()) == {1}


@given(
    shares=st.lists(st.floats(0, 100), min_size=1, max_size=6).filter(lambda s: sum(s) > 1e-3),
    count=st.integers(1, 10_000),
)
@settings(max_examples=100, deadline=None)
def test_quotas_add_up_and_are_within_one(shares, count):
    found = quotas(shares, count)
    assert sum(found) == count and min(found) >= 0
    exact = [share / sum(shares) * count for share in shares]
    assert all(abs(a - b) < 1 for a, b in zip(found, exact))


def test_passes_over_each_source(store):
    (first, once), (second, often) = passes(store, (1, 3), 4000)
    assert first + second == store.num_tokens
    assert once == pytest.approx(1000 / first) and often == pytest.approx(3000 / second)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mixture": (1.0,)}, "has 1 shares, .* holds 2 sources"),
        ({"sequence_length": 4000, "mixture": (0.5, 0.5)}, "source 2 of the mixture holds no"),
    ],
)
def test_a_mixture_that_does_not_fit_the_store(store, changes, words):
    with pytest.raises(InputError, match=words):
        make_plan(dataclasses.replace(CONFIG, batch_size=1, steps=2, **changes), store)


@pytest.mark.parametrize("mixture", [(0.0, 0.0), (-1.0, 2.0), (float("nan"), 1.0)])
def test_shares_that_are_none(mixture):
    with pytest.raises(InputError, match=r"train\.mixture = .* not all 0"):
        dataclasses.replace(CONFIG, mixture=mixture).validate()


def test_a_mixture_needs_a_length():
    with pytest.raises(InputError, match="given with steps, tokens_per_parameter or hours"):
        dataclasses.replace(CONFIG, steps=0).validate()
