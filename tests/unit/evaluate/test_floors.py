import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylm.evaluate.floors import ADDED, DISCOUNT, Counts, floors

VOCABULARY = 5
TOKENS = st.integers(0, VOCABULARY - 1)


def plain(windows, before, after):
    """The two probabilities, one at a time, from dictionaries."""
    pairs = Counter((w[i], w[i + 1]) for w in windows for i in range(len(w) - 1))
    tokens = Counter(w[i + 1] for w in windows for i in range(len(w) - 1))
    unigram = (tokens[after] + ADDED) / (sum(tokens.values()) + ADDED * VOCABULARY)
    total = sum(count for (first, _), count in pairs.items() if first == before)
    if not total:
        return unigram, unigram
    kinds = sum(first == before for first, _ in pairs)
    kept = max(pairs[before, after] - DISCOUNT, 0) / total
    return unigram, kept + DISCOUNT * kinds / total * unigram


@given(st.lists(st.lists(TOKENS, min_size=4, max_size=4), min_size=1, max_size=6), TOKENS, TOKENS)
def test_equals_counting_with_dictionaries(windows, before, after):
    counts = Counts(np.array(windows), VOCABULARY)
    found = counts.bits(np.array([before]), np.array([after]))
    expected = plain(windows, before, after)
    assert [float(bits[0]) for bits in found] == pytest.approx([-math.log2(p) for p in expected])


@given(st.lists(st.lists(TOKENS, min_size=4, max_size=4), min_size=1, max_size=6), TOKENS)
def test_probabilities_sum_to_one(windows, before):
    counts = Counts(np.array(windows), VOCABULARY)
    every = np.arange(VOCABULARY)
    for bits in counts.bits(np.full(VOCABULARY, before), every):
        assert float(np.exp2(-bits).sum()) == pytest.approx(1)


def test_bits_per_byte_of_a_text_that_repeats():
    windows = np.tile([0, 1, 2, 0, 1, 2, 0], (50, 1))
    held_out = [np.array([1, 2, 0, 1]), np.array([], dtype=int)]
    counted = [np.ones(len(ids), dtype=bool) for ids in held_out]
    found = floors(Counts(windows, 3), held_out, counted, 0, num_bytes=8)
    assert found["bigram"] < 0.02 < found["unigram"]
    assert found["unigram"] == pytest.approx(4 * math.log2(3) / 8, abs=1e-3)


def test_what_does_not_count_is_context_only():
    """Of 0 1 2 0 1 2 ... only what follows 0 counts: 1, always."""
    windows = np.tile([0, 1, 2, 0, 1, 2, 0], (50, 1))
    counts = Counts(windows, 3, counted=windows[:, :-1] == 0)
    held_out = [np.array([1, 2, 0, 1])]
    found = floors(counts, held_out, [np.array([True, False, False, True])], 0, num_bytes=2)
    assert found["unigram"] < 0.01 and found["bigram"] < 0.01
    assert floors(counts, held_out, [np.ones(4, dtype=bool)], 0, num_bytes=4)["bigram"] > 1
