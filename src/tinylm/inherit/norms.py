"""Exact and measured repairs of what RMSNorm and a scaled embedding make of a narrower model."""

from typing import Any

import torch
from torch import Tensor, nn

from tinylm.inherit.cut import Kept, dimension_rows
from tinylm.inherit.stack import Stack
from tinylm.models import families
from tinylm.models.shape import Shape


@torch.no_grad()
def embedding_scale(student: Any, teacher_hidden: int) -> None:
    """Undo the change of sqrt(hidden_size) in the embedding; a tied head is undone in the last
    norm. Exact."""
    family, config = families.family_of(student.config), student.config
    if not family.scales_embedding or config.hidden_size == teacher_hidden:
        return
    factor = (teacher_hidden / config.hidden_size) ** 0.5
    student.get_input_embeddings().weight.mul_(factor)
    if config.tie_word_embeddings:
        _scale_gain(student.base_model.norm, 1 / factor, family.gain_offset)


@torch.no_grad()
def norm_gains(
    student: Any, teacher: Any, kept: Kept, chunks: Tensor | None = None, batch_size: int = 4
) -> None:
    """Scale each norm's gain by the mean of rms(kept inputs) / rms(all inputs), measured on
    ``chunks`` int64 [N, T].

    The student divides by the first, the teacher by the second; their ratio is what the cut
    changed. Without chunks the ratio is that of inputs whose dropped part is zero, which is exact
    for learned masks.
    """
    stack = Stack.of(teacher)
    teacher, config = stack.model, stack.model.config
    family, shape = families.family_of(config), Shape.from_config(config)
    ratios: dict[str, list[Tensor]] = {}
    handles = []
    for name, norm in student.named_modules():
        dimensions = family.axes(f"{name}.weight")
        layer = families.layer_of(f"{name}.weight")
        rows = (
            dimension_rows(dimensions[0], kept, layer, shape)
            if dimensions and name.endswith("norm")
            else None
        )
        if rows is None:
            continue
        source = name if layer is None else families.in_layer(name, kept.layers[layer])
        full_norm = teacher.get_submodule(source)
        if len(rows) == full_norm.weight.numel():
            continue
        if chunks is None:
            ratios[name] = [torch.tensor((full_norm.weight.numel() / norm.weight.numel()) ** 0.5)]
            continue

        def measure(module: nn.Module, args: tuple, name: str = name, rows: Tensor = rows) -> None:
            square = args[0].float().pow(2)
            ratio = (square[..., rows].mean(-1) / square.mean(-1).clamp_min(1e-20)).sqrt()
            ratios.setdefault(name, []).append(ratio.mean())

        handles.append(full_norm.register_forward_pre_hook(measure))
    try:
        if handles and chunks is not None:
            stack.forward(chunks.to(teacher.device).split(batch_size))
    finally:
        for handle in handles:
            handle.remove()
    for name, values in ratios.items():
        _scale_gain(
            student.get_submodule(name), float(torch.stack(values).mean()), family.gain_offset
        )


def _scale_gain(norm: Any, factor: float, offset: float) -> None:
    norm.weight.copy_((norm.weight.float() + offset) * factor - offset)
