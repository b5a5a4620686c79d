"""Scores as an artifact: one number per unit of every axis, saved once and reused for every
shape."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tinylm.artifact import atomic_directory, write_json
from tinylm.errors import InputError
from tinylm.models.shape import Shape

AXES = ("ffn", "q_heads", "hidden", "layers")
FILE = "scores.safetensors"


@dataclass
class Scores:
    """Importance of each unit, higher is more important; only the order inside one axis has a
    meaning."""

    ffn: Tensor  # float32 [num_layers, intermediate_size]
    q_heads: Tensor  # float32 [num_layers, num_attention_heads]
    hidden: Tensor  # float32 [hidden_size]
    layers: Tensor  # float32 [num_layers]
    metadata: dict[str, Any] = field(
        default_factory=dict
    )  # criterion, calibration, teacher, seconds

    def are_finite(self) -> bool:
        return all(bool(torch.isfinite(getattr(self, axis)).all()) for axis in AXES)

    def check(self, teacher: Shape, target: Shape) -> None:
        """Raise InputError when these are scores of another shape of teacher, of masks for another
        target than ``target``, or are not finite."""
        learned_for = self.metadata.get("target", target.to_dict())
        if learned_for != target.to_dict():
            raise InputError(
                f"these scores are of masks learned for {learned_for}: score the teacher for this"
                " shape"
            )
        expected = {
            "ffn": (teacher.num_layers, teacher.intermediate_size),
            "q_heads": (teacher.num_layers, teacher.num_attention_heads),
            "hidden": (teacher.hidden_size,),
            "layers": (teacher.num_layers,),
        }
        for axis, size in expected.items():
            values = getattr(self, axis)
            if tuple(values.shape) != size:
                raise InputError(
                    f"scores of {axis} are {tuple(values.shape)}, this teacher needs {size}: score"
                    " it again"
                )
            if not torch.isfinite(values).all():
                raise InputError(
                    f"scores of {axis} are not finite: the teacher's weights hold NaN or infinity"
                )

    def save(self, folder: Path) -> None:
        """``scores.safetensors`` and ``scores.json`` in ``folder``, which is made or replaced."""
        with atomic_directory(Path(folder), replace=True) as scratch:
            save_file(
                {axis: getattr(self, axis).contiguous() for axis in AXES},
                scratch / FILE,
            )
            write_json(scratch / "scores.json", self.metadata)

    @staticmethod
    def load(folder: Path) -> "Scores":
        path = Path(folder) / FILE
        try:
            with safe_open(path, framework="pt") as file:
                values = {axis: file.get_tensor(axis) for axis in AXES}
            metadata = json.loads((Path(folder) / "scores.json").read_text(encoding="utf-8"))
        except (OSError, SafetensorError, json.JSONDecodeError) as error:
            raise InputError(
                f"scores in {folder} cannot be read ({error}): score the teacher again"
            ) from error
        return Scores(**values, metadata=metadata)
