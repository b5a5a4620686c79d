"""Folders run by mlx-lm give what transformers gives."""

import importlib.util

import pytest
from builders import byte_level_tokenizer, random_model

from tinylm.artifact import read_json
from tinylm.errors import InputError, WorkError
from tinylm.export.mlx import export_mlx

needs_mlx = pytest.mark.skipif(
    importlib.util.find_spec("mlx_lm") is None,
    reason="the extra [mlx] is not installed",
)


def test_wrong_quantisation(tmp_path):
    with pytest.raises(InputError, match="choose one of F32, F16, BF16, INT8, INT4"):
        export_mlx(tmp_path, tmp_path / "out", "Q8_0")


def test_missing_package_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"tinylm\[mlx\]"):
        export_mlx(tmp_path, tmp_path / "out")


# a rotary base other than mlx-lm's own: lost without the old keys
BASE = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}


@needs_mlx
@pytest.mark.parametrize(
    ("family", "changes"),
    [("llama", BASE), ("granite", BASE), ("qwen3", BASE), ("smollm3", BASE), ("olmo2", {})],
)
def test_the_same_model(family, changes, tmp_path):
    folder = random_model(tmp_path / "m", family, byte_level_tokenizer(), **changes)
    report = export_mlx(folder, tmp_path / "mlx", "F32")
    assert report["check"]["kl"] < 1e-5 and report["check"]["tokens"]["ids"] > 5000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "mlx"]
    with pytest.raises(InputError, match="exists already"):
        export_mlx(folder, tmp_path / "mlx")


@needs_mlx
def test_int4_keeps_the_embedding_at_8_bits_and_tells_what_it_cannot_pack(tmp_path):
    folder = random_model(
        tmp_path / "m", "llama", byte_level_tokenizer(), intermediate_size=120, **BASE
    )
    report = export_mlx(folder, tmp_path / "mlx", "INT4", check=False)
    packing = read_json(tmp_path / "mlx" / "config.json")["quantization"]
    assert packing["bits"] == 4 and packing["model.embed_tokens"]["bits"] == 8
    assert set(report["fallbacks"]) == {f"model.layers.{i}.mlp.down_proj" for i in range(4)}


@needs_mlx
def test_a_family_it_does_not_have_leaves_nothing(tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("opt", hidden_size=32, ffn_dim=32, num_attention_heads=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "m")
    byte_level_tokenizer().save_pretrained(tmp_path / "m")
    with pytest.raises(WorkError, match="mlx-lm cannot build this model"):
        export_mlx(tmp_path / "m", tmp_path / "mlx", check=False)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
