"""A teacher's k best tokens at every position, kept beside the token store: rounds, seeds and
sweeps reuse them.

Kept as ids (uint16 or uint32) and log-probabilities (float16) of shape [sequences, length, k]: with
k = 32 and a vocabulary up to 65,536 this is 128 bytes a token, and no teacher has to run while the
student trains. The files have room for the whole store but take disk only for the sequences some
run asked for; those a later run needs are added.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinylm.artifact import atomic_directory, one_builder, require_space, write_json
from tinylm.terminal import progress_bar
from tinylm.train.loss import Head
from tinylm.train.parallel import World

IDS, LOG_PROBS, DONE, HEADER = "top_ids.npy", "top_log_probs.npy", "done.npy", "table.json"


@dataclass(frozen=True)
class TeacherTable:
    ids: np.ndarray  # [sequences of the store, length, k]
    log_probs: np.ndarray

    def lookup(self, sequences: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        """(log-probabilities float[n, k], ids int64[n, k]) of all positions of these sequences,
        flat."""
        log_probs = torch.from_numpy(self.log_probs[sequences].astype(np.float32)).flatten(0, 1)
        ids = torch.from_numpy(self.ids[sequences].astype(np.int64)).flatten(0, 1)
        return log_probs.to(device), ids.to(device)


def make_or_open(
    folder: Path,
    metadata: dict[str, Any],
    sequences: np.ndarray,
    shape: tuple[int, int, int],
    hidden: Callable[[np.ndarray], Tensor],
    head: Head,
    batch_size: int,
    world: World,
) -> TeacherTable:
    """The table at ``folder``, made where it is not there, with a row for each of ``sequences``.

    Args:
        metadata: what the rows depend on; written beside them. ``folder`` must be another one for
            other values.
        sequences: sequence numbers of the store, int64[n]; those without a row are computed, by all
            processes together.
        shape: (sequences of the whole store, their length, k).
        hidden: the teacher: sequence numbers -> last hidden states [sequences * length, d].
        head: the teacher's output projection.
    """
    with one_builder(folder) if world.is_main else nullcontext():
        if world.is_main and not (folder / HEADER).exists():
            _make_empty(folder, metadata, shape, head.weight.shape[0])
        world.wait()
        ids, log_probs, done = (
            np.load(folder / name, mmap_mode="r+") for name in (IDS, LOG_PROBS, DONE)
        )
        missing = sequences[done[sequences] == 0]
        if world.is_main:
            require_space(
                folder, len(missing) * shape[1] * shape[2] * (ids.itemsize + log_probs.itemsize)
            )
        world.wait()
        _fill(
            ids, log_probs, done, missing[world.rank :: world.size], shape, hidden, head, batch_size
        )
        world.wait()
    return TeacherTable(ids, log_probs)


def _make_empty(
    folder: Path, metadata: dict[str, Any], shape: tuple[int, int, int], vocabulary: int
) -> None:
    with atomic_directory(folder, replace=True) as scratch:
        dtype = np.uint16 if vocabulary <= 2**16 else np.uint32
        for name, kind, size in (
            (IDS, dtype, shape),
            (LOG_PROBS, np.float16, shape),
            (DONE, np.uint8, shape[:1]),
        ):
            np.lib.format.open_memmap(scratch / name, "w+", kind, size).flush()
        write_json(scratch / HEADER, metadata)


@torch.no_grad()
def _fill(
    ids: np.ndarray,
    log_probs: np.ndarray,
    done: np.ndarray,
    sequences: np.ndarray,
    shape: tuple[int, int, int],
    hidden: Callable[[np.ndarray], Tensor],
    head: Head,
    batch_size: int,
) -> None:
    """Compute the rows of ``sequences``. A row is marked when it is whole, so a killed run loses
    one batch."""
    _, length, k = shape
    with progress_bar("teacher's logits", len(sequences), "sequences") as bar:
        for start in range(0, len(sequences), batch_size):
            part = sequences[start : start + batch_size]
            states = hidden(np.resize(part, batch_size))  # one shape: one compiled program
            for place, sequence in enumerate(part):
                logits = head.logits(states[place * length : (place + 1) * length]).float()
                best, where = torch.log_softmax(logits, dim=1).topk(k, dim=1)
                ids[sequence], log_probs[sequence] = where.cpu().numpy(), best.cpu().numpy()
            done[part] = 1
            bar.advance(len(part))
