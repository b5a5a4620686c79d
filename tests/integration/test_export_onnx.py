"""ONNX folders run in onnxruntime-genai give what transformers gives."""

import pytest
from builders import byte_level_tokenizer, random_model

from tinylm.errors import InputError, WorkError
from tinylm.export.onnx import export_onnx


def test_wrong_quantisation(tmp_path):
    with pytest.raises(InputError, match="choose one of F32, INT4"):
        export_onnx(tmp_path, tmp_path / "out", "Q8_0")


def test_missing_package_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"tinylm\[onnx\]"):
        export_onnx(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
def test_the_same_model(model_type, tmp_path):
    pytest.importorskip("onnxruntime_genai", reason="the extra [onnx] is not installed")
    folder = random_model(tmp_path / "m", model_type, byte_level_tokenizer())
    report = export_onnx(folder, tmp_path / "onnx")
    assert report["check"]["kl"] < 1e-6 and report["check"]["tokens"]["ids"] > 5000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "onnx"]
    with pytest.raises(InputError, match="exists already"):
        export_onnx(folder, tmp_path / "onnx")


def test_a_family_it_cannot_build_leaves_nothing(tmp_path):
    pytest.importorskip("onnxruntime_genai", reason="the extra [onnx] is not installed")
    folder = random_model(tmp_path / "m", "smollm3", byte_level_tokenizer())
    with pytest.raises(WorkError, match="cannot build 'smollm3'"):
        export_onnx(folder, tmp_path / "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
