"""What llama.cpp must be told about a model: its settings and its weight layout.

llama.cpp has a fixed graph per family (``Llamacpp`` in the table of families). Whatever a
`transformers` config can say beyond that graph must be folded into the weights or refused here,
because llama.cpp would load it silently and compute something else.
"""

import math
from collections.abc import Iterable
from typing import Any

import gguf
import numpy as np

from tinylm.errors import InputError
from tinylm.models.families import FAMILIES, Llamacpp


def graph_of(config: Any) -> Llamacpp:
    """llama.cpp's graph for a `transformers` config. InputError where it cannot express the
    config."""
    graphs = {name: family.llamacpp for name, family in FAMILIES.items() if family.llamacpp}
    graph = graphs.get(config.model_type)
    if graph is None:
        raise InputError(
            f"model type {config.model_type!r} cannot be exported to GGUF; these can:"
            f" {', '.join(graphs)}"
        )
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    if activation not in graph.activations:
        raise _refuse(
            config, f"the activation {activation!r} (it always uses {graph.activations[0]!r})"
        )
    if getattr(config, "tie_word_embeddings", True) is False and graph.always_tied:
        raise _refuse(config, "an output matrix of its own (it always ties it to the embedding)")
    heads = config.num_attention_heads
    if graph.square_attention and _head_dim(config) * heads != config.hidden_size:
        raise _refuse(
            config,
            f"{heads} heads of {_head_dim(config)} in a width of {config.hidden_size}: they must"
            " fill it",
        )
    if graph.interleaved_rope and _rope_dimensions(config) != _head_dim(config):
        raise _refuse(config, "rope on a part of each head")
    if every := graph.no_rope_every:
        expected = [int((layer + 1) % every != 0) for layer in range(config.num_hidden_layers)]
        if [int(flag) for flag in config.no_rope_layers] != expected:
            raise _refuse(config, f"its layers without rope: only every {every}th may lack it")
    return graph


def settings(config: Any, graph: Llamacpp) -> dict[str, Any]:
    """GGUF metadata of the graph, by key without the architecture's prefix
    (``attention.head_count`` ...)."""
    heads = config.num_attention_heads
    values: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": heads,
        "attention.head_count_kv": getattr(config, "num_key_value_heads", None) or heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "attention.key_length": _head_dim(config),
        "attention.value_length": _head_dim(config),
        "rope.dimension_count": _rope_dimensions(config),
    }
    values |= _rope_settings(config) | _window_settings(config, graph)
    values |= {key: float(getattr(config, name)) for name, key in (graph.scales or {}).items()}
    if graph.caps_logits:
        # llama.cpp always caps; a cap this high changes no logit that a float32 can tell apart
        values["attn_logit_softcapping"] = float(config.attn_logit_softcapping or 1e6)
        values["final_logit_softcapping"] = float(config.final_logit_softcapping or 1e6)
    elif getattr(config, "final_logit_softcapping", None) or getattr(
        config, "attn_logit_softcapping", None
    ):
        raise _refuse(config, "capped logits")
    return values


def rope_tensors(config: Any, graph: Llamacpp) -> dict[str, np.ndarray]:
    """Tensors float32[rope dimensions / 2] that stretch rope's wavelengths; empty for plain
    rope."""
    rope = _rope(config)
    if rope["rope_type"] == "longrope":
        return {
            "rope_factors_long.weight": np.array(rope["long_factor"], dtype=np.float32),
            "rope_factors_short.weight": np.array(rope["short_factor"], dtype=np.float32),
        }
    if rope["rope_type"] != "llama3":
        return {}
    if not graph.reads_rope_freqs:
        raise _refuse(config, "Llama 3's rope scaling")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    size = _rope_dimensions(config)
    plain = rope["rope_theta"] ** -(np.arange(0, size, 2, dtype=np.float64) / size)
    return {"rope_freqs.weight": (plain / scaled.double().numpy()).astype(np.float32)}


def to_llamacpp(name: str, weight: np.ndarray, config: Any, graph: Llamacpp) -> np.ndarray:
    """The `transformers` parameter ``name`` (float32) as llama.cpp's graph wants it."""
    if name.endswith("norm.weight"):
        weight = weight + np.float32(FAMILIES[config.model_type].gain_offset)
    if graph.interleaved_rope:
        if ".q_proj." in name:
            weight = _interleave(weight, config.num_attention_heads)
        elif ".k_proj." in name:
            weight = _interleave(
                weight, getattr(config, "num_key_value_heads", None) or config.num_attention_heads
            )
    if graph.query_scale_in and name.endswith(graph.query_scale_in):
        weight = weight * np.float32(_query_scale(config, graph))
    return weight


def hf_names(config: Any, names: Iterable[str], graph: Llamacpp) -> dict[str, str]:
    """GGUF tensor name -> `transformers` parameter name. InputError for a parameter llama.cpp has
    no place for."""
    number = next(n for n, name in gguf.MODEL_ARCH_NAMES.items() if name == graph.architecture)
    table = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    found: dict[str, str] = {}
    for name in names:
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        # old checkpoints store it; it follows from the config
        if name.endswith("rotary_emb.inv_freq"):
            continue
        gguf_name = table.get_name(name, try_suffixes=(".weight", ".bias"))
        if gguf_name is None or (name.endswith(".bias") and not graph.biases):
            raise InputError(f"llama.cpp's {graph.architecture} has no place for the tensor {name}")
        found[gguf_name] = name
    if graph.always_untied and "output.weight" not in found:
        found["output.weight"] = "model.embed_tokens.weight"
    return found


def _rope(config: Any) -> dict[str, Any]:
    """The rope parameters of the full-attention layers."""
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    return {"rope_type": "default", **rope}


def _rope_settings(config: Any) -> dict[str, Any]:
    rope = _rope(config)
    kind = rope["rope_type"]
    values: dict[str, Any] = {"rope.freq_base": float(rope["rope_theta"])}
    if kind == "linear":
        values |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    elif kind == "yarn":
        unusual = {
            "beta_fast": 32,
            "beta_slow": 1,
            "attention_factor": None,
            "mscale": None,
            "truncate": True,
        }
        for key, default in unusual.items():
            if rope.get(key, default) not in (default, None):
                raise _refuse(config, f"yarn with {key} = {rope[key]}")
        original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        values |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": float(rope["factor"]),
            "rope.scaling.original_context_length": int(original),
        }
    elif kind == "longrope":
        original = (
            rope.get("original_max_position_embeddings") or config.original_max_position_embeddings
        )
        stretch = config.max_position_embeddings / original
        factor = rope.get("attention_factor") or math.sqrt(
            1 + math.log(stretch) / math.log(original)
        )
        values |= {
            "rope.scaling.type": "longrope",
            "rope.scaling.original_context_length": int(original),
            "rope.scaling.attn_factor": float(factor if stretch > 1 else 1.0),
        }
    elif kind not in ("default", "llama3"):
        raise _refuse(config, f"rope scaling of type {kind!r}")
    return values


def _window_settings(config: Any, graph: Llamacpp) -> dict[str, Any]:
    """Sliding windows. Where llama.cpp's graph has none, the promised context ends where the window
    would begin."""
    window = getattr(config, "sliding_window", None)
    layer_types = getattr(config, "layer_types", None) or []
    if graph.windows == "by-layer":
        values: dict[str, Any] = {
            "attention.sliding_window": int(window or config.max_position_embeddings),
            "attention.sliding_window_pattern": [
                kind == "sliding_attention" for kind in layer_types
            ],
        }
        sliding = config.rope_parameters.get("sliding_attention", config.rope_parameters)
        values["rope.freq_base_swa"] = float(sliding["rope_theta"])
        return values
    if window and (graph.windows == "all" or "sliding_attention" in layer_types):
        return {"context_length": min(int(window), config.max_position_embeddings)}
    return {}


def _query_scale(config: Any, graph: Llamacpp) -> float:
    """transformers' scale of the queries over llama.cpp's: folded into the weights, 1.0 for the
    published models."""
    is_27b = config.num_hidden_layers == graph.layers_27b
    theirs = config.hidden_size // config.num_attention_heads if is_27b else _head_dim(config)
    return math.sqrt(theirs / config.query_pre_attn_scalar)


def _interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from halves (x..., y...) to pairs (x0, y0, x1, y1, ...)."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def _head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _rope_dimensions(config: Any) -> int:
    return int(_head_dim(config) * (_rope(config).get("partial_rotary_factor") or 1.0))


def _refuse(config: Any, what: str) -> InputError:
    return InputError(
        f"llama.cpp's graph for {config.model_type!r} cannot express {what}; keep the"
        " `transformers` directory"
    )
