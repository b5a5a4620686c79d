"""Initialisation: the standard deviations of the docstring's table, measured."""

from math import sqrt

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tinylm.errors import InputError
from tinylm.models.initialise import initialise
from tinylm.models.pangu import PanguPiConfig
from tinylm.models.shape import Shape

SHAPE = Shape(3, 96, 160, 6, 2, 16, 300, True)


def fresh(config=None):
    return AutoModelForCausalLM.from_config(config or SHAPE.to_config(LlamaConfig(pad_token_id=7)))


@pytest.mark.parametrize(
    ("scheme", "written"),
    [
        ("constant", [0.03, 0.03, 0.03]),
        ("gpt2", [0.03 / sqrt(6)] * 3),
        ("depth", [0.03 / sqrt(2), 0.03 / sqrt(4), 0.03 / sqrt(6)]),
    ],
)
def test_standard_deviations(scheme, written: list[float]) -> None:
    model = fresh()
    initialise(model, scheme, std=0.03, seed=1)
    for layer, expected in zip(model.model.layers, written):
        for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
            assert weight.std().item() == pytest.approx(expected, rel=0.03)
        for weight in (layer.self_attn.q_proj.weight, layer.mlp.up_proj.weight):
            assert weight.std().item() == pytest.approx(0.03, rel=0.03)
        assert (layer.input_layernorm.weight == 1).all()
    embedding = model.model.embed_tokens.weight
    assert (embedding[7] == 0).all() and embedding[8:].std().item() == pytest.approx(0.03, rel=0.03)


def test_the_seed_decides_alone() -> None:
    first, second, other = fresh(), fresh(), fresh()
    initialise(first, seed=5)
    initialise(second, seed=5)
    initialise(other, seed=6)
    for a, b, c in zip(first.parameters(), second.parameters(), other.parameters()):
        assert torch.equal(a, b) and (a.ndim == 1 or not torch.equal(a, c))


def test_pangu_additions_stay_switched_off() -> None:
    model = fresh(
        PanguPiConfig(
            vocab_size=50,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
        )
    )
    initialise(model, "gpt2")
    layer = model.model.layers[1]
    assert (layer.self_attn.shortcut.up.weight == 0).all() and (
        layer.self_attn.shortcut.down.weight != 0
    ).any()
    assert (layer.mlp.series[0].scale == 1).all() and (layer.mlp.series[1].scale == 0).all()


def test_wrong_scheme_is_one_clear_line() -> None:
    with pytest.raises(InputError, match="use constant, gpt2, depth"):
        initialise(fresh(), "xavier")  # type: ignore[arg-type]
