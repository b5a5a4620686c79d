"""Checkpoints: everything a run needs to go on bitwise as if it had never stopped.

Written by ``torch.distributed.checkpoint`` in its safetensors format: every process writes its own
slices, in the background, and any number of processes reads them back. A checkpoint is a directory
``step-00000200`` of safetensors files (float32 weights, optimiser moments, the round's losses and
choice) and ``state.json`` (step, guards, checksums). It appears under its name only when it is
whole; one that is damaged afterwards is found by its checksums and the one before it is used.
"""

import os
import shutil
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from tinylm.artifact import file_hash, read_json, require_space, write_json
from tinylm.errors import InputError
from tinylm.terminal import console
from tinylm.train.master_weights import MasterWeights
from tinylm.train.parallel import World, like_sharding

STATE = "state.json"
# That one process means "not distributed" is no news. It is said by a thread of torch's, which a
# filter for the length of a call does not reach: bars on a terminal broke.
warnings.filterwarnings("ignore", r"torch\.distributed is disabled", UserWarning)
BEST = "best"  # kind of the weights with the lowest held-out loss so far


class Checkpoints:
    """The checkpoints of one run in ``folder``: the newest ``keep`` stay. All processes call every
    method."""

    def __init__(self, folder: Path, keep: int, world: World) -> None:
        self.folder, self.keep, self.world = folder, keep, world
        self.background = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.writing: Future[None] | None = None
        # Collectives of the background must not meet those of the training: a group of their own.
        self.group = dist.new_group(backend="gloo") if world.size > 1 else None

    def save(self, step: int, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        """Begin to write ``folder/step-N``: ``tensors`` are copied now, the files are written while
        training goes on.

        A checkpoint that cannot be written (a full disk) is said and costs nothing else: the one
        before stays.
        """
        self.wait()
        path = self.folder / f"step-{step:08d}"
        partial = path.with_name(f".{path.name}.partial")
        if self.world.any(int(not self._prepare(partial, tensors))):
            return
        try:
            written = dcp.async_save(
                dict(tensors),
                storage_writer=dcp.HuggingFaceStorageWriter(str(partial), save_distributed=True),
                process_group=self.group,
            )
            self.writing = self.background.submit(
                self._publish, written, partial, path, {"step": step, **state}
            )
        except (OSError, dcp.api.CheckpointException) as error:
            _log_failed(path, error)

    def wait(self) -> None:
        """Until the checkpoint being written is whole, or has failed."""
        if self.writing is not None:
            self.writing.result()
            self.writing = None
        self.world.wait()

    def latest(self, identity: dict[str, Any]) -> tuple[Path, dict[str, Any]] | None:
        """(folder, state) of the newest whole checkpoint, or None. Damaged ones are passed over,
        saying so.

        Raises InputError when the checkpoint belongs to another run: ``identity`` (config, data,
        model) differs.
        """
        for path in self._newest_first():
            try:
                state = read_json(path / STATE)
                for name, checksum in state["checksums"].items():
                    if file_hash(path / name) != checksum:
                        raise InputError(f"{path / name}: checksum differs")
            except (InputError, OSError, KeyError) as error:
                console.print(
                    f"[yellow]checkpoint {path} is damaged ({error}); going back to the one"
                    " before[/]"
                )
                continue
            for name, value in identity.items():
                # a checkpoint of an older tinylm knows fewer names
                if state["identity"].get(name, value) != value:
                    raise InputError(
                        f"{path} belongs to another run: its {name} differs from this one's; "
                        f"give another --out, or remove {self.folder}"
                    )
            return path, state
        return None

    def _prepare(self, partial: Path, tensors: dict[str, torch.Tensor]) -> bool:
        """Room and an empty folder for the files; False when there is none, which is said."""
        if self.world.is_main:
            try:
                require_space(
                    self.folder, int(1.1 * sum(tensor.nbytes for tensor in tensors.values()))
                )
                for leftover in self.folder.glob(".step-*.partial"):
                    shutil.rmtree(leftover)
                partial.mkdir(parents=True)
            except (InputError, OSError) as error:
                _log_failed(partial, error)
                return False
        return True

    def _publish(self, written: Any, partial: Path, path: Path, state: dict[str, Any]) -> None:
        """In the background: when all processes have written, the first one gives the folder its
        name."""
        try:
            written.result()
            if not self.world.is_main:
                return
            checksums = {
                file.name: file_hash(file) for file in sorted(partial.glob("*.safetensors"))
            }
            write_json(partial / STATE, {**state, "checksums": checksums})
            if path.exists():  # a damaged one
                shutil.rmtree(path)
            os.replace(partial, path)
            for damaged in self._newest_first():
                if damaged.name > path.name:  # passed over when this run began
                    shutil.rmtree(damaged, ignore_errors=True)
            for old in self._newest_first()[self.keep :]:
                shutil.rmtree(old, ignore_errors=True)
        except (InputError, OSError, RuntimeError, dcp.api.CheckpointException) as error:
            if self.world.is_main:
                shutil.rmtree(partial, ignore_errors=True)
                _log_failed(path, error)

    def _newest_first(self) -> list[Path]:
        return sorted((path for path in self.folder.glob("step-*") if path.is_dir()), reverse=True)


def _log_failed(path: Path, error: BaseException) -> None:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    console.print(
        f"[yellow]checkpoint {path} could not be written ({reason[-1]}); training goes on without"
        " it[/]"
    )


def pack_state(
    masters: MasterWeights, optimizers: list[torch.optim.Optimizer]
) -> dict[str, torch.Tensor]:
    """Weights and optimiser moments as one flat dict of tensors: ``weight.NAME``, ``exp_avg.NAME``,
    ..."""
    tensors = {}
    for name, weight in zip(masters.names, masters.weights):
        tensors[f"weight.{name}"] = weight.detach()
        for optimizer in optimizers:
            for kind, value in optimizer.state.get(weight, {}).items():
                tensors[f"{kind}.{name}"] = value
    return tensors


@torch.no_grad()
def unpack_state(
    path: Path, masters: MasterWeights, optimizers: list[torch.optim.Optimizer]
) -> dict[str, torch.Tensor]:
    """The reverse of :func:`pack_state`, in place, from a checkpoint of any number of processes.

    Returns the tensors that belong to no weight, and the ``BEST`` ones. InputError when a weight is
    missing or has another shape.
    """
    saved: dict[str, Any] = (
        dcp.HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    )
    for name, weight in zip(masters.names, masters.weights):
        entry = saved.get(f"weight.{name}")
        if entry is None or entry.size != weight.shape:
            found = (
                "is missing"
                if entry is None
                else f"has shape {list(entry.size)}, {list(weight.shape)} is needed"
            )
            raise InputError(f"the checkpoint fits another model: {name} {found}")
    weights = dict(zip(masters.names, masters.weights))
    tensors = {}
    for key, entry in saved.items():
        kind, name = key.split(".", 1)
        if kind == "weight":
            tensors[key] = weights[name].detach()
        else:
            empty = torch.empty(entry.size, dtype=entry.properties.dtype)
            tensors[key] = like_sharding(empty, weights[name]) if name in weights else empty
    dcp.load(tensors, storage_reader=dcp.HuggingFaceStorageReader(str(path)))
    for key in [key for key in tensors if key.split(".", 1)[1] in weights]:
        kind, name = key.split(".", 1)
        if kind == BEST:
            continue
        value = tensors.pop(key)
        for optimizer in optimizers:
            owns = any(
                weights[name] is own for group in optimizer.param_groups for own in group["params"]
            )
            if kind != "weight" and owns:
                optimizer.state[weights[name]][kind] = value
    masters.update_model()
    return tensors
