"""Drawing at random: streams that have names, and draws without replacement."""

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Draw:
    """What a sampling strategy decides from."""

    losses: np.ndarray  # nats per token of every unit after the round before, float[units]
    previous: np.ndarray | None  # the same one round earlier; None after round 0
    count: int  # units to draw
    temperature: float
    random: np.random.Generator


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A random stream that is a pure function of its name, on every machine and for any number of
    processes."""
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], dtype=np.uint64)))


def effective_share(log_weights: np.ndarray) -> float:
    """Which share of n units counts when they are drawn by weights given as logarithms:
    1 / (n * sum of p^2), from 1/n (one unit has all the weight) to 1 (all the same)."""
    weights = np.exp(log_weights - np.max(log_weights))
    return float(weights.sum() ** 2 / (len(weights) * (weights**2).sum()))


def temperature_of(losses: np.ndarray, share: float) -> float:
    """The temperature T at which weights exp(loss / T) have the effective ``share``; 0 for a share
    of 0, and where no T has it (all losses equal, or as many highest ones as the share)."""
    from scipy.optimize import brentq

    spread = float(np.ptp(losses))
    if not share or spread == 0:
        return 0.0

    def above(log_temperature: float) -> float:
        return effective_share(losses / np.exp(log_temperature)) - share

    low, high = np.log(spread * 1e-4), np.log(spread * 1e4)
    return 0.0 if above(low) > 0 or above(high) < 0 else float(np.exp(brentq(above, low, high)))


def gumbel_top_k(log_weights: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """``count`` of n indices without replacement, by weights given as logarithms (any scale), in
    drawing order.

    Adding independent Gumbel noise to log-weights and keeping the largest is the same distribution
    as drawing one after another without replacement (Yellott 1977; Kool et al. 2019), in O(n log n)
    and with no limit on n (``torch.multinomial`` stops at 2^24).
    """
    noisy = np.asarray(log_weights, dtype=np.float64) + random.gumbel(size=len(log_weights))
    return np.argsort(-noisy, kind="stable")[:count]
