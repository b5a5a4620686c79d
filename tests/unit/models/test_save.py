"""A written config.json says its rotary settings in the words of older programs too."""

import pytest
import torch
from builders import FAMILIES, byte_level_tokenizer, random_model
from transformers import AutoModelForCausalLM

from tinylm.artifact import read_json
from tinylm.models.save import add_old_keys, save_model, with_old_keys

LONG = {"short_factor": [1.1] * 8, "long_factor": [1.5] * 8}
# rope_parameters -> what transformers 4 called it
ROPE = [
    ({"rope_type": "default", "rope_theta": 5e5}, {"rope_theta": 5e5}),
    (
        {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0},
        {
            "rope_theta": 5e5,
            "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0},
        },
    ),
    (
        {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        {"rope_theta": 1e4, "partial_rotary_factor": 0.5},
    ),
    (
        {
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "original_max_position_embeddings": 64,
            **LONG,
        },
        {"rope_theta": 1e4, "rope_scaling": {"type": "longrope", **LONG}},
    ),
    (
        {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
        },
        {
            "rope_theta": 1e6,
            "rope_local_base_freq": 2e4,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
]


@pytest.mark.parametrize(("rope", "old"), ROPE)
def test_the_old_words(rope, old):
    assert with_old_keys({"rope_parameters": rope}) == {"rope_parameters": rope, **old}
    inside = with_old_keys({"text_config": {"rope_parameters": rope}})
    assert inside == {"text_config": {"rope_parameters": rope, **old}}


@pytest.mark.parametrize("settings", [{}, {"rope_parameters": None}, {"rope_theta": 3.0}])
def test_nothing_to_translate(settings):
    assert with_old_keys(settings) == settings


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
CASES = [(family, {}) for family in FAMILIES] + [
    ("llama", LLAMA3),
    ("phi3", {"rope_type": "longrope", "rope_theta": 1e4, **LONG}),
    ("gemma3_text", ROPE[-1][0]),
]


@pytest.mark.parametrize(("family", "rope"), CASES)
def test_transformers_itself_reads_the_same_model(family, rope, tmp_path):
    changes = {"rope_parameters": rope, "original_max_position_embeddings": 64} if rope else {}
    folder = random_model(tmp_path / "m", family, byte_level_tokenizer(), **changes)
    ids = torch.arange(100)[None]
    plain = AutoModelForCausalLM.from_pretrained(folder)
    add_old_keys(folder)
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(again(ids).logits, plain(ids).logits)
    save_model(again, tmp_path / "again")
    assert read_json(tmp_path / "again" / "config.json")["rope_theta"] > 0
