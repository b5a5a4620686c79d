"""The first weights of a model: random by a scheme, its own, or another checkpoint's of its
shape."""

from math import sqrt
from pathlib import Path
from typing import Any, Literal

import torch

from tinylm.errors import InputError
from tinylm.models.families import layer_of
from tinylm.models.pangu import pangu_config
from tinylm.models.shape import read_block, read_shape
from tinylm.models.teacher import load_config, load_model
from tinylm.terminal import quiet_transformers

Scheme = Literal["constant", "gpt2", "depth"]


@torch.no_grad()
def initialise(model: Any, scheme: Scheme = "constant", std: float = 0.02, seed: int = 0) -> None:
    """Fill the matrices of ``model`` in place with N(0, s^2); the same seed gives the same weights.

    s of o_proj and down_proj in layer l (from 1) of L; all others have s = std:

    * ``constant``: std, the same in every layer; the best of three in the paper. Known from
      PanGu-pi Pro and Llama.
    * ``gpt2``: std / sqrt(2 L), so the residual stream keeps its size whatever the depth. Known
      from GPT-2 and Megatron.
    * ``depth``: std / sqrt(2 l), so later layers write less than earlier ones. Known from DS-Init.

    Vectors (norm gains, biases, the PanGu-pi series) and the zero end of a PanGu-pi shortcut stay
    as the model's own initialisation left them: norms pass everything, additions start switched
    off. The padding row is zero.
    """
    if scheme not in ("constant", "gpt2", "depth") or not std > 0:
        raise InputError(
            f"initialisation {scheme!r} with std {std}: use constant, gpt2 or depth, and a"
            " positive std"
        )
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


def initial_model(model: str, init: str, seed: int, shape: Path | None = None) -> Any:
    """The model to train in float32.

    Args:
        init: "model" (its own weights), "random", or another model of its shape.
        shape: SHAPE.toml or plan.json: a fresh model of that shape, of ``model``'s family and
            vocabulary.
    """
    quiet_transformers()
    if shape is not None:
        if init != "random":
            raise InputError(
                f"--shape {shape} makes a model from random weights: add --init random"
            )
        return random_model(_planned(load_config(model), shape), seed)
    if init == "model":
        return load_model(model)
    config = load_config(model)
    if init == "random":
        return random_model(config, seed)
    other = load_model(init)
    for name in ("hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size"):
        needed, found = (getattr(c.get_text_config(), name, None) for c in (config, other.config))
        if needed != found:
            raise InputError(
                f"--init {init} has {name} {found}, --model {model} has {needed}: they must be"
                " equal"
            )
    return other


def _planned(config: Any, path: Path) -> Any:
    shape = read_shape(path)
    if shape.vocab_size != config.get_text_config().vocab_size:
        rows = config.get_text_config().vocab_size
        raise InputError(
            f"{path} has a vocabulary of {shape.vocab_size}, --model has {rows}: plan with"
            f" --vocab-size {rows}"
        )
    planned = shape.to_config(config)
    return pangu_config(planned) if read_block(path) == "pangu-pi" else planned


def random_model(config: Any, seed: int) -> Any:
    """A model of ``config`` with fresh weights, the same deviation in every layer."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    initialise(model, seed=seed)
    return model
