"""Where a run's first weights come from: the model itself, another checkpoint of its shape, or chance."""

from typing import Any

import torch

from tinylm.errors import InputError
from tinylm.models.teacher import load_config, load_model


def initial_model(model: str, init: str, seed: int) -> Any:
    """The model to train in float32. ``init``: "model" (its own weights), "random", or another model of its shape."""
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


def random_model(config: Any, seed: int) -> Any:
    """A model of ``config`` with fresh weights, the same deviation in every layer."""
    from transformers import AutoModelForCausalLM

    from tinylm.architecture.initialise import initialise

    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    initialise(model, seed=seed)
    return model
