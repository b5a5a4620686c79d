"""How many parameters a decoder of a given shape has, by part, without building it.

Exact integer arithmetic over the axes of :mod:`tinylm.models.families`. ``config`` is any
`transformers` config of the family; its own sizes do not matter, only its settings (biases, series
terms). Without one the plain Llama block is meant.
"""

from collections import Counter
from functools import cache
from math import prod
from types import SimpleNamespace
from typing import Any

from tinylm.models.families import Family, axis_sizes, dimensions_of, family_of, has_weight
from tinylm.models.shape import Shape

LAYERS = "layers"  # the axis that counts layers
# part -> what the names of its weights hold; the first that fits
PARTS = {
    "embedding": "embed_tokens",
    "head": "lm_head",
    "norms": "norm",
    "shortcut": "shortcut",
    "series": "series",
    "attention": "self_attn",
    "ffn": "mlp",
}


def parameters_by_part(shape: Shape, config: Any = None) -> dict[str, int]:
    """Parameter counts {"embedding", "head", "attention", "ffn", "norms"}; a tied head counts 0.

    For the PanGu-pi block also {"shortcut", "series"}, with the series and bottleneck sizes of
    ``config``. The sum equals ``sum(p.numel() for p in model.parameters())`` of the `transformers`
    model to the last parameter.
    """
    parts = dict.fromkeys(("embedding", "head", "attention", "ffn", "norms"), 0)
    for part, _, size in _sized(shape, config):
        parts[part] = parts.get(part, 0) + size
    return parts


def parameters(shape: Shape, config: Any = None) -> int:
    """All parameters of the model; a tied embedding counts once."""
    return sum(size for _, _, size in _sized(shape, config))


def matrix_parameters(shape: Shape, config: Any = None) -> int:
    """Parameters in two-dimensional weights: the embedding, the head when untied, attention and FFN
    matrices."""
    return sum(size for _, is_matrix, size in _sized(shape, config) if is_matrix)


def vocabulary_share(shape: Shape, config: Any = None) -> float:
    """The part (0 to 1) of all parameters that embedding and head hold: what a compact vocabulary
    saves on."""
    parts = parameters_by_part(shape, config)
    return (parts["embedding"] + parts["head"]) / sum(parts.values())


def _sized(shape: Shape, config: Any) -> list[tuple[str, bool, int]]:
    """(part, whether these are matrices, how many parameters) of every kind of weight."""
    family = family_of(config)
    values = tuple(getattr(config, name, None) or 0 for name in _settings(family))
    sizes = axis_sizes(shape, config) | {LAYERS: shape.num_layers}
    return [
        (part, is_matrix, count * prod(sizes[axis] for axis in axes))
        for part, is_matrix, axes, count in _products(family, values)
        if part != "head" or not shape.tie_word_embeddings
    ]


@cache
def _settings(family: Family) -> list[str]:
    """The config's settings that decide which weights a model of ``family`` has."""
    entries = [entry.partition(" if ")[2].partition(">")[0] for entry in family.weights.values()]
    return list(dict.fromkeys(filter(None, entries)))


@cache  # a plan counts a hundred thousand shapes of one family
def _products(family: Family, values: tuple) -> list[tuple[str, bool, tuple[str, ...], int]]:
    """(part, whether a matrix, axes to multiply, how often), for ``values`` of the settings."""
    config = SimpleNamespace(**dict(zip(_settings(family), values, strict=True)))
    counts: Counter[tuple[str, bool, tuple[str, ...]]] = Counter()
    for name, entry in family.weights.items():
        if has_weight(entry, config):
            part = next(part for part, word in PARTS.items() if word in name)
            dimensions = dimensions_of(entry)
            products: list[tuple[str, ...]] = [(LAYERS,) if "*" in name else ()]
            for blocks in dimensions:
                products = [(*axes, block) for axes in products for block in blocks]
            counts.update((part, len(dimensions) == 2, axes) for axes in products)
    return [(*key, count) for key, count in counts.items()]
