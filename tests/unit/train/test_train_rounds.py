import numpy as np
import pytest
import torch

from tinylm.errors import InputError
from tinylm.train.config import TrainConfig
from tinylm.train.draws import effective_share, generator, gumbel_top_k, temperature_of
from tinylm.train.rounds import select, settle_rounds


def test_gumbel_top_k_draws_like_multinomial_without_replacement():
    losses = np.array([2.0, 0.5, 1.0, 3.0, 1.5])
    draws = 20_000
    random = generator(0, "test")
    ours = np.zeros(5)
    for _ in range(draws):
        chosen = gumbel_top_k(losses, 2, random)
        assert len(set(chosen)) == 2
        ours[chosen] += 1
    torch.manual_seed(0)
    weights = torch.softmax(torch.tensor(losses), 0).expand(draws, 5)
    theirs = np.bincount(
        torch.multinomial(weights, 2, replacement=False).flatten().numpy(), minlength=5
    )
    # Each count is binomial: a difference of two has a deviation below sqrt(2 * draws / 4) = 100.
    assert np.abs(ours - theirs).max() < 450


def test_first_draw_has_probability_exp_loss():
    losses = np.array([0.0, 1.0, 2.0])
    random = generator(3, "first")
    first = (
        np.bincount([gumbel_top_k(losses, 3, random)[0] for _ in range(20_000)], minlength=3)
        / 20_000
    )
    expected = np.exp(losses) / np.exp(losses).sum()
    assert np.abs(first - expected).max() < 0.015


@pytest.mark.parametrize(
    "strategy", ["exp-loss", "excess-loss", "uniform", "top-loss", "loss-change", "all"]
)
def test_every_strategy_returns_the_right_number_of_distinct_units(strategy):
    losses, previous = np.linspace(1, 4, 40), np.full(40, 2.0)
    chosen = select(TrainConfig(strategy=strategy, sampling_rate=0.25), losses, previous, 1)
    assert len(chosen) == len(set(chosen.tolist())) == (40 if strategy == "all" else 10)
    assert (np.diff(chosen) > 0).all()


def test_what_each_strategy_prefers():
    losses = np.linspace(1, 4, 400)
    falling = losses[::-1].copy()  # loss-change: now minus before is largest at the end too

    def mean(strategy, **settings):
        config = TrainConfig(strategy=strategy, sampling_rate=0.25, **settings)
        return losses[select(config, losses, falling, 1)].mean()

    assert mean("top-loss") == pytest.approx(losses[300:].mean())
    assert mean("loss-change") == pytest.approx(losses[300:].mean())
    assert mean("exp-loss") > mean("uniform") + 0.3
    assert mean("exp-loss", temperature=100.0) < mean("exp-loss") - 0.3
    assert abs(mean("uniform") - losses.mean()) < 0.25


def test_selection_is_a_pure_function_of_seed_and_round():
    losses = np.linspace(1, 2, 100)
    config = TrainConfig(seed=5)
    assert (select(config, losses, None, 1) == select(config, losses, None, 1)).all()
    assert (select(config, losses, None, 1) != select(config, losses, None, 2)).any()
    assert (select(config, losses, None, 1) != select(TrainConfig(seed=6), losses, None, 1)).any()


def test_the_effective_sample_counts_what_has_weight():
    assert effective_share(np.zeros(10)) == pytest.approx(1)
    assert effective_share(np.array([0.0, 0.0, -1e9, -1e9])) == pytest.approx(0.5)
    # normal losses of deviation s keep exp(-s^2): 99 % at 0.1, that is uniform drawing
    losses = generator(0, "losses").normal(3, 0.1, 100_000)
    assert effective_share(losses) == pytest.approx(np.exp(-0.01), abs=1e-3)


@pytest.mark.parametrize("share", [0.95, 0.75, 0.5, 0.25])
def test_a_wanted_effective_sample_is_what_the_draw_has(share):
    losses = generator(0, "losses").normal(3, 0.1, 5000)
    temperature = temperature_of(losses, share)
    assert effective_share(losses / temperature) == pytest.approx(share, abs=1e-6)
    config = TrainConfig(sampling_rate=0.25, effective_sample=share)
    drawn = losses[select(config, losses, None, 1)].mean()
    assert drawn > losses[select(TrainConfig(sampling_rate=0.25), losses, None, 1)].mean()


def test_a_share_that_no_temperature_has():
    assert temperature_of(np.full(8, 2.0), 0.5) == 0
    assert temperature_of(np.array([1.0, 2.0, 2.0, 2.0]), 0.5) == 0  # three quarters at least
    assert temperature_of(np.array([1.0, 2.0]), 0.0) == 0


def test_an_effective_sample_without_weights_is_refused():
    with pytest.raises(InputError, match=r"effective_sample = 0\.5: must be 0 with"):
        TrainConfig(strategy="uniform", effective_sample=0.5).validate()


@pytest.mark.parametrize(
    ("asked", "rounds", "strategy"),
    [
        ({"steps": 10}, 1, "exp-loss"),  # half of the text: no second round
        ({"steps": 30}, 2, "uniform"),  # the text and half of it again
        ({"steps": 40}, 3, "uniform"),
        ({"steps": 30, "strategy": "top-loss"}, 2, "top-loss"),
        ({"steps": 30, "effective_sample": 0.5}, 2, "exp-loss"),
        ({"steps": 30, "mixture": (1.0, 1.0)}, 1, "exp-loss"),
        ({"steps": 30, "rounds": 2}, 2, "exp-loss"),  # asked for: the paper's
        ({"steps": 30, "rounds": 2, "strategy": "uniform"}, 2, "uniform"),
    ],
)
def test_rounds_and_their_draw_are_settled_by_the_text(asked, rounds, strategy):
    config = TrainConfig(batch_size=2, sequence_length=50, **asked).validate()
    settled = settle_rounds(config, 2000)  # 20 steps
    assert (settled.rounds, settled.strategy) == (rounds, strategy)
    assert settle_rounds(settled, 2000) == settled
