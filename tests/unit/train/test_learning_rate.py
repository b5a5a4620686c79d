"""The measured learning rate: the search alone, on losses that are known."""

import math

import pytest

from tinylm.train.learning_rate import FACTOR, MOST_TRIALS, _next_rate, lowest_point


def search(loss):
    """The rates that are tried when ``loss`` (of log10 of the rate) is what trials give."""
    known: dict[float, float] = {}
    while (rate := _next_rate(known)) is not None:
        known[rate] = loss(math.log10(rate))
    return known


@pytest.mark.parametrize("optimum", [-4.2, -3.7, -3.2, -3.0, -2.8, -2.4, -2.1])
def test_the_optimum_of_a_parabola_is_found_exactly(optimum):
    known = search(lambda x: 2.0 + (x - optimum) ** 2)
    assert math.log10(lowest_point(known)) == pytest.approx(optimum, abs=1e-9)
    assert 3 <= len(known) <= MOST_TRIALS


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda x: 2.0 + max(0.0, 1e9 * (x + 3.2)), -5.5),  # all but the low ones diverge
        (lambda x: math.inf, -5.5),
        (lambda x: math.inf if x > -3.1 else -x, -3.5),  # no parabola through infinity
        (lambda x: -x, -1.0),  # falls for ever
        (lambda x: 2.0, -5.5),  # nothing to choose: the lowest does the least harm
    ],
)
def test_what_is_no_valley_ends_too(loss, expected):
    known = search(loss)
    assert len(known) <= MOST_TRIALS
    assert math.log10(lowest_point(known)) == pytest.approx(expected, abs=1e-9)


def test_a_lopsided_valley_never_leaves_the_lowest_trial_by_more_than_half_a_factor():
    rate = lowest_point({1e-3 / FACTOR: 2.0, 1e-3: 1.9999, 1e-3 * FACTOR: 9.0})
    assert 1e-3 / FACTOR**0.5 <= rate <= 1e-3
