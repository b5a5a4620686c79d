"""The first weights of a model: random by a scheme, its own, or another checkpoint's of its
shape."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tinylm.errors import InputError
from tinylm.models.block import config_for
from tinylm.models.families import layer_of
from tinylm.models.shape import read_block, read_shape
from tinylm.terminal import quiet_transformers

# What the standard deviation of o_proj and down_proj is divided by, from (layer l from 1, layers L)
SCHEMES: dict[str, Callable[[int, int], float]] = {
    # the same in every layer; the best of three in the paper. PanGu-pi Pro, Llama
    "constant": lambda layer, layers: 1.0,
    # the residual stream keeps its size whatever the depth. GPT-2, Megatron
    "gpt2": lambda layer, layers: sqrt(2 * layers),
    # later layers write less than earlier ones. DS-Init
    "depth": lambda layer, layers: sqrt(2 * layer),
}
if TYPE_CHECKING:
    Scheme = str
else:
    Scheme = Literal[tuple(SCHEMES)]


def initialise(model: Any, scheme: Scheme = "constant", std: float = 0.02, seed: int = 0) -> None:
    """Fill the matrices of ``model`` in place with N(0, s^2); the same seed gives the same weights.

    s is ``std``, in o_proj and down_proj divided by what the scheme says (``SCHEMES``).

    Vectors (norm gains, biases, the PanGu-pi series) and the zero end of a PanGu-pi shortcut stay
    as the model's own initialisation left them: norms pass everything, additions start switched
    off. The padding row is zero.
    """
    import torch

    if scheme not in SCHEMES or not std > 0:
        raise InputError(
            f"initialisation {scheme!r} with std {std}: use {', '.join(SCHEMES)}, and a positive"
            " std"
        )
    layers = model.config.get_text_config().num_hidden_layers
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim < 2 or name.endswith("shortcut.up.weight"):
                continue
            scale = std
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                scale /= SCHEMES[scheme]((layer_of(name) or 0) + 1, layers)
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
        embedding = model.get_input_embeddings()
        if getattr(embedding, "padding_idx", None) is not None:
            embedding.weight[embedding.padding_idx] = 0


def initial_model(model: str, init: str, seed: int, shape: Path | None = None) -> Any:
    """The model to train in float32.

    Args:
        init: "model" (its own weights), "random", or another model of its shape.
        shape: SHAPE.toml or plan.json: a fresh model of that shape, of ``model``'s family and
            vocabulary.
    """
    from tinylm.models.teacher import load_config, load_model

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
    return config_for(read_block(path), shape.to_config(config))


def random_model(config: Any, seed: int, scheme: Scheme = "constant") -> Any:
    """A model of ``config`` with fresh weights in float32."""
    model = new_model(config)
    initialise(model, scheme, seed=seed)
    return model


def new_model(config: Any, dtype: str = "float32", device: str = "cpu") -> Any:
    """A model of ``config`` as `transformers` makes it; on device ``meta`` without any memory.

    Raises:
        InputError: a config that its family cannot build: an unknown activation, no rope keys.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from tinylm.models.config import first_line  # which loads torch, and `--help` reads SCHEMES

    with torch.device(device):
        try:
            return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
        except MemoryError:
            raise
        except Exception as error:  # each family checks its config in its own way
            raise InputError(
                f"config.json describes a {config.model_type} model that transformers cannot build"
                f" ({first_line(error)})"
            ) from error


def hollow_model(config: Any, dtype: Any) -> Any:
    """A model of ``config`` whose parameters are on device ``meta``, so that any of them can be
    filled later. Its tables (rotary angles, scales) are real: on ``meta`` nobody could fill
    those."""
    with _parameters_on_meta():
        model = new_model(config, dtype=str(dtype).removeprefix("torch."))
    return model.requires_grad_(False)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Inside, a module's parameters go to ``meta`` as soon as they are made."""
    from torch import nn

    register = nn.Module.register_parameter

    def register_hollow(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and parameter.device.type != "meta":
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(module, name, parameter)

    nn.Module.register_parameter = register_hollow  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
