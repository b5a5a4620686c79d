import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tinylm.study import statistics
from tinylm.study.statistics import (
    Comparison,
    compare,
    compare_groups,
    holm,
    mean_with_error,
    verdict,
)


@pytest.mark.parametrize("n", [2, 3, 5, 7])
def test_few_seeds_equal_scipy_paired_test(n):
    random = np.random.default_rng(n)
    a, b = random.normal(1.0, 0.1, n), random.normal(0.9, 0.1, n)
    ours, theirs = compare(a, b), stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(0.95)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert (ours.seeds, ours.method) == (n, "Student's t")


@pytest.mark.parametrize(("n", "m"), [(1, 3), (2, 3), (3, 3), (3, 1)])
def test_other_seeds_of_one_thing_are_two_groups(n, m):
    random = np.random.default_rng(n)
    a, b = random.normal(1.0, 0.1, n), random.normal(1.0, 0.1, m)
    ours = compare_groups(a, b)
    # by the book: pooled variance, n + m - 2 degrees of freedom
    squares = sum(((group - group.mean()) ** 2).sum() for group in (a, b))
    error = math.sqrt(squares / (n + m - 2) * (1 / n + 1 / m))
    half = stats.t.ppf(0.975, n + m - 2) * error
    mean = a.mean() - b.mean()
    assert (ours.low, ours.high) == pytest.approx((mean - half, mean + half), rel=1e-9)
    assert ours.sd == pytest.approx(math.sqrt(squares / (n + m - 2)))
    assert ours.p == pytest.approx(2 * stats.t.sf(abs(mean) / error, n + m - 2))


def test_two_runs_have_no_interval_and_equal_ones_no_spread():
    assert math.isnan(compare_groups([1.0], [1.1]).low)
    assert compare_groups([1.0, 1.0], [1.0]).method == "no spread"


def test_a_thing_against_itself_differs_once_in_twenty_times():
    random, hits = np.random.default_rng(0), 0
    for _ in range(800):
        found = compare_groups(random.normal(0, 1, 1), random.normal(0, 1, 3))
        hits += not found.low <= 0 <= found.high
    assert 0.025 < hits / 800 < 0.085


def coverage(draw, truth, n, trials=600):
    hits = 0
    for _ in range(trials):
        result = compare(draw(n), np.zeros(n))
        hits += result.low <= truth <= result.high
    return hits / trials


@pytest.mark.parametrize(("n", "trials"), [(3, 2000), (5, 2000), (8, 1200), (12, 1200)])
def test_interval_covers_the_truth_95_percent_of_the_time(n, trials, monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 1500)
    random = np.random.default_rng(7)
    measured = coverage(lambda size: random.normal(0.3, 2.0, size), 0.3, n, trials)
    assert abs(measured - 0.95) < 3.5 * math.sqrt(0.95 * 0.05 / trials)


def test_bootstrap_covers_a_skewed_truth_better_than_the_t_interval():
    """Why the bootstrap takes over from 8 seeds: on skewed differences the t interval covers about
    90 %."""
    random = np.random.default_rng(3)
    boot, t, trials, n = 0, 0, 1000, 10
    for _ in range(trials):
        x = random.exponential(1.0, n)
        low, high = statistics.bootstrap_interval(x, resamples=1000)
        boot += low <= 1 <= high
        half = statistics.half_width(x.std(ddof=1), n)
        t += abs(x.mean() - 1) <= half
    assert boot / trials > 0.92 > t / trials


def test_bootstrap_is_the_same_every_time():
    x = np.random.default_rng(1).normal(size=9)
    assert statistics.bootstrap_interval(x) == statistics.bootstrap_interval(x)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_the_definition(p_values):
    adjusted = holm(p_values)
    order = np.argsort(p_values, kind="stable")
    steps = [min(1.0, (len(p_values) - rank) * p_values[i]) for rank, i in enumerate(order)]
    expected = np.maximum.accumulate(steps)
    assert np.allclose([adjusted[i] for i in order], expected)


def test_holm_known_answer_and_untested_values():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted = holm([0.01, math.nan, 0.03])
    assert adjusted[0] == pytest.approx(0.02) and math.isnan(adjusted[1])


def test_holm_keeps_the_family_error_below_5_percent():
    random = np.random.default_rng(11)
    wrong = 0
    for _ in range(800):
        p = [compare(random.normal(size=4), random.normal(size=4)).p for _ in range(6)]
        wrong += min(holm(p)) < 0.05
    assert wrong / 800 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 800)


def test_verdict_words():
    def result(mean, low, high, seeds=3):
        return Comparison(seeds, mean, 0.1, low, high, 0.01, "Student's t")

    assert verdict(result(-0.1, -0.2, -0.05), 0.01, "lower") == "better"
    assert verdict(result(-0.1, -0.2, -0.05), 0.01, "higher") == "worse"
    assert verdict(result(0.1, 0.05, 0.2), 0.2, "higher") == "perhaps better"
    assert verdict(result(0.1, -0.05, 0.2), 0.01, "lower") == "no difference seen"
    assert verdict(compare([1.0], [2.0]), math.nan, "lower") == "one seed: no verdict"
    assert verdict(None, math.nan, "lower") == "not measured"


def test_seeds_that_agree_to_the_last_digit():
    assert compare([1.0, 1.0], [1.0, 1.0]).p == 1.0
    assert verdict(compare([1.0, 1.0], [1.0, 1.0]), 1.0, "lower") == "no difference seen"
    assert compare([1.0, 2.0], [2.0, 3.0]).low == -1.0


def test_different_seeds_on_both_sides_are_refused():
    with pytest.raises(ValueError, match="same seeds"):
        compare([1.0, 2.0], [1.0])


def test_task_errors_combine_like_independent_errors():
    mean, error = mean_with_error([0.5, 0.7], [0.03, 0.04])
    assert (mean, error) == pytest.approx((0.6, 0.025))
