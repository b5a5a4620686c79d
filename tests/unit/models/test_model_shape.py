import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, Qwen3Config

from tinylm.errors import InputError
from tinylm.models.shape import Shape, read_shape, write_shape

sizes = st.integers(1, 64)
shapes = st.builds(
    lambda layers, hidden, ffn, groups, per, head, vocab, tied: Shape(
        layers, hidden, ffn, groups * per, groups, head, vocab, tied
    ),
    sizes, sizes, sizes, st.integers(1, 8), st.integers(1, 8), sizes, sizes, st.booleans(),
)  # fmt: skip


@given(shapes)
def test_toml_json_and_config_give_the_shape_back(shape):
    config = shape.to_config(LlamaConfig(num_hidden_layers=2))
    assert Shape.from_config(config) == shape
    assert Shape.from_dict({**shape.to_dict(), "parameters": 1, "why": "x"}) == shape


def test_files(tmp_path):
    first, second = Shape(2, 8, 16, 4, 2, 4, 32), Shape(3, 8, 16, 4, 2, 4, 32)
    write_shape(tmp_path / "SHAPE.toml", first)
    assert read_shape(tmp_path / "SHAPE.toml") == first
    (tmp_path / "plan.json").write_text(
        json.dumps({"candidates": [second.to_dict(), first.to_dict()]})
    )
    assert read_shape(tmp_path / "plan.json") == second


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.toml", "num_layers = ", "cannot be read"),
        ("a.toml", "num_layers = 3", "lacks hidden_size"),
        ("a.json", '{"candidates": []}', "no candidates"),
        ("a.json", "{", "cannot be read"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=words):
        read_shape(tmp_path / name)
    with pytest.raises(InputError, match="does not exist"):
        read_shape(tmp_path / "none.toml")


def test_impossible_shapes():
    with pytest.raises(InputError, match="do not divide"):
        Shape(1, 8, 8, 3, 2, 4, 8)
    with pytest.raises(InputError, match="num_layers"):
        Shape(0, 8, 8, 2, 2, 4, 8)


def test_settings_by_layer_follow_the_layers_that_stay():
    config = Qwen3Config(
        num_hidden_layers=4, layer_types=["full_attention", "sliding_attention"] * 2
    )
    cut = Shape(2, 8, 8, 2, 2, 4, 8).to_config(config, kept_layers=[1, 2])
    assert cut.layer_types == ["sliding_attention", "full_attention"]
    assert config.layer_types == ["full_attention", "sliding_attention"] * 2
