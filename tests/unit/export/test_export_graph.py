"""What llama.cpp's fixed graphs cannot say is refused; what differs only in layout is moved without
loss."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from tinylm.errors import InputError
from tinylm.export import graph


def config(model_type="llama", **changes):
    sizes = {
        "vocab_size": 100,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return AutoConfig.for_model(model_type, **sizes | changes)


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("gpt2", {}, "'gpt2' cannot be exported to GGUF; these can: llama, mistral"),
        ("llama", {"hidden_act": "relu"}, "activation 'relu'"),
        ("gemma2", {"tie_word_embeddings": False}, "output matrix of its own"),
        ("olmo2", {"hidden_size": 64, "head_dim": 32}, "they must fill it"),
        ("smollm3", {"no_rope_layers": [1, 0, 1, 1]}, "without rope"),
    ],
)
def test_refused(model_type, changes, message):
    with pytest.raises(InputError, match=message):
        graph.graph_of(config(model_type, **changes))


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        (
            {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
            "rope scaling of type 'dynamic'",
        ),
        (
            {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4, "beta_fast": 16.0},
            "yarn with beta_fast",
        ),
    ],
)
def test_rope_it_cannot_express_is_refused(rope, message):
    llama = config(rope_parameters=rope)
    with pytest.raises(InputError, match=message):
        graph.settings(llama, graph.graph_of(llama))


def test_a_bias_without_a_place_is_refused():
    gemma = config("gemma", head_dim=16)
    with pytest.raises(InputError, match=r"no place for the tensor .*q_proj\.bias"):
        graph.hf_names(gemma, ["model.layers.0.self_attn.q_proj.bias"], graph.graph_of(gemma))


def test_the_context_ends_where_a_window_that_llamacpp_lacks_would_begin():
    mistral = config("mistral", sliding_window=128, max_position_embeddings=4096)
    assert graph.settings(mistral, graph.graph_of(mistral))["context_length"] == 128


def test_gemma3_keeps_its_windows_layer_by_layer():
    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    gemma = config("gemma3_text", layer_types=kinds, sliding_window=32, head_dim=16)
    values = graph.settings(gemma, graph.graph_of(gemma))
    assert values["attention.sliding_window_pattern"] == [False, True, True, False]
    assert values["rope.freq_base"] == 1e6 and values["rope.freq_base_swa"] == 1e4


def test_interleaved_rows_rotate_to_the_same_scores():
    """Rope on halves of (q, k) and rope on pairs of the reordered (q, k) give the same q.k at any
    distance."""
    llama = config(head_dim=16)
    family = graph.graph_of(llama)
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(64, 1)).astype(np.float32), rng.normal(size=(32, 1)).astype(np.float32)
    moved_q = graph.to_llamacpp("model.layers.0.self_attn.q_proj.weight", q, llama, family)
    moved_k = graph.to_llamacpp("model.layers.0.self_attn.k_proj.weight", k, llama, family)
    angles = 5 * 10000.0 ** -(np.arange(8) / 8)

    def halves(vector):  # transformers
        x, y = vector[:8], vector[8:]
        return np.concatenate(
            [x * np.cos(angles) - y * np.sin(angles), x * np.sin(angles) + y * np.cos(angles)]
        )

    def pairs(vector):  # llama.cpp
        x, y = vector[0::2], vector[1::2]
        return np.stack(
            [x * np.cos(angles) - y * np.sin(angles), x * np.sin(angles) + y * np.cos(angles)], 1
        ).ravel()

    for head in range(4):
        ours = (
            halves(q[16 * head : 16 * head + 16, 0])
            @ k[16 * (head // 2) : 16 * (head // 2) + 16, 0]
        )
        theirs = (
            pairs(moved_q[16 * head : 16 * head + 16, 0])
            @ moved_k[16 * (head // 2) : 16 * (head // 2) + 16, 0]
        )
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_llama3_rope_factors_reproduce_the_scaled_frequencies():
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    llama = config(rope_parameters=rope, head_dim=16)
    factors = graph.rope_tensors(llama, graph.graph_of(llama))["rope_freqs.weight"]
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](llama, "cpu")
    plain = 10000.0 ** -(torch.arange(0, 16, 2) / 16)
    assert np.allclose(plain.numpy() / factors, scaled.numpy(), rtol=1e-5)
    assert factors.min() == pytest.approx(1.0) and factors.max() == pytest.approx(8.0)
