"""The blocks that a student's decoder layers may have: the plain one of its family, or PanGu-pi's.

``config_for`` and ``apply`` are what other rooms build a model with; a new block is a new entry.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tinylm.errors import InputError


@dataclass(frozen=True)
class BlockKind:
    """How a plain model gets a block."""

    config_for: Callable[[Any], Any]  # a plain `transformers` config -> the same with the block
    apply: Callable[[Any, int], Any]  # (plain model, seed) -> with the block grafted on
    model_type: str = ""  # of its configs; "": its family's own
    facts: tuple[str, ...] = ()  # settings of its config that a plan names
    module: str = ""  # makes `transformers` know the model type


def _pangu_config(config: Any) -> Any:
    from tinylm.models.pangu import pangu_config

    return pangu_config(config)


def _pangu_model(model: Any, seed: int) -> Any:
    from tinylm.models.pangu import from_llama

    return from_llama(model, seed=seed)


BLOCKS: dict[str, BlockKind] = {
    "plain": BlockKind(lambda config: config, lambda model, seed: model),
    # series activation and augmented shortcuts, for a Llama student; it then brings its own code
    "pangu-pi": BlockKind(
        _pangu_config,
        _pangu_model,
        "pangu_pi",
        ("shortcut_size", "series_terms"),
        "tinylm.models.pangu",
    ),
}
if TYPE_CHECKING:
    Block = str
else:
    Block = Literal[tuple(BLOCKS)]


def kind_of(block: str, where: str = "") -> BlockKind:
    """The entry of a block's name. InputError, beginning with ``where``, for a name of none."""
    if block not in BLOCKS:
        raise InputError(f"{where}block = {block!r} is unknown: {' or '.join(BLOCKS)}")
    return BLOCKS[block]


def config_for(block: str, config: Any) -> Any:
    """``config`` with the block. InputError where the block does not fit the family."""
    return kind_of(block).config_for(config)


def apply(block: str, model: Any, seed: int = 0) -> Any:
    """``model`` with the block grafted on: same weights, same logits; ``seed`` is of what is
    new."""
    return kind_of(block).apply(model, seed)


def block_of(config: Any) -> str:
    """The block of a `transformers` config; None is a plain one."""
    model_type = getattr(config, "model_type", "")
    return next((name for name, kind in BLOCKS.items() if kind.model_type == model_type), "plain")


def facts(config: Any) -> dict[str, Any]:
    """What a plan says of the block of ``config``: {"block", and its settings}."""
    block = block_of(config)
    return {"block": block} | {name: getattr(config, name) for name in BLOCKS[block].facts}


def register(model_type: str | None) -> bool:
    """Make `transformers` know the model type of a block of ours; False for any other type."""
    found = [kind.module for kind in BLOCKS.values() if kind.model_type == (model_type or None)]
    for module in found:
        importlib.import_module(module)
    return bool(found)
