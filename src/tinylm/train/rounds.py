"""Multiple-round training: which data the next round trains on, given the losses of this one
(paper, section 4).

After a round the model is frozen and the loss of every unit (a batch, or a sequence) is known. The
next round draws ``count`` of them without replacement, with first-draw probability p_i = exp(loss_i
/ temperature) / sum_j exp(...).
"""

import hashlib

import numpy as np

from tinylm.train.config import TrainConfig


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A random stream that is a pure function of its name, on every machine and for any number of
    processes."""
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], dtype=np.uint64)))


def gumbel_top_k(log_weights: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """``count`` of n indices without replacement, by weights given as logarithms (any scale), in
    drawing order.

    Adding independent Gumbel noise to log-weights and keeping the largest is the same distribution
    as drawing one after another without replacement (Yellott 1977; Kool et al. 2019), in O(n log n)
    and with no limit on n (``torch.multinomial`` stops at 2^24).
    """
    noisy = np.asarray(log_weights, dtype=np.float64) + random.gumbel(size=len(log_weights))
    return np.argsort(-noisy, kind="stable")[:count]


def select(
    config: TrainConfig, losses: np.ndarray, previous: np.ndarray | None, round_number: int
) -> np.ndarray:
    """The units that round ``round_number`` (1 or later) trains on, sorted.

    Args:
        losses: nats per token of every unit, float[units], after the round before.
        previous: the same one round earlier, or None after round 0; used by ``loss-change``.
    """
    total = len(losses)
    count = total if config.strategy == "all" else max(1, round(config.sampling_rate * total))
    random = generator(config.seed, "select", round_number)
    if config.strategy == "top-loss":
        chosen = np.argsort(-losses, kind="stable")[:count]
    elif config.strategy == "loss-change" and previous is not None:
        # what got worse comes first
        chosen = np.argsort(-(losses - previous), kind="stable")[:count]
    elif config.strategy == "exp-loss":
        chosen = gumbel_top_k(losses / config.temperature, count, random)
    else:  # uniform, all, and loss-change while there is nothing to compare with
        chosen = gumbel_top_k(np.zeros(total), count, random)
    return np.sort(chosen)
