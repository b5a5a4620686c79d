"""Documents as a second source of noise of a study."""

import numpy as np
import pytest

from tinylm.study.documents import document_interval, weaken


def scores(bits, sizes):
    return {"bits": list(bits), "bytes": list(sizes)}


def test_the_interval_covers_the_difference_of_the_population():
    """500 studies of 40 documents and three seeds: the mean over all documents of that kind lies
    inside 95 % of the intervals, or nearly (few documents make a bootstrap a little narrow)."""
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(500):
        sizes = random.integers(500, 1500, 40).tolist()
        hard = random.normal(1.5, 0.4, 40)  # cancels
        gain = random.normal(-0.1, 0.2, 40)  # of each document
        ours, base = (
            {
                seed: scores(np.array(sizes) * (hard + part + random.normal(0, 0.01)), sizes)
                for seed in range(3)
            }
            for part in (gain, 0.0)
        )
        low, high = document_interval(ours, base)
        inside += low <= -0.1 <= high
    assert 0.90 <= inside / 500 <= 0.98


def test_seeds_that_both_have_on_the_same_documents():
    a, b = scores([900, 1100], [1000, 1000]), scores([1000, 1000], [1000, 1000])
    assert document_interval({0: a}, {1: b}) is None
    assert document_interval({}, {}) is None
    assert document_interval({0: a}, {0: scores([1000, 1000], [1000, 999])}) is None
    assert document_interval({0: scores([9], [10])}, {0: scores([8], [10])}) is None  # one document
    low, high = document_interval({0: a, 1: a, 2: b}, {0: b, 1: b})
    assert low == pytest.approx(-0.1) and high == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("verdict", "interval", "word"),
    [
        ("better", [-0.2, -0.1], "better"),
        ("better", [-0.2, 0.1], "perhaps better"),
        ("worse", [-0.1, 0.2], "perhaps worse"),
        ("worse", None, "worse"),
        ("no difference seen", [-0.1, 0.2], "no difference seen"),
        ("perhaps worse", [-0.1, 0.2], "perhaps worse"),
    ],
)
def test_a_verdict_that_other_documents_might_not_give(verdict, interval, word):
    assert weaken(verdict, interval) == word
