"""Named axes of every weight, one table per family.

A table maps a parameter's name to the axes of its dimensions, e.g. ``self_attn.q_proj.weight:
"q_heads hidden"``. A dimension made of several blocks names them in order (Phi-3's fused matrix:
``q_heads+kv_heads+kv_heads``). Scoring, cutting, counting parameters and checking shapes all read
these tables; a new family is a new table, not new code.

The head axes are counted in rows: a head is ``head_dim`` neighbouring rows, and heads are never cut
inside.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tinylm.errors import InputError
from tinylm.models.shape import Shape

VOCAB, HIDDEN, FFN, Q_HEADS, KV_HEADS, HEAD_DIM = (
    "vocab",
    "hidden",
    "ffn",
    "q_heads",
    "kv_heads",
    "head_dim",
)
SHORTCUT = "shortcut"  # width of the PanGu-pi bottleneck
NEVER_CUT = (HEAD_DIM, SHORTCUT)

Dimension = tuple[str, ...]  # the blocks one dimension is made of, in order


@dataclass(frozen=True)
class Family:
    """What a cut must know about one model family."""

    # name inside the model ("*" for the layer's number) -> axes of its dimensions
    weights: Mapping[str, str]
    gain_offset: float = 0.0  # a norm multiplies by offset + weight (Gemma: 1 + weight)
    scales_embedding: bool = False  # the embedding is multiplied by sqrt(hidden_size)
    output_norms: bool = False  # a norm stands between o_proj / down_proj and the residual stream

    def axes(self, name: str) -> tuple[Dimension, ...] | None:
        """The dimensions of the parameter ``name``, or None when the table does not know it."""
        entry = self.weights.get(_LAYER.sub(r"\1*", name))
        return tuple(tuple(dimension.split("+")) for dimension in entry.split()) if entry else None


_LAYER = re.compile(r"^(model\.layers\.)(\d+)(?=\.)")


def layer_of(name: str) -> int | None:
    """The layer a parameter belongs to; None for embeddings, the last norm and the head."""
    match = _LAYER.match(name)
    return int(match[2]) if match else None


def in_layer(name: str, layer: int) -> str:
    """``name`` moved to another layer."""
    return _LAYER.sub(rf"\g<1>{layer}", name)


def _table(outside: Mapping[str, str], inside: Mapping[str, str]) -> dict[str, str]:
    return {**outside, **{f"model.layers.*.{name}": axes for name, axes in inside.items()}}


_OUTSIDE = {
    "model.embed_tokens.weight": "vocab hidden",
    "model.norm.weight": "hidden",
    "lm_head.weight": "vocab hidden",
}
_ATTENTION = {
    "self_attn.q_proj.weight": "q_heads hidden",
    "self_attn.k_proj.weight": "kv_heads hidden",
    "self_attn.v_proj.weight": "kv_heads hidden",
    "self_attn.o_proj.weight": "hidden q_heads",
}
_ATTENTION_BIAS = {
    "self_attn.q_proj.bias": "q_heads",
    "self_attn.k_proj.bias": "kv_heads",
    "self_attn.v_proj.bias": "kv_heads",
    "self_attn.o_proj.bias": "hidden",
}
_MLP = {
    "mlp.gate_proj.weight": "ffn hidden",
    "mlp.up_proj.weight": "ffn hidden",
    "mlp.down_proj.weight": "hidden ffn",
}
_MLP_BIAS = {"mlp.gate_proj.bias": "ffn", "mlp.up_proj.bias": "ffn", "mlp.down_proj.bias": "hidden"}
_INPUT_NORMS = {"input_layernorm.weight": "hidden", "post_attention_layernorm.weight": "hidden"}
_OUTPUT_NORMS = {
    "pre_feedforward_layernorm.weight": "hidden",
    "post_feedforward_layernorm.weight": "hidden",
}
_HEAD_NORMS = {"self_attn.q_norm.weight": "head_dim", "self_attn.k_norm.weight": "head_dim"}
_WIDE_HEAD_NORMS = {"self_attn.q_norm.weight": "q_heads", "self_attn.k_norm.weight": "kv_heads"}
_FUSED = {
    "self_attn.qkv_proj.weight": "q_heads+kv_heads+kv_heads hidden",
    "self_attn.o_proj.weight": "hidden q_heads",
    "mlp.gate_up_proj.weight": "ffn+ffn hidden",
    "mlp.down_proj.weight": "hidden ffn",
}

_PANGU = {
    "self_attn.shortcut.down.weight": "shortcut hidden",
    "self_attn.shortcut.up.weight": "hidden shortcut",
    **{f"mlp.series.{term}.{name}": "ffn" for term in range(8) for name in ("scale", "shift")},
}

_LLAMA = Family(_table(_OUTSIDE, _ATTENTION | _ATTENTION_BIAS | _MLP | _MLP_BIAS | _INPUT_NORMS))
_PANGU_PI = Family(
    _table(_OUTSIDE, _ATTENTION | _ATTENTION_BIAS | _MLP | _MLP_BIAS | _INPUT_NORMS | _PANGU)
)
_QWEN3 = Family(_table(_OUTSIDE, _ATTENTION | _ATTENTION_BIAS | _MLP | _INPUT_NORMS | _HEAD_NORMS))
_GEMMA = Family(
    _table(_OUTSIDE, _ATTENTION | _ATTENTION_BIAS | _MLP | _INPUT_NORMS),
    gain_offset=1.0,
    scales_embedding=True,
)
_GEMMA2 = Family(
    _table(_OUTSIDE, _ATTENTION | _ATTENTION_BIAS | _MLP | _INPUT_NORMS | _OUTPUT_NORMS),
    gain_offset=1.0,
    scales_embedding=True,
    output_norms=True,
)
_GEMMA3 = Family(
    _table(
        _OUTSIDE, _ATTENTION | _ATTENTION_BIAS | _MLP | _INPUT_NORMS | _OUTPUT_NORMS | _HEAD_NORMS
    ),
    gain_offset=1.0,
    scales_embedding=True,
    output_norms=True,
)
_PHI3 = Family(_table(_OUTSIDE, _FUSED | _INPUT_NORMS))
_OLMO2 = Family(
    _table(
        _OUTSIDE,
        _ATTENTION
        | _ATTENTION_BIAS
        | _MLP
        | _WIDE_HEAD_NORMS
        | {
            "post_attention_layernorm.weight": "hidden",
            "post_feedforward_layernorm.weight": "hidden",
        },
    ),
    output_norms=True,
)

FAMILIES: dict[str, Family] = {  # by the config's model_type
    "llama": _LLAMA,  # Llama 2 and 3, SmolLM2, TinyLlama, Yi
    "mistral": _LLAMA,
    "smollm3": _LLAMA,
    "granite": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _QWEN3,
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA3,
    "phi3": _PHI3,
    "olmo2": _OLMO2,
    "pangu_pi": _PANGU_PI,
}


def family_of(config: Any) -> Family:
    """The table of a `transformers` config. InputError for a family without one."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise InputError(
            f"model type {config.model_type!r} has no table of axes; tinylm knows"
            f" {', '.join(FAMILIES)}"
        )
    return family


def norms_go_over_heads(config: Any) -> bool:
    """Whether q_norm and k_norm take all heads of a layer together (OLMo 2), so that a cut of heads
    changes them."""
    dimensions = family_of(config).axes("model.layers.0.self_attn.q_norm.weight")
    return dimensions is not None and Q_HEADS in dimensions[0]


def axis_sizes(shape: Shape, config: Any = None) -> dict[str, int]:
    """Rows of each axis at ``shape``; ``config`` gives what no shape has."""
    return {
        VOCAB: shape.vocab_size,
        HIDDEN: shape.hidden_size,
        FFN: shape.intermediate_size,
        Q_HEADS: shape.num_attention_heads * shape.head_dim,
        KV_HEADS: shape.num_key_value_heads * shape.head_dim,
        HEAD_DIM: shape.head_dim,
        SHORTCUT: getattr(config, "shortcut_size", 0) or 0,
    }


def expected_size(dimensions: Iterable[Dimension], shape: Shape, config: Any) -> tuple[int, ...]:
    """The tensor size that a parameter with these axes has at ``shape``."""
    sizes = axis_sizes(shape, config)
    return tuple(sum(sizes[block] for block in dimension) for dimension in dimensions)


def check_weights(sizes: Mapping[str, tuple[int, ...]], config: Any) -> None:
    """Every parameter (name -> tensor size) must be in the family's table with the size the config
    gives it.

    Raises InputError naming the parameters that no table explains, or the first one of another
    size.
    """
    family = FAMILIES.get(config.model_type)
    tables = [family] if family else list(FAMILIES.values())
    unknown = [name for name in sizes if not any(table.axes(name) for table in tables)]
    if family is None or unknown:
        found = list(dict.fromkeys(re.sub(r"\.\d+(?=\.)", ".*", name) for name in unknown))
        found = found or ["none, the names are known"]
        names = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
        raise InputError(
            f"model type {config.model_type!r}: parameters that no table explains: {names}; "
            "add the family to tinylm/models/families.py"
        )
    shape = Shape.from_config(config)
    for name, size in sizes.items():
        expected = expected_size(family.axes(name) or (), shape, config)
        if tuple(size) != expected:
            raise InputError(
                f"{name} is {tuple(size)} but the config says {expected}: the checkpoint is damaged"
            )
