"""Differences between runs, honestly: paired by seed, with intervals that cover and a correction
for many looks.

Two runs of one seed share data order and start, so their difference is less noisy than either. All
functions work on those differences. A handful of seeds is the usual case, and there the percentile
bootstrap is badly wrong (its "95 %" covers 76 % at 3 seeds, 88 % at 8: docs/decisions/study.md), so
the interval is Student's t below ``BOOTSTRAP_FROM`` seeds and the studentised bootstrap from there
on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
BOOTSTRAP_FROM = 8  # seeds from which resampling them is better than assuming a normal distribution
RESAMPLES = 10_000


@dataclass(frozen=True)
class Comparison:
    """A minus B over the seeds both have. ``low`` to ``high`` is the 95 % interval of the mean
    difference."""

    seeds: int
    mean: float
    sd: float  # of the differences
    low: float
    high: float
    p: float  # two-sided, paired t-test
    method: str


def compare(a: Sequence[float], b: Sequence[float]) -> Comparison:
    """The mean of ``a - b``, values of the same seeds in the same order. With one seed there is no
    interval: nan."""
    if len(a) != len(b) or not len(a):
        raise ValueError(f"compare needs the same seeds on both sides, got {len(a)} and {len(b)}")
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    n, mean = len(differences), float(differences.mean())
    if n == 1:
        return Comparison(1, mean, math.nan, math.nan, math.nan, math.nan, "one seed")
    sd = float(differences.std(ddof=1))
    error = sd / math.sqrt(n)
    if error <= 1e-12 * max(1.0, abs(mean)):  # the seeds agree to the last digit
        return Comparison(n, mean, 0.0, mean, mean, 1.0 if mean == 0 else 0.0, "no spread")
    from scipy.stats import t as student_t  # half a second to import

    p = float(2 * student_t.cdf(-abs(mean) / error, n - 1))
    if n < BOOTSTRAP_FROM:
        half = half_width(sd, n)
        return Comparison(n, mean, sd, mean - half, mean + half, p, "Student's t")
    low, high = bootstrap_interval(differences)
    return Comparison(n, mean, sd, low, high, p, "studentised bootstrap")


def compare_groups(a: Sequence[float], b: Sequence[float]) -> Comparison:
    """The mean of ``a`` minus that of ``b``, values of different seeds of one thing: two samples
    of one distribution, so that nothing is paired and the spread is that of both. Three values or
    more in all, else there is no interval."""
    n, mean = len(a) + len(b), float(np.mean(a) - np.mean(b))
    if n < 3:
        return Comparison(n, mean, math.nan, math.nan, math.nan, math.nan, "two runs")
    from scipy.stats import ttest_ind

    sd = math.sqrt((len(a) * np.var(a) + len(b) * np.var(b)) / (n - 2))
    if sd <= 1e-12 * max(1.0, abs(mean)):  # to the last digit
        return Comparison(n, mean, 0.0, mean, mean, 1.0 if mean == 0 else 0.0, "no spread")
    found = ttest_ind(a, b)
    low, high = found.confidence_interval(CONFIDENCE)
    return Comparison(n, mean, sd, float(low), float(high), float(found.pvalue), "two groups")


def half_width(sd: float, n: int) -> float:
    """Half of Student's interval of a mean of ``n`` values."""
    from scipy.stats import t as student_t

    return float(student_t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * sd / math.sqrt(n)


def bootstrap_interval(
    values: np.ndarray, confidence: float = CONFIDENCE, resamples: int = 0, seed: int = 0
) -> tuple[float, float]:
    """Studentised bootstrap interval of the mean of ``values`` (float[n], n of 8 or more): Efron &
    Tibshirani, 12.5."""
    n, mean = len(values), values.mean()
    drawn = values[np.random.default_rng(seed).integers(0, n, (resamples or RESAMPLES, n))]
    errors = drawn.std(axis=1, ddof=1) / math.sqrt(n)
    usable = errors > 0  # one value drawn n times: once in n^(n-1) resamples
    t = (drawn.mean(axis=1)[usable] - mean) / errors[usable]
    low, high = np.quantile(t, [0.5 - confidence / 2, 0.5 + confidence / 2])
    error = values.std(ddof=1) / math.sqrt(n)
    return float(mean - high * error), float(mean - low * error)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: adjusted p-values in the order given; nan (not tested) stays nan
    and is not counted.

    The chance that any true "no difference" gets an adjusted p below 0.05 is at most 5 %, whatever
    the dependence.
    """
    tested = [index for index, p in enumerate(p_values) if not math.isnan(p)]
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(tested, key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(tested) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def verdict(comparison: Comparison | None, adjusted_p: float, better: str) -> str:
    """One of the words a report uses. ``better`` is "lower" or "higher": the good direction of the
    measure."""
    if comparison is None:
        return "not measured"
    if comparison.seeds < 2:
        return "one seed: no verdict"
    if comparison.low <= 0 <= comparison.high:
        return "no difference seen"
    word = "better" if (comparison.mean < 0) == (better == "lower") else "worse"
    # the interval alone says so, the correction not
    return word if adjusted_p < 1 - CONFIDENCE else f"perhaps {word}"


def mean_with_error(values: Sequence[float], errors: Sequence[float]) -> tuple[float, float]:
    """The plain mean of independent scores (tasks) and its standard error from theirs."""
    return float(np.mean(values)), float(np.sqrt(np.sum(np.square(errors))) / len(values))
