"""Shape arithmetic: what a decoder of given sizes holds, computes and remembers, without building
it.

Everything is exact integer arithmetic on a :class:`~tinylm.models.shape.Shape` plus the few facts
in which decoder families differ (``FAMILIES``). ``config`` is any `transformers` config of the
family; its own sizes do not matter, only its switches (biases, windows). Without one the plain
Llama block is meant.

Symbols: L layers, H hidden, F intermediate, A = heads x head_dim, K = key-value heads x head_dim, V
vocabulary.
"""

from dataclasses import dataclass
from typing import Any

from tinylm.errors import InputError
from tinylm.models.shape import Shape


@dataclass(frozen=True)
class Family:
    """How one decoder family differs from the plain Llama block, as far as sizes are concerned."""

    norms_per_layer: int = 2  # RMSNorm gains of width H
    # "": none, "head": one gain of head_dim each, "width": gains of A and K
    query_key_norm: str = ""
    always_qkv_bias: bool = False  # Qwen2: biases on q, k, v whatever the config says
    attention_bias: bool = False  # honours config.attention_bias (q, k, v and o)
    mlp_bias: bool = False  # honours config.mlp_bias (gate, up and down)
    pangu: bool = False  # series activation and augmented shortcut (models/pangu)
    # its config refuses to load unless H is a multiple of the head count
    divisible_width: bool = False


FAMILIES: dict[str, Family] = {
    "llama": Family(attention_bias=True, mlp_bias=True, divisible_width=True),
    "smollm3": Family(attention_bias=True, mlp_bias=True),
    "mistral": Family(),
    "qwen2": Family(always_qkv_bias=True),
    "qwen3": Family(query_key_norm="head", attention_bias=True),
    "gemma": Family(attention_bias=True),
    "gemma2": Family(norms_per_layer=4, attention_bias=True, divisible_width=True),
    "gemma3_text": Family(
        norms_per_layer=4, query_key_norm="head", attention_bias=True, divisible_width=True
    ),
    "phi3": Family(),
    "granite": Family(attention_bias=True, mlp_bias=True),
    "olmo2": Family(query_key_norm="width", attention_bias=True),
    "pangu_pi": Family(attention_bias=True, mlp_bias=True, pangu=True, divisible_width=True),
}


def family_of(config: Any = None) -> Family:
    """The family table row of a `transformers` config (None: Llama); an unknown family is an
    InputError."""
    if config is None:
        return FAMILIES["llama"]
    model_type = config.get_text_config().model_type
    if model_type not in FAMILIES:
        raise InputError(
            f"no shape arithmetic for model type {model_type!r}: known are {', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]


def parameters_by_part(shape: Shape, config: Any = None) -> dict[str, int]:
    """Parameter counts {"embedding", "head", "attention", "ffn", "norms"}; a tied head counts 0.

    For the PanGu-pi block also {"shortcut", "series"}, with the series and bottleneck sizes of
    ``config``. The sum equals ``sum(p.numel() for p in model.parameters())`` of the `transformers`
    model to the last parameter.
    """
    family = family_of(config)
    layers, hidden, width, kv_width = shape.num_layers, shape.hidden_size, *_attention_widths(shape)
    embedding = shape.vocab_size * hidden
    norms = family.norms_per_layer * hidden
    if family.query_key_norm == "head":
        norms += 2 * shape.head_dim
    elif family.query_key_norm == "width":
        norms += width + kv_width
    parts = {
        "embedding": embedding,
        "head": 0 if shape.tie_word_embeddings else embedding,
        "attention": layers * (_attention_matrix(shape) + _attention_biases(shape, family, config)),
        "ffn": layers * (3 * hidden * shape.intermediate_size + _ffn_biases(shape, family, config)),
        "norms": layers * norms + hidden,
    }
    if family.pangu:
        parts["shortcut"] = layers * 2 * hidden * config.shortcut_size
        parts["series"] = layers * 2 * config.series_terms * shape.intermediate_size
    return parts


def parameters(shape: Shape, config: Any = None) -> int:
    """All parameters of the model; a tied embedding counts once."""
    return sum(parameters_by_part(shape, config).values())


def vocabulary_share(shape: Shape, config: Any = None) -> float:
    """The part (0 to 1) of all parameters that embedding and head hold: what a compact vocabulary
    saves on."""
    parts = parameters_by_part(shape, config)
    return (parts["embedding"] + parts["head"]) / sum(parts.values())


def _attention_widths(shape: Shape) -> tuple[int, int]:
    return shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim


def _attention_matrix(shape: Shape) -> int:
    width, kv_width = _attention_widths(shape)
    return shape.hidden_size * (2 * width + 2 * kv_width)


def _attention_biases(shape: Shape, family: Family, config: Any) -> int:
    width, kv_width = _attention_widths(shape)
    if family.always_qkv_bias:
        return width + 2 * kv_width
    if family.attention_bias and getattr(config, "attention_bias", False):
        return width + 2 * kv_width + shape.hidden_size
    return 0


def _ffn_biases(shape: Shape, family: Family, config: Any) -> int:
    if family.mlp_bias and getattr(config, "mlp_bias", False):
        return 2 * shape.intermediate_size + shape.hidden_size
    return 0
