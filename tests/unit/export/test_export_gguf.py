"""Writing the file: what is in it, and what happens when it cannot be written."""

import os
import shutil

import pytest
import torch
from builders import byte_level_tokenizer, random_model, tiny_teacher
from gguf import GGUFReader
from safetensors.torch import load_file, save_file

from tinylm.errors import InputError
from tinylm.export.gguf import export
from tinylm.export.vocabulary import read_vocabulary
from tinylm.models.teacher import load_tokenizer


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return tiny_teacher(tmp_path_factory.mktemp("gguf") / "teacher")


def test_the_report_is_true(model_dir, tmp_path):
    report = export(model_dir, tmp_path / "m.gguf", "Q8_0")
    reader = GGUFReader(tmp_path / "m.gguf")
    assert report["bytes"] == (tmp_path / "m.gguf").stat().st_size
    assert report["parameters"] == sum(tensor.n_elements for tensor in reader.tensors)
    assert report["formats"] == {"Q8_0": 4 * 7 + 1, "F32": 4 * 2 + 1}
    assert report["pre_tokenizer"] == "gpt-2" == reader.fields["tokenizer.ggml.pre"].contents()
    assert "output.weight" not in [tensor.name for tensor in reader.tensors]  # tied
    assert reader.fields["general.architecture"].contents() == "llama"


def test_padding_rows_become_unused_tokens(tmp_path):
    folder = random_model(tmp_path / "padded", "llama", byte_level_tokenizer(), vocab_size=512)
    export(folder, tmp_path / "m.gguf")
    tokens = GGUFReader(tmp_path / "m.gguf").fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == 512 and tokens[-1] == "[PAD511]"


def test_fallbacks_are_told(model_dir, tmp_path):
    pytest.importorskip("xllamacpp")
    # rows of 64 and 128 do not divide by 256
    report = export(model_dir, tmp_path / "m.gguf", "Q4_K_M")
    assert report["fallbacks"]["blk.1.ffn_up.weight"] == "Q4_K -> Q5_0"
    assert report["fallbacks"]["token_embd.weight"] == "Q6_K -> Q8_0"


def refused(message, model, out, *arguments, **options):
    before = sorted(out.parent.iterdir()) if out.parent.is_dir() else None
    with pytest.raises(InputError, match=message) as error:
        export(model, out, *arguments, **options)
    assert "\n" not in str(error.value)
    assert (sorted(out.parent.iterdir()) if out.parent.is_dir() else None) == before


def test_an_existing_file_stays_unless_told(model_dir, tmp_path):
    out = tmp_path / "m.gguf"
    out.write_text("mine")
    refused("exists already", model_dir, out)
    assert out.read_text() == "mine"
    export(model_dir, out, overwrite=True)
    assert out.read_bytes()[:4] == b"GGUF"


def test_a_folder_as_file(model_dir, tmp_path):
    refused("is a folder", model_dir, tmp_path)


def test_a_wrong_quantisation(model_dir, tmp_path):
    refused("no quantisation 'Q9'", model_dir, tmp_path / "m.gguf", "q9")


def test_a_full_disk_known_before(model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 0))
    refused("not enough disk", model_dir, tmp_path / "m.gguf")


def test_a_disk_that_fills_while_writing(model_dir, tmp_path, monkeypatch):
    def full(*_arguments):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("gguf.GGUFWriter.write_tensor_data", full)
    refused("No space left on device; nothing was left behind", model_dir, tmp_path / "m.gguf")


def test_an_unwritable_folder(model_dir, tmp_path):
    (tmp_path / "file").write_text("")
    refused("cannot write", model_dir, tmp_path / "file" / "m.gguf")


def damaged(model_dir, folder, change):
    shutil.copytree(model_dir, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_nan_weights(model_dir, tmp_path):
    def change(weights):
        weights["model.layers.2.mlp.up_proj.weight"][3, 4] = torch.nan

    folder = damaged(model_dir, tmp_path / "nan", change)
    refused("layers.2.mlp.up_proj.weight holds NaN", folder, tmp_path / "m.gguf")


def test_a_missing_tensor(model_dir, tmp_path):
    folder = damaged(model_dir, tmp_path / "less", lambda weights: weights.pop("model.norm.weight"))
    refused("no usable weight for model.norm.weight", folder, tmp_path / "m.gguf")


def test_a_tensor_of_the_wrong_shape(model_dir, tmp_path):
    def change(weights):
        weights["model.norm.weight"] = weights["model.norm.weight"][:-1].clone()

    folder = damaged(model_dir, tmp_path / "shape", change)
    refused(
        r"model\.norm\.weight has shape \(63,\), config.json says \(64,\)",
        folder,
        tmp_path / "m.gguf",
    )


def test_a_truncated_checkpoint(model_dir, tmp_path):
    shutil.copytree(model_dir, tmp_path / "cut")
    path = tmp_path / "cut" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused("is damaged", tmp_path / "cut", tmp_path / "m.gguf")


def test_weights_missing_altogether(model_dir, tmp_path):
    shutil.copytree(model_dir, tmp_path / "none", ignore=shutil.ignore_patterns("*.safetensors"))
    refused("safetensors", tmp_path / "none", tmp_path / "m.gguf")


def test_a_tokenizer_larger_than_the_model(tmp_path):
    folder = random_model(tmp_path / "small", "llama", byte_level_tokenizer(), vocab_size=450)
    refused("token ids up to 499 but 450 embedding rows", folder, tmp_path / "m.gguf")


def test_tokens_without_a_row_are_left_out_and_missing_ids_come_from_the_config(tmp_path):
    """Gemma 3's image token stands after the last row; Qwen's tokenizer names no bos, its config
    does."""
    folder = tiny_teacher(tmp_path / "model")
    tokenizer = load_tokenizer(folder)
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    tokenizer.bos_token = None
    vocabulary = read_vocabulary(folder, tokenizer, rows)
    assert len(vocabulary.tokens) == rows and "<image_soft_token>" not in vocabulary.tokens
    assert vocabulary.special_ids["bos"] == 1 and not vocabulary.adds_bos
