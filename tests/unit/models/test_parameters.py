"""Counts by our formulas equal those of the `transformers` model, for every family, to the last
parameter."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tinylm.errors import InputError
from tinylm.models.families import FAMILIES, family_of
from tinylm.models.pangu import PanguPiConfig
from tinylm.models.parameters import (
    parameters,
    parameters_by_part,
    vocabulary_share,
)
from tinylm.models.shape import Shape

# importing it also registers it with AutoModelForCausalLM
assert PanguPiConfig.model_type in FAMILIES


@st.composite
def shapes(draw) -> Shape:
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * draw(st.integers(1, 3))
    return Shape(
        num_layers=draw(st.integers(1, 3)),
        hidden_size=heads * draw(st.integers(2, 12)) * 2,
        intermediate_size=draw(st.integers(1, 200)),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=2 * draw(st.integers(1, 16)),
        vocab_size=draw(st.integers(2, 300)),
        tie_word_embeddings=draw(st.booleans()),
    )


def meta_model(family: str, shape: Shape, bias: bool):
    entries = " ".join(FAMILIES[family].weights.values())
    switches = {name: bias for name in ("attention_bias", "mlp_bias") if name in entries}
    config = shape.to_config(CONFIG_MAPPING[family](**switches))
    config.pad_token_id = 0
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config), config


def part_of(name: str) -> str:
    if "embed_tokens" in name or "lm_head" in name:
        return "head" if "lm_head" in name else "embedding"
    if "norm" in name:
        return "norms"
    if "shortcut" in name or "series" in name:
        return "shortcut" if "shortcut" in name else "series"
    return "ffn" if ".mlp." in name else "attention"


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=12, deadline=None)
@given(shape=shapes(), bias=st.booleans())
def test_every_part_equals_transformers(family: str, shape: Shape, bias: bool) -> None:
    model, config = meta_model(family, shape, bias)
    counted: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counted[part_of(name)] += parameter.numel()
    assert Counter(parameters_by_part(shape, config)) == counted


def test_smollm2_has_its_published_size() -> None:
    assert parameters(Shape(30, 576, 1536, 9, 3, 64, 49152, True)) == 134_515_008


def test_paper_share_of_the_compact_vocabulary() -> None:
    """18.07 % [paper]: 20 layers and a Llama FFN of 8/3 x width rounded up to a multiple of 256
    match to 0.01 %."""
    pro = Shape(20, 1792, 4864, 14, 14, 128, 48000, False)
    assert vocabulary_share(pro) == pytest.approx(0.1807, abs=5e-5)


def test_unknown_family_is_one_clear_line() -> None:
    with pytest.raises(InputError, match="model type 'mamba' is not in the table"):
        family_of(CONFIG_MAPPING["mamba"]())
