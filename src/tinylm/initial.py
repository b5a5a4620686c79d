"""Where a run's first weights come from: the model itself, another checkpoint of its shape, or chance."""

from pathlib import Path
from typing import Any

import torch

from tinylm.errors import InputError
from tinylm.models.pangu import pangu_config
from tinylm.models.shape import read_block, read_shape
from tinylm.models.teacher import load_config, load_model
from tinylm.terminal import quiet_transformers


def initial_model(model: str, init: str, seed: int, shape: Path | None = None) -> Any:
    """The model to train in float32.

    Args:
        init: "model" (its own weights), "random", or another model of its shape.
        shape: SHAPE.toml or plan.json: a fresh model of that shape, of ``model``'s family and vocabulary.
    """
    quiet_transformers()
    if shape is not None:
        if init != "random":
            raise InputError(f"--shape {shape} makes a model from random weights: add --init random")
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
            raise InputError(f"--init {init} has {name} {found}, --model {model} has {needed}: they must be equal")
    return other


def _planned(config: Any, path: Path) -> Any:
    shape = read_shape(path)
    if shape.vocab_size != config.get_text_config().vocab_size:
        rows = config.get_text_config().vocab_size
        raise InputError(
            f"{path} has a vocabulary of {shape.vocab_size}, --model has {rows}: plan with --vocab-size {rows}"
        )
    planned = shape.to_config(config)
    return pangu_config(planned) if read_block(path) == "pangu-pi" else planned


def random_model(config: Any, seed: int) -> Any:
    """A model of ``config`` with fresh weights, the same deviation in every layer."""
    from transformers import AutoModelForCausalLM

    from tinylm.architecture.initialise import initialise

    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    initialise(model, seed=seed)
    return model
