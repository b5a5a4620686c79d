"""Many processes: who they are, how the model is spread over them, and what they tell each other.

Started by ``torchrun``; each process reads its own sequences of every batch. The model is spread by
FSDP2: every process keeps a slice of each float32 weight and of its optimiser state, and gathers a
layer only while it runs.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tinylm.errors import InputError, WorkError
from tinylm.machine import KEPT_BACK


class World:
    """The processes of this run. With one process nothing is ever sent."""

    def __init__(self, device: torch.device) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ.get("RANK", 0)) if self.size > 1 else 0
        self.device = device
        if self.size > 1 and not dist.is_initialized():
            if device.type == "cuda":
                torch.cuda.set_device(device)
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and talks to the person."""
        return self.rank == 0

    def local_sequences(self, sequences: np.ndarray) -> np.ndarray:
        """This process's share of a batch."""
        return sequences[self.rank :: self.size]

    def all_gather(self, local: Tensor) -> np.ndarray:
        """One value for every sequence of a batch, in its order, from every process's values for
        its own."""
        if self.size == 1:
            return local.cpu().numpy()
        parts = [torch.empty_like(local) for _ in range(self.size)]
        dist.all_gather(parts, local.contiguous())
        return torch.stack(parts, dim=1).flatten().cpu().numpy()

    def mean(self, value: float) -> float:
        """The mean of a number over the processes, equal bits on all."""
        if self.size == 1:
            return value
        total = torch.tensor(
            [value],
            dtype=torch.float64,
            device=self.device if self.device.type == "cuda" else "cpu",
        )
        dist.all_reduce(total)
        return total.item() / self.size

    def any(self, value: int) -> int:
        """The largest of a number over the processes: when one must stop, all do, at the same
        step."""
        if self.size == 1:
            return value
        largest = torch.tensor([value], device=self.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return int(largest.item())

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def close(self) -> None:
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def lost_process() -> Iterator[None]:
    """One clear line where another process of the run has died and what was asked of it fails."""
    try:
        yield
    except RuntimeError as error:
        if int(os.environ.get("WORLD_SIZE", 1)) == 1 or not _is_of_the_network(error):
            raise
        time.sleep(KEPT_BACK)
        raise WorkError(
            "another process of this run ended: see what it said; the same command goes on from the"
            " last checkpoint"
        ) from error


def _is_of_the_network(error: RuntimeError) -> bool:
    words = ("gloo", "Connection closed", "Connection reset", "NCCL", "Broken pipe")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


def shard(
    student: nn.Module, layers: nn.ModuleList, world: World, dtype: torch.dtype, copies: int
) -> None:
    """FSDP2: each decoder layer is one unit, the rest of the model another.

    Weights stay in float32 and are gathered in ``dtype``; gradients are summed in float32. With
    ``copies`` above 1 the model is spread over size / copies processes and repeated (HSDP): less
    traffic between machines.
    """
    if world.size % copies:
        raise InputError(
            f"train.model_copies = {copies}: must be a divisor of the number of processes"
            f" ({world.size})"
        )
    shape, names = (
        ((copies, world.size // copies), ("copy", "shard"))
        if copies > 1
        else ((world.size,), ("shard",))
    )
    mesh: DeviceMesh = init_device_mesh(world.device.type, shape, mesh_dim_names=names)
    # inputs stay as they are: the teacher's log-probabilities among them are float32 on purpose
    policy = MixedPrecisionPolicy(
        param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(student, mesh=mesh, mp_policy=policy)


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor with all its rows, from every process's slice. All processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like_sharding(value: Tensor, example: Tensor) -> Tensor:
    """``value`` on the device of ``example``, and sliced as it is. Every process has the whole
    value already."""
    value = value.to(example.device)
    if isinstance(example, DTensor) and value.shape == example.shape:
        return distribute_tensor(value, example.device_mesh, example.placements, src_data_rank=None)
    return value
