"""Checkpoints: everything a run needs to go on bitwise as if it had never stopped, written atomically.

A checkpoint is a directory ``step-00000200`` of ``state.safetensors`` (float32 weights, optimiser moments, the round's
losses and choice) and ``state.json`` (step, guards, checksum). It appears under its name only when it is whole; one
that is damaged afterwards is found by its checksum and the one before it is used.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tinylm.artifact import atomic_directory, file_hash, read_json, require_space, write_json
from tinylm.errors import InputError
from tinylm.terminal import console
from tinylm.train.optim import MasterWeights
from tinylm.train.parallel import like, whole

TENSORS, STATE = "state.safetensors", "state.json"


def save(folder: Path, step: int, tensors: dict[str, torch.Tensor], state: dict[str, Any], keep: int) -> Path:
    """Write ``folder/step-N`` and remove all but the newest ``keep``."""
    require_space(folder, int(1.1 * sum(tensor.nbytes for tensor in tensors.values())))
    path = folder / f"step-{step:08d}"
    with atomic_directory(path, replace=True) as scratch:
        save_file(tensors, scratch / TENSORS)
        write_json(scratch / STATE, {"step": step, **state, "checksum": file_hash(scratch / TENSORS)})
    for old in _newest_first(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def load_latest(folder: Path, identity: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """The newest whole checkpoint, or None where there is none. Damaged ones are passed over, saying so.

    Raises InputError when the checkpoint belongs to another run: ``identity`` (config, data, model) differs.
    """
    for path in _newest_first(folder):
        try:
            state = read_json(path / STATE)
            if file_hash(path / TENSORS) != state["checksum"]:
                raise InputError(f"{path / TENSORS}: checksum differs")
            tensors = load_file(path / TENSORS)
        except (InputError, OSError, KeyError, SafetensorError) as error:
            console.print(f"[yellow]checkpoint {path} is damaged ({error}); going back to the one before[/]")
            continue
        for name, value in identity.items():
            if state["identity"].get(name) != value:
                raise InputError(
                    f"{path} belongs to another run: its {name} differs from this one's; "
                    f"give another --out, or remove {folder}"
                )
        return tensors, state
    return None


def pack_state(masters: MasterWeights, optimizers: list[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    """Weights and optimiser moments as one flat dict of tensors: ``weight.NAME``, ``exp_avg.NAME``, ..."""
    tensors = {}
    for name, weight in zip(masters.names, masters.weights):
        tensors[f"weight.{name}"] = whole(weight.detach()).cpu()
        for optimizer in optimizers:
            for kind, value in optimizer.state.get(weight, {}).items():
                tensors[f"{kind}.{name}"] = whole(value).cpu()
    return tensors


@torch.no_grad()
def unpack_state(
    tensors: dict[str, torch.Tensor], masters: MasterWeights, optimizers: list[torch.optim.Optimizer]
) -> None:
    """The reverse of :func:`pack_state`, in place. InputError when a weight is missing or has another shape."""
    kinds: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        kind, name = key.split(".", 1)
        kinds.setdefault(name, {})[kind] = value
    for name, weight in zip(masters.names, masters.weights):
        state = kinds.get(name, {})
        saved = state.pop("weight", None)
        if saved is None or saved.shape != weight.shape:
            found = "is missing" if saved is None else f"has shape {list(saved.shape)}, {list(weight.shape)} is needed"
            raise InputError(f"the checkpoint fits another model: {name} {found}")
        weight.copy_(like(saved, weight))
        for optimizer in optimizers:
            if state and any(weight is own for group in optimizer.param_groups for own in group["params"]):
                optimizer.state[weight] = {kind: like(value, weight) for kind, value in state.items()}
    masters.publish()


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("step-*") if path.is_dir()), reverse=True)
