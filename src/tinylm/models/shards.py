"""The weights of a `transformers` directory, read from its safetensors shards one tensor at a
time."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinylm.artifact import read_json
from tinylm.errors import InputError
from tinylm.models.initialise import new_model


class Shards(Mapping[str, Tensor]):
    """The weights of a `transformers` directory, read from its safetensors shards one tensor at a
    time."""

    def __init__(self, folder: Path, tied: bool) -> None:
        from safetensors import SafetensorError, safe_open

        self._files: dict[str, Path] = {}
        self._sizes: dict[str, tuple[int, ...]] = {}
        for path in _files(Path(folder)):
            try:
                with safe_open(path, framework="pt") as file:
                    held = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            except (SafetensorError, OSError) as error:
                raise InputError(f"shard {path} is damaged ({error}): download it again") from error
            for name, size in held.items():
                if not name.endswith("rotary_emb.inv_freq"):
                    self._files[name], self._sizes[name] = path, size
        if not self._files:
            raise InputError(f"{folder} has no .safetensors weights")
        embedding, head = "model.embed_tokens.weight", "lm_head.weight"
        # some checkpoints hold the same matrix twice
        if tied and embedding in self and head in self:
            if not torch.equal(self[embedding], self[head]):
                raise InputError(
                    f"{folder}: config.json ties the head to the embedding but the shards hold two"
                    " different matrices: set tie_word_embeddings to false"
                )
            self._files.pop(head)

    def __getitem__(self, name: str) -> Tensor:
        from safetensors import safe_open

        # opened anew: else pages that were read stay mapped
        with safe_open(self._files[name], framework="pt") as file:
            return file.get_tensor(name)

    def __contains__(self, name: object) -> bool:  # a Mapping's own would read the tensor
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Tensor sizes, without reading the tensors."""
        return {name: self._sizes[name] for name in self._files}

    def check_names(self, config: Any) -> None:
        """InputError when the shards lack a weight of the model that ``config`` describes, or hold
        one beside it."""
        empty = new_model(config, device="meta")
        names = {name for name, _ in empty.named_parameters()}
        for what, found in (
            ("lack", names - set(self)),
            ("hold, beside what config.json says,", set(self) - names),
        ):
            if found:
                raise InputError(
                    f"the shards {what} {sorted(found)[0]} ({len(found)} in all): download the"
                    " model again"
                )


def _files(folder: Path) -> list[Path]:
    """The files of the weights: those of the index, else model.safetensors, else all there are.
    Others may hold the same weights once more (an average of them, another format's)."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.exists():
        names = set(read_json(index)["weight_map"].values())
        return sorted(folder / Path(name).name for name in names)
    return [single] if single.exists() else sorted(folder.glob("*.safetensors"))
