"""The data order. A batch is a pure function of (seed, round, step), whatever the number of
processes.

The corpus is cut into fixed sequences; round 0's pool is a random choice of them in a random order,
cut into batches. A unit of later rounds is one of those batches (the paper) or one of those
sequences.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tinylm.corpus.store import TokenStore
from tinylm.errors import InputError
from tinylm.train.config import TrainConfig
from tinylm.train.draws import generator
from tinylm.train.loss import IGNORE
from tinylm.train.mixture import mixed_order
from tinylm.train.rounds import GRANULARITIES, later_share


@dataclass(frozen=True)
class Plan:
    """How many steps each round has, and which sequences of the store the whole run is about."""

    config: TrainConfig
    pool: np.ndarray  # int64[batches in round 0, batch_size]: sequence numbers
    steps: tuple[int, ...]  # of each round

    @property
    def total_steps(self) -> int:
        return sum(self.steps)

    @property
    def unit_size(self) -> int:
        """Sequences in what later rounds draw."""
        return GRANULARITIES[self.config.granularity].size(self.config.batch_size)

    def locate(self, step: int) -> tuple[int, int]:
        """(round, step inside it) of a step of the whole run; (rounds, 0) at the very end."""
        for round_number, length in enumerate(self.steps):
            if step < length:
                return round_number, step
            step -= length
        return len(self.steps), 0

    def unused(self, store: TokenStore, most: int) -> np.ndarray:
        """Numbers of at most ``most`` sequences of the store that the run never reads, int64[n]."""
        every = store.num_sequences(self.config.sequence_length)
        order = generator(self.config.seed, "pool").permutation(every)
        if self.config.mixture:  # the pool is no beginning of that order
            return order[~np.isin(order, self.pool)][:most]
        return order[self.pool.size :][:most]

    def batch(self, round_number: int, step: int, chosen: np.ndarray | None = None) -> np.ndarray:
        """Places in the (flat) pool of one batch's sequences, int64[batch_size].

        ``chosen`` are the round's units (None: all). A round longer than its data passes over them
        again in a new order.
        """
        size, unit_size = self.config.batch_size, self.unit_size
        units = np.arange(self.pool.size // unit_size) if chosen is None else chosen
        per_pass = GRANULARITIES[self.config.granularity].per_pass(len(units), size)
        epoch, step = divmod(step, per_pass)
        # round 0, first pass: the pool is in random order already
        if round_number > 0 or epoch > 0:
            units = generator(self.config.seed, "order", round_number, epoch).permutation(units)
        needed = size // unit_size
        drawn = np.resize(units[step * needed : (step + 1) * needed], needed)
        return (drawn[:, None] * unit_size + np.arange(unit_size)).ravel()

    def unit_losses(self, sequence_losses: np.ndarray) -> np.ndarray:
        """Losses of the units, from those of the pool's sequences float[pool.size]."""
        return sequence_losses.reshape(-1, self.unit_size).mean(axis=1)


def make_plan(config: TrainConfig, store: TokenStore) -> Plan:
    """The order and length of every round. InputError when the store holds less than one batch."""
    sequences = store.num_sequences(config.sequence_length)
    available = sequences // config.batch_size
    if available == 0:
        raise InputError(
            f"{store.path} holds {store.num_tokens:,} tokens, less than one batch of"
            f" {config.batch_size} sequences of {config.sequence_length}: add documents, or lower"
            " train.batch_size or train.sequence_length"
        )
    later = later_share(config)
    assert config.rounds != "auto"
    if config.steps == 0:
        first = available
        steps = [first] + [max(1, round(later * first))] * (config.rounds - 1)
    else:
        if config.steps < config.rounds:
            raise InputError(
                f"train.steps = {config.steps}: must be at least one for each of {config.rounds}"
                " rounds"
            )
        share = 1 + later * (config.rounds - 1)
        # the first round has at least one step
        most = (config.steps - 1) // max(1, config.rounds - 1)
        rest = [min(most, max(1, round(config.steps * later / share)))] * (config.rounds - 1)
        steps = [max(1, config.steps - sum(rest)), *rest]
        first = steps[0] if config.mixture else min(available, steps[0])
    count = first * config.batch_size
    if config.mixture:
        order = mixed_order(store, config.sequence_length, config.mixture, count, config.seed)
    else:
        order = generator(config.seed, "pool").permutation(sequences)[:count]
    return Plan(config, order.reshape(first, config.batch_size), tuple(steps))


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass reads; tensors are int64[sequences, sequence_length]."""

    sequences: np.ndarray  # their numbers in the store
    ids: torch.Tensor
    targets: torch.Tensor
    positions: torch.Tensor | None  # of every token in its document, with ``document_mask``
    counted: torch.Tensor | None = None  # bool: which targets count; None: all


def micro_batches(
    store: TokenStore, config: TrainConfig, sequences: np.ndarray, device: torch.device
) -> Iterator[MicroBatch]:
    """One process's sequences of a batch, in pieces of ``micro_batch_size``."""
    size, length = config.micro_batch_size or len(sequences), config.sequence_length
    for start in range(0, len(sequences), size):
        part = sequences[start : start + size]
        window = _on(device, store.windows(part, length))
        positions = _on(device, store.positions(part, length)) if config.document_mask else None
        targets, counted = window[:, 1:].contiguous(), store.counted_targets(part, length)
        which = None if counted is None else _on(device, counted)
        if which is not None:
            targets = targets.masked_fill(~which, IGNORE)
        yield MicroBatch(part, window[:, :-1].contiguous(), targets, positions, which)


def _on(device: torch.device, values: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(values)
    return (
        tensor.pin_memory().to(device, non_blocking=True)
        if device.type == "cuda"
        else tensor.to(device)
    )


class Prefetch:
    """Reads one step ahead: while the device works on a batch, the next one of the round is read
    and sent to it."""

    def __init__(self, read: Callable[[int, int], Any], steps: tuple[int, ...]) -> None:
        """``read(round, step)`` gives a batch and must not change within a round; ``steps`` of each
        round."""
        self.read, self.steps = read, steps
        self.reader = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self.ahead: tuple[int, int] | None = None
        self.coming: Future[Any] | None = None

    def __call__(self, round_number: int, step: int) -> Any:
        if self.coming is not None and self.ahead == (round_number, step):
            batch = self.coming.result()
        else:
            batch = self.read(round_number, step)
        self.ahead, self.coming = (round_number, step + 1), None
        if step + 1 < self.steps[round_number]:
            self.coming = self.reader.submit(self.read, *self.ahead)
        return batch
