"""Every model family in one table: the axes of its weights, its switches, and what llama.cpp does.

A family's ``weights`` map a parameter's name to the axes of its dimensions, e.g.
``self_attn.q_proj.weight: "q_heads hidden"``. A dimension made of several blocks names them in
order (Phi-3's fused matrix: ``q_heads+kv_heads+kv_heads``), and ``if`` names the setting of the
config without which the weight is not there. Scoring, cutting, counting, checking shapes and the
GGUF export all read this table; a new family is a new entry, not new code.

The head axes are counted in rows: a head is ``head_dim`` neighbouring rows, and heads are never cut
inside.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
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
class Llamacpp:
    """How llama.cpp runs a family: the graph it has for it, and what that graph takes for
    granted."""

    architecture: str  # the graph's name
    # rotates neighbouring pairs (2i, 2i+1), not halves (i, i + head_dim/2)
    interleaved_rope: bool = False
    activations: tuple[str, ...] = ("silu",)  # config names of the one it computes
    square_attention: bool = False  # heads x head_dim = hidden_size
    biases: bool = False  # reads bias vectors of attention and MLP
    reads_rope_freqs: bool = False  # the tensor rope_freqs.weight (Llama 3's scaling)
    no_rope_every: int = 0  # layers n, 2n, 3n, ... go without rope
    windows: str = ""  # "by-layer": sliding and full layers by a pattern; "all": every layer slides
    caps_logits: bool = False
    scales: Mapping[str, str] | None = None  # config field -> GGUF key of a multiplier
    always_tied: bool = False
    always_untied: bool = False
    # Models of so many layers (27B parameters) scale queries by hidden_size / heads, others by
    # head_dim; the difference goes into the weight named beside it.
    layers_27b: int = 0
    query_scale_in: str = ""


@dataclass(frozen=True, eq=False)
class Family:
    """What a cut, a count and an export must know about one model family."""

    # name inside the model ("*" for the layer's number) -> axes of its dimensions
    weights: dict[str, str]
    llamacpp: Llamacpp | None = None  # None: llama.cpp does not run it
    gain_offset: float = 0.0  # a norm multiplies by offset + weight (Gemma: 1 + weight)
    scales_embedding: bool = False  # the embedding is multiplied by sqrt(hidden_size)
    output_norms: bool = False  # a norm stands between o_proj / down_proj and the residual stream
    # its config refuses to load unless hidden_size is a multiple of the head count
    divisible_width: bool = False

    def axes(self, name: str) -> tuple[Dimension, ...] | None:
        """The dimensions of the parameter ``name``, or None when the table does not know it."""
        entry = self.weights.get(_LAYER.sub(r"\1*", name))
        return dimensions_of(entry) if entry else None


def dimensions_of(entry: str) -> tuple[Dimension, ...]:
    """The dimensions that a table entry names."""
    axes, _, _ = entry.partition(" if ")
    return tuple(tuple(dimension.split("+")) for dimension in axes.split())


def has_weight(entry: str, config: Any) -> bool:
    """Whether a model of ``config`` has the weight of this table entry."""
    _, _, setting = entry.partition(" if ")
    name, _, floor = setting.partition(">")
    return not name or int(getattr(config, name, None) or 0) > int(floor or 0)


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
_QKV_BIAS = {
    "self_attn.q_proj.bias": "q_heads",
    "self_attn.k_proj.bias": "kv_heads",
    "self_attn.v_proj.bias": "kv_heads",
}
_ATTENTION_BIAS = {
    "self_attn.q_proj.bias": "q_heads if attention_bias",
    "self_attn.k_proj.bias": "kv_heads if attention_bias",
    "self_attn.v_proj.bias": "kv_heads if attention_bias",
    "self_attn.o_proj.bias": "hidden if attention_bias",
}
_MLP = {
    "mlp.gate_proj.weight": "ffn hidden",
    "mlp.up_proj.weight": "ffn hidden",
    "mlp.down_proj.weight": "hidden ffn",
}
_MLP_BIAS = {
    "mlp.gate_proj.bias": "ffn if mlp_bias",
    "mlp.up_proj.bias": "ffn if mlp_bias",
    "mlp.down_proj.bias": "hidden if mlp_bias",
}
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
    **{
        f"mlp.series.{term}.{name}": f"ffn if series_terms>{term}"
        for term in range(8)
        for name in ("scale", "shift")
    },
}

_BIASED = _ATTENTION | _ATTENTION_BIAS | _MLP | _MLP_BIAS | _INPUT_NORMS
_LLAMA = Family(
    _table(_OUTSIDE, _BIASED),
    Llamacpp("llama", interleaved_rope=True, biases=True, reads_rope_freqs=True),
    divisible_width=True,
)
_GEMMA = Family(
    _table(_OUTSIDE, _ATTENTION | _ATTENTION_BIAS | _MLP | _INPUT_NORMS),
    Llamacpp("gemma", activations=("gelu_pytorch_tanh", "gelu"), always_tied=True),
    gain_offset=1.0,
    scales_embedding=True,
)
_GEMMA2 = replace(
    _GEMMA,
    weights=_table(_OUTSIDE, _ATTENTION | _ATTENTION_BIAS | _MLP | _INPUT_NORMS | _OUTPUT_NORMS),
    llamacpp=Llamacpp(
        "gemma2",
        activations=("gelu_pytorch_tanh",),
        windows="by-layer",
        caps_logits=True,
        always_tied=True,
        layers_27b=46,
        query_scale_in="self_attn.q_proj.weight",
    ),
    output_norms=True,
    divisible_width=True,
)

FAMILIES: dict[str, Family] = {  # by the config's model_type
    "llama": _LLAMA,  # Llama 2 and 3, SmolLM2, TinyLlama, Yi
    "mistral": Family(
        _table(_OUTSIDE, _ATTENTION | _MLP | _INPUT_NORMS),
        Llamacpp("llama", interleaved_rope=True, reads_rope_freqs=True, windows="all"),
    ),
    "smollm3": Family(_LLAMA.weights, Llamacpp("smollm3", interleaved_rope=True, no_rope_every=4)),
    "granite": Family(
        _LLAMA.weights,
        Llamacpp(
            "granite",
            interleaved_rope=True,
            biases=True,
            reads_rope_freqs=True,
            scales={
                "embedding_multiplier": "embedding_scale",
                "residual_multiplier": "residual_scale",
                "attention_multiplier": "attention.scale",
                "logits_scaling": "logit_scale",
            },
        ),
    ),
    "qwen2": Family(
        _table(_OUTSIDE, _ATTENTION | _QKV_BIAS | _MLP | _INPUT_NORMS),
        Llamacpp("qwen2", biases=True),
    ),
    "qwen3": Family(
        _table(_OUTSIDE, _ATTENTION | _ATTENTION_BIAS | _MLP | _INPUT_NORMS | _HEAD_NORMS),
        Llamacpp("qwen3"),
    ),
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3_text": replace(
        _GEMMA2,
        weights=_GEMMA2.weights | _table({}, _HEAD_NORMS),
        llamacpp=Llamacpp(
            "gemma3",
            activations=("gelu_pytorch_tanh",),
            windows="by-layer",
            always_tied=True,
            layers_27b=62,
            # a norm undoes any scale of the projection before it, so its gain carries it
            query_scale_in="self_attn.q_norm.weight",
        ),
    ),
    "phi3": Family(
        _table(_OUTSIDE, _FUSED | _INPUT_NORMS),
        Llamacpp("phi3", square_attention=True, windows="all"),
    ),
    "olmo2": Family(
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
        Llamacpp("olmo2", square_attention=True, always_untied=True),
        output_norms=True,
    ),
    "pangu_pi": Family(_table(_OUTSIDE, _BIASED | _PANGU), divisible_width=True),
}


def family_of(config: Any = None) -> Family:
    """The entry of a `transformers` config (None: Llama). InputError for a family without one."""
    model_type = "llama" if config is None else config.get_text_config().model_type
    if model_type not in FAMILIES:
        raise InputError(
            f"model type {model_type!r} is not in the table of families; tinylm knows"
            f" {', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]


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
        if not found:  # its names are another family's: nothing to add is known, so say what is
            family_of(config)
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
