"""Random initialisation of a decoder."""

from math import sqrt
from typing import Any, Literal

import torch

from tinylm.errors import InputError
from tinylm.models.axes import layer_of

Scheme = Literal["constant", "gpt2", "depth"]


@torch.no_grad()
def initialise(model: Any, scheme: Scheme = "constant", std: float = 0.02, seed: int = 0) -> None:
    """Fill the matrices of ``model`` in place with N(0, s^2); the same seed gives the same weights.

    ============  ==========================================================================  =====================
    scheme        s of o_proj and down_proj in layer l (from 1) of L; all others have s = std  known from
    ============  ==========================================================================  =====================
    ``constant``  std: the same in every layer; the best of three in the paper                 PanGu-pi Pro, Llama
    ``gpt2``      std / sqrt(2 L): the residual stream keeps its size whatever the depth       GPT-2, Megatron
    ``depth``     std / sqrt(2 l): later layers write less than earlier ones                   DS-Init
    ============  ==========================================================================  =====================

    Vectors (norm gains, biases, the PanGu-pi series) and the zero end of a PanGu-pi shortcut stay as the model's own
    initialisation left them: norms pass everything, additions start switched off. The padding row is zero.
    """
    if scheme not in ("constant", "gpt2", "depth") or not std > 0:
        raise InputError(f"initialisation {scheme!r} with std {std}: use constant, gpt2 or depth, and a positive std")
    layers = model.config.get_text_config().num_hidden_layers
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.ndim < 2 or name.endswith("shortcut.up.weight"):
            continue
        scale = std
        if name.endswith(("o_proj.weight", "down_proj.weight")) and scheme != "constant":
            scale /= sqrt(2 * (layers if scheme == "gpt2" else (layer_of(name) or 0) + 1))
        weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    padding = getattr(model.get_input_embeddings(), "padding_idx", None)
    if padding is not None:
        model.get_input_embeddings().weight[padding] = 0
