"""All shapes that come within 1 % of a parameter budget: from scratch, or cut from a teacher."""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import cache
from typing import Any

from tinylm.errors import InputError
from tinylm.models.block import config_for, kind_of
from tinylm.models.families import Family, family_of
from tinylm.models.parameters import parameters
from tinylm.models.shape import Shape

TOLERANCE = 0.01  # how far from the budget a candidate may be
# the largest that meets the budget; 32 is one block of Q8_0 and Q4_0
FFN_MULTIPLES = (256, 128, 64, 32)


def block_config(block: str, config: Any) -> Callable[[int], Any]:
    """hidden_size -> the config whose switches the arithmetic reads (a PanGu-pi shortcut grows with
    the width)."""
    if block == "plain":
        return lambda hidden: config
    kind_of(block, "plan: ")
    from transformers import LlamaConfig

    @cache
    def at(hidden: int) -> Any:
        base = copy(config) if config is not None else LlamaConfig()
        base.hidden_size = hidden
        # only the switches matter; any width divides by 1
        base.num_attention_heads = base.num_key_value_heads = 1
        return config_for(block, base)

    return at


def from_scratch(
    budget: float,
    vocab_size: int,
    depths: Sequence[int] | None,
    tied: bool | None,
    config_at: Callable[[int], Any],
) -> Iterator[Shape]:
    """Square attention (heads x head_dim = hidden), head_dim 128 from width 1024 on and 64 below,
    Llama block."""
    for layers in depths or range(4, 49):
        for hidden in _widths(16384):
            head_dim = 128 if hidden >= 1024 else 64
            heads = hidden // head_dim
            for per_group in (g for g in (1, 2, 3, 4) if heads % g == 0):
                for tie in (True, False) if tied is None else (tied,):
                    frame = (layers, hidden, heads, heads // per_group, head_dim, vocab_size, tie)
                    shape = _fit_ffn(frame, budget, largest=8 * hidden, config=config_at(hidden))
                    if shape.intermediate_size >= hidden:
                        yield shape


def from_teacher(
    budget: float,
    vocab_size: int,
    teacher: Shape,
    config: Any,
    depths: Sequence[int] | None,
    tied: bool | None,
    config_at: Callable[[int], Any],
) -> Iterator[Shape]:
    """All cuts of ``teacher`` that meet the budget."""
    if vocab_size > teacher.vocab_size:
        raise InputError(
            f"plan: vocabulary {vocab_size} is larger than the teacher's {teacher.vocab_size}"
        )
    for layers in depths or range(1, teacher.num_layers + 1):
        if layers > teacher.num_layers:
            raise InputError(
                f"plan: depth {layers} is more than the teacher's {teacher.num_layers} layers"
            )
        for hidden in {*_widths(teacher.hidden_size), teacher.hidden_size}:
            for heads, kv_heads in _head_cuts(teacher, hidden, family_of(config)):
                tie = teacher.tie_word_embeddings if tied is None else tied
                frame = (layers, hidden, heads, kv_heads, teacher.head_dim, vocab_size, tie)
                yield _fit_ffn(
                    frame, budget, largest=teacher.intermediate_size, config=config_at(hidden)
                )


def _widths(largest: int) -> Iterator[int]:
    """Hidden sizes that matrix units like: multiples of 64 below 1024, of 128 below 4096, of 256
    above."""
    width = 64
    while width <= largest:
        yield width
        width += 64 if width < 1024 else 128 if width < 4096 else 256


def _head_cuts(teacher: Shape, hidden: int, family: Family) -> Iterator[tuple[int, int]]:
    """(query heads, key-value heads): groups are dropped whole, and every group loses equally many
    query heads."""
    for kv_heads in range(1, teacher.num_key_value_heads + 1):
        for per_group in range(1, teacher.heads_per_group + 1):
            heads = kv_heads * per_group
            if hidden % heads == 0 or not family.divisible_width:
                yield heads, kv_heads


def _fit_ffn(frame: tuple, budget: float, largest: int, config: Any) -> Shape:
    """The rest of the shape (``frame``) with the FFN size that comes closest to the budget.

    Of the sizes within 1 % of the budget the one that is a multiple of the largest power of two.
    """
    layers, hidden, heads, kv_heads, head_dim, vocab_size, tie = frame

    def shape(intermediate: int) -> Shape:
        return Shape(layers, hidden, intermediate, heads, kv_heads, head_dim, vocab_size, tie)

    without_ffn = parameters(shape(1), config)
    per_neuron = parameters(shape(2), config) - without_ffn
    wanted = (budget - without_ffn) / per_neuron + 1
    for multiple in FFN_MULTIPLES:
        intermediate = max(min(round(wanted / multiple) * multiple, largest), min(32, largest))
        if abs((intermediate - wanted) * per_neuron) <= TOLERANCE * budget:
            break
    return shape(intermediate)
