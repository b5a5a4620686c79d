"""The weights of a `transformers` directory: which files they are, and one tensor at a time."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinylm.artifact import optional_json, read_object
from tinylm.errors import InputError, WorkError
from tinylm.models.initialise import new_model

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# safetensors' names; all others are packed numbers
FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
# tables that old checkpoints hold and a model computes anew
COMPUTED = "rotary_emb.inv_freq"
BARE = "embed_tokens.weight"  # "model." before it, elsewhere


def weight_files(folder: Path) -> list[Path]:
    """The files of the weights by the rule of `transformers`: model.safetensors, else the shards
    that its index names. Other files beside them (an average, a backup, another format's) are not
    the model. [] for a folder without weights.

    Raises:
        InputError: weights that no rule names, an index that is broken or names a missing file,
            pickles, an adapter that the weights alone would lack.
    """
    folder = Path(folder)
    single, index = folder / SINGLE, folder / INDEX
    if (folder / "adapter_config.json").exists():
        raise InputError(
            f"{folder} holds an adapter (adapter_config.json): merge it into the weights first"
            " (peft: merge_and_unload), or move its files away"
        )
    if single.exists():
        return [single]
    if index.exists():
        table = read_object(index).get("weight_map")
        if not isinstance(table, dict) or not table:
            raise InputError(f"{index} has no weight_map: download the model again")
        files = sorted({folder / Path(str(name)).name for name in table.values()})
        for file in files:
            if not file.exists():
                raise InputError(f"{file} is missing, {INDEX} names it: download the model again")
        return files
    stray = next(iter(sorted(folder.glob("*.safetensors"))), None)
    if stray is not None:
        raise InputError(
            f"{folder} has {stray.name} but neither {SINGLE} nor {INDEX}, which say what the"
            f" weights are: rename it, or download the model again"
        )
    pickled = next(iter(sorted(folder.glob("pytorch_model*.bin"))), None)
    if pickled is not None:
        raise InputError(
            f"{pickled} is a pickle checkpoint, which is not read: save the model as safetensors"
            " first"
        )
    return []


class Shards(Mapping[str, Tensor]):
    """The weights of a `transformers` directory, read from its safetensors shards one tensor at a
    time.

    Raises:
        InputError: no weights, a damaged file, numbers packed by a quantisation, two different
            matrices where ``tied`` says that there is one.
    """

    def __init__(self, folder: Path, tied: bool) -> None:
        from safetensors import SafetensorError, safe_open

        self.folder = Path(folder)
        # name -> its file, what it is called there, its size
        self._stored: dict[str, tuple[Path, str, tuple[int, ...]]] = {}
        kinds: dict[str, str] = {}
        for path in weight_files(self.folder):
            try:
                with safe_open(path, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118
                        if name.endswith(COMPUTED):
                            continue
                        tensor = file.get_slice(name)
                        self._stored[name] = path, name, tuple(tensor.get_shape())
                        kinds[name] = tensor.get_dtype()
            except (SafetensorError, OSError) as error:
                raise InputError(
                    f"shard {path} is damaged ({error}): download or convert it again"
                ) from error
        if not self._stored:
            raise InputError(f"{folder} has no .safetensors weights")
        _refuse_packed(self.folder, kinds)
        if BARE in self:  # a base model was saved, without its head's class around it
            self._stored = {_whole_name(name): found for name, found in self._stored.items()}
        first = next(iter(kinds.values()))
        self.dtype: torch.dtype = FLOATS.get(first, torch.bfloat16)  # an 8-bit number fits there
        embedding, head = "model.embed_tokens.weight", "lm_head.weight"
        # some checkpoints hold the same matrix twice
        if tied and embedding in self and head in self:
            if not torch.equal(self[embedding], self[head]):
                raise InputError(
                    f"{folder}: config.json ties the head to the embedding but the weights hold two"
                    " different matrices: set tie_word_embeddings to false"
                )
            self._stored.pop(head)

    def __getitem__(self, name: str) -> Tensor:
        from safetensors import SafetensorError, safe_open

        # opened anew: else pages that were read stay mapped
        path, stored_name, _ = self._stored[name]
        try:
            with safe_open(path, framework="pt") as file:
                return file.get_tensor(stored_name)
        except (SafetensorError, OSError) as error:
            raise WorkError(
                f"shard {path} can no longer be read ({error}): bring it back and run again"
            ) from error

    def __contains__(self, name: object) -> bool:  # a Mapping's own would read the tensor
        return name in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Tensor sizes, without reading the tensors."""
        return {name: size for name, (_, _, size) in self._stored.items()}

    def check(self, config: Any) -> None:
        """InputError when the shards lack a weight of the model that ``config`` describes, hold one
        beside it, or hold one of another size."""
        empty = new_model(config, device="meta")
        needed = {name: tuple(tensor.shape) for name, tensor in empty.named_parameters()}
        found = self.sizes()
        require_all(self.folder, needed.keys() - found.keys(), found.keys() - needed.keys())
        for name, size in needed.items():
            require_size(self.folder, name, found[name], size)


def _whole_name(name: str) -> str:
    return name if name.startswith("lm_head.") else f"model.{name}"


def require_all(folder: str | Path, missing: set[str], surplus: set[str]) -> None:
    """InputError that names the first of the weights ``missing`` in ``folder``, or of the
    ``surplus`` that its config.json does not call for."""
    if missing:
        raise InputError(
            f"model {folder} is incomplete: no usable weight for {min(missing)}"
            f" ({len(missing)} in all): download it again"
        )
    if surplus:
        raise InputError(
            f"model {folder}: config.json does not call for {min(surplus)} ({len(surplus)} such"
            " weights), which would be lost: mend config.json or remove them"
        )


def require_size(
    folder: str | Path, name: str, found: tuple[int, ...], needed: tuple[int, ...]
) -> None:
    """InputError when a weight has another size than config.json says."""
    if tuple(found) != tuple(needed):
        raise InputError(
            f"model {folder}: {name} has shape {tuple(found)}, config.json says {tuple(needed)}:"
            " they do not belong together"
        )


def _refuse_packed(folder: Path, kinds: dict[str, str]) -> None:
    """InputError for quantised weights, and for a config.json that calls plain ones quantised."""
    config = optional_json(folder / "config.json")
    said = config.get("quantization_config")
    if not said and str(config.get("dtype") or config.get("torch_dtype")).startswith("float8"):
        said = {"quant_method": "dtype float8"}
    method = said.get("quant_method", "quantised") if isinstance(said, dict) else said
    packed = {name: kind for name, kind in kinds.items() if kind not in FLOATS}
    if said and packed and "quantization_config" in config:
        raise InputError(
            f"model {folder} holds quantised weights ({method}), which cannot be cut, trained or"
            " exported: give the model it was made from"
        )
    if said and not packed:
        raise InputError(
            f"model {folder}: config.json says that the weights are quantised ({method}), but they"
            f" are plain {next(iter(kinds.values()))}: remove that from it"
        )
    whole = {name: kind for name, kind in packed.items() if not kind.startswith("F8")}
    if whole:
        name, kind = next(iter(whole.items()))
        raise InputError(
            f"model {folder}: {name} holds {kind} numbers and config.json names no quantisation:"
            " give the model it was made from"
        )
