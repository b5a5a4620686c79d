import dataclasses

import pytest
import torch
from builders import FAMILIES, family_model

from tinylm.errors import InputError
from tinylm.models import families
from tinylm.models.shape import Shape


def sizes(model) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_is_explained_with_its_size(family: str) -> None:
    model = family_model(family, tied=False, num_key_value_heads=1)
    families.check_weights(sizes(model), model.config)
    shape, table = Shape.from_config(model.config), families.family_of(model.config)
    for name, size in sizes(model).items():
        assert families.expected_size(table.axes(name), shape, model.config) == size


def test_fused_matrices_name_their_blocks_in_order() -> None:
    table = families.FAMILIES["phi3"]
    assert table.axes("model.layers.7.self_attn.qkv_proj.weight") == (
        ("q_heads", "kv_heads", "kv_heads"),
        ("hidden",),
    )
    assert table.axes("model.layers.7.mlp.gate_up_proj.weight") == (("ffn", "ffn"), ("hidden",))


def test_an_unknown_family_names_the_parameters_that_no_table_explains() -> None:
    config = family_model("llama").config
    config.model_type = "novel"
    names = {"model.embed_tokens.weight": (64, 32), "model.layers.0.mixer.in_proj.weight": (9, 9)}
    with pytest.raises(InputError, match=r"'novel'.*model\.layers\.\*\.mixer\.in_proj\.weight"):
        families.check_weights(names, config)


def test_a_weight_of_another_size_is_a_damaged_checkpoint() -> None:
    model = family_model("qwen3")
    wrong = sizes(model) | {"model.layers.2.self_attn.k_norm.weight": (7,)}
    with pytest.raises(InputError, match=r"layers\.2\.self_attn\.k_norm\.weight is \(7,\)"):
        families.check_weights(wrong, model.config)


def test_layer_names() -> None:
    assert families.layer_of("model.layers.12.mlp.up_proj.weight") == 12
    assert families.layer_of("model.norm.weight") is None
    assert (
        families.in_layer("model.layers.12.mlp.up_proj.weight", 3)
        == "model.layers.3.mlp.up_proj.weight"
    )


def test_axis_sizes_count_head_rows() -> None:
    shape = dataclasses.replace(Shape(2, 32, 48, 4, 2, 8, 64), head_dim=16)
    rows = families.axis_sizes(shape)
    assert (rows["q_heads"], rows["kv_heads"], rows["head_dim"]) == (64, 32, 16)
    size = families.expected_size((("q_heads", "kv_heads", "kv_heads"), ("hidden",)), shape, None)
    assert torch.Size(size) == (128, 32)
