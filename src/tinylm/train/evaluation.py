"""Losses of the model as it is now: on the pool, for the next round, and on held-out text."""

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from tinylm.artifact import atomic_file
from tinylm.corpus.store import TokenStore
from tinylm.terminal import progress_bar
from tinylm.train.batches import micro_batches
from tinylm.train.distillation import as_student
from tinylm.train.student import Student

if TYPE_CHECKING:
    from tinylm.train.run import Run

# at most so many of the validation store are scored: a large corpus' share has billions
VALID_TOKENS = 2**20


@torch.no_grad()
def frozen_losses(
    run: "Run",
    store: TokenStore,
    sequences: np.ndarray,
    label: str = "",
    model: Student | None = None,
) -> np.ndarray:
    """Nats per token of every sequence, float64[n]: one pass of the student, or of ``model``, no
    gradients; with a bar when it has a label."""
    config, world, scored = run.config, run.world, model or run.student
    scored.eval()
    size, found = config.micro_batch_size * world.size or config.batch_size, []
    # one shape, so one compiled program
    padded = np.resize(sequences, math.ceil(len(sequences) / size) * size)
    with progress_bar(label, len(padded) // size, "batches", shown=bool(label)) as bar:
        for start in range(0, len(padded), size):
            local = world.local_sequences(padded[start : start + size])
            (piece,) = micro_batches(store, config, local, run.device)
            found.append(world.all_gather(scored(piece)[1]))
            bar.advance()
    run.student.train()
    return np.concatenate(found)[: len(sequences)].astype(np.float64)


def pool_losses(run: "Run", rounds_done: int) -> np.ndarray:
    """Nats per token of every sequence that round 0 read."""
    return frozen_losses(
        run, run.store, run.plan.pool.reshape(-1), f"losses after round {rounds_done}"
    )


def teacher_losses(run: "Run") -> np.ndarray:
    """The teacher's, of every sequence that round 0 read; kept beside what the rounds draw."""
    kept = run.out / "rounds" / "teacher-losses.npy"
    if kept.exists():
        return np.load(kept, allow_pickle=False)
    assert run.teacher is not None  # check_inputs
    teacher = as_student(run, run.teacher, dataclasses.replace(run.config, compile=False))
    losses = frozen_losses(
        run, run.store, run.plan.pool.reshape(-1), "losses of the teacher", teacher
    )
    if run.config.distillation != "live":  # the caller may hold it: a GPU's memory is for students
        run.teacher.to("cpu")
    if run.world.is_main:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(kept) as scratch, open(scratch, "wb") as file:
            np.save(file, losses)
    return losses


def spread_sequences(store: TokenStore, length: int, most: int) -> np.ndarray:
    """Numbers of at most ``most`` sequences, spread over the store; int64[n], sorted."""
    every = store.num_sequences(length)
    return np.unique(np.linspace(0, every - 1, min(every, most)).astype(np.int64))


def evaluate(run: "Run", store: TokenStore) -> None:
    """Loss on a validation store: nats per token, and bits per byte (comparable across
    tokenizers)."""
    length = run.config.sequence_length
    sequences = spread_sequences(store, length, max(1, VALID_TOKENS // length))
    loss = float(frozen_losses(run, store, sequences, "validation").mean())
    bits_per_byte = loss / math.log(2) * store.num_tokens / store.text_bytes
    run.evaluated_at = run.step
    run.valid = {"valid_loss": loss, "valid_bits_per_byte": bits_per_byte}
    if run.world.is_main:
        run.metrics.log(run.step, **run.valid)
