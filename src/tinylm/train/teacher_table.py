"""A teacher's k best tokens at every position, computed once and memory-mapped: rounds, seeds and sweeps reuse it.

Kept as ids (uint16 or uint32) and log-probabilities (float16) of shape [sequences, length, k]: with k = 32 and a
vocabulary up to 65,536 this is 128 bytes a token, and no teacher has to run while the student trains.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinylm.artifact import atomic_directory, hash_of, read_json, require_space, write_json
from tinylm.terminal import progress_bar
from tinylm.train.loss import Head

IDS, LOG_PROBS, HEADER = "top_ids.npy", "top_log_probs.npy", "table.json"


@dataclass(frozen=True)
class TeacherTable:
    rows: dict[int, int]  # sequence number of the store -> row
    ids: np.ndarray
    log_probs: np.ndarray

    def lookup(self, sequences: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        """(log-probabilities float[n, k], ids int64[n, k]) of all positions of these sequences, flat."""
        rows = [self.rows[int(sequence)] for sequence in sequences]
        log_probs = torch.from_numpy(self.log_probs[rows].astype(np.float32)).flatten(0, 1)
        return log_probs.to(device), torch.from_numpy(self.ids[rows].astype(np.int64)).flatten(0, 1).to(device)


def make_or_open(
    folder: Path,
    identity: dict[str, Any],
    sequences: np.ndarray,
    shape: tuple[int, int],
    vocabulary: int,
    batches: Callable[[np.ndarray], Tensor],
    head: Head,
    batch_size: int,
) -> TeacherTable:
    """The table at ``folder``: opened when it was made for the same ``identity`` and sequences, else made.

    Args:
        sequences: sequence numbers of the store that need a row, int64[n].
        shape: (sequence length, k).
        batches: the teacher: sequence numbers -> last hidden states [sequences * length, d].
        head: the teacher's output projection.
    """
    identity = identity | {"shape": shape, "sequences": hash_of(sequences.tolist())}
    if not (folder / HEADER).exists() or read_json(folder / HEADER)["identity"] != hash_of(identity):
        _make(folder, hash_of(identity), sequences, shape, vocabulary, batches, head, batch_size)
    ids = np.load(folder / IDS, mmap_mode="r", allow_pickle=False)
    log_probs = np.load(folder / LOG_PROBS, mmap_mode="r", allow_pickle=False)
    return TeacherTable({int(sequence): row for row, sequence in enumerate(sequences)}, ids, log_probs)


@torch.no_grad()
def _make(
    folder: Path,
    identity: str,
    sequences: np.ndarray,
    shape: tuple[int, int],
    vocabulary: int,
    batches: Callable[[np.ndarray], Tensor],
    head: Head,
    batch_size: int,
) -> None:
    length, k = shape
    full = (len(sequences), length, k)
    dtype = np.uint16 if vocabulary <= 2**16 else np.uint32
    require_space(folder, int(np.prod(full)) * (np.dtype(dtype).itemsize + 2))
    with atomic_directory(folder, replace=True) as scratch:
        ids = np.lib.format.open_memmap(scratch / IDS, "w+", dtype, full)
        log_probs = np.lib.format.open_memmap(scratch / LOG_PROBS, "w+", np.float16, full)
        with progress_bar("teacher's logits", len(sequences), "sequences") as bar:
            for start in range(0, len(sequences), batch_size):
                part = sequences[start : start + batch_size]
                hidden = batches(np.resize(part, batch_size))  # one shape: one compiled program
                for row in range(len(part)):
                    logits = head.logits(hidden[row * length : (row + 1) * length]).float()
                    best, where = torch.log_softmax(logits, dim=1).topk(k, dim=1)
                    ids[start + row] = where.cpu().numpy()
                    log_probs[start + row] = best.cpu().numpy()
                bar.advance(len(part))
        ids.flush()
        log_probs.flush()
        write_json(scratch / HEADER, {"identity": identity, "sequences": len(sequences), "length": length, "k": k})
