"""The model's tables: cut by old id, tied or not, with bias, with more rows than tokens, with
nested configs."""

import json

import numpy as np
import pytest
import torch
from builders import tiny_teacher
from tokenizer_builders import corpus

from tinylm.corpus.pack import pack
from tinylm.errors import InputError, WorkError
from tinylm.tokenizer import certificate, compress, rows
from tinylm.tokenizer.compress import compress as cut
from tinylm.tokenizer.count import count
from tinylm.train.config import TrainConfig
from tinylm.train.inputs import check_inputs


@pytest.fixture(autouse=True)
def fewer_fuzz_strings(monkeypatch):
    monkeypatch.setattr(certificate, "FUZZ_STRINGS", 50)


def load(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("tied", [True, False])
def test_the_cut_model_answers_like_the_teacher_on_kept_tokens(tmp_path, tied):
    """More rows (640) than tokens: ids decide, lengths do not."""
    teacher = tiny_teacher(
        tmp_path / "teacher", vocab_size=600, tie_word_embeddings=tied, num_hidden_layers=2
    )
    padded = load(teacher)
    padded.resize_token_embeddings(640)
    padded.save_pretrained(teacher)
    result = cut(teacher, count(teacher, corpus()), out=tmp_path / "out", vocab_size=384)
    assert {"rows equal the teacher's", "tied stays tied", "logits on kept-only text"} <= {
        one["check"] for one in result["lines"]
    }
    kept = torch.tensor(np.load(tmp_path / "out/id_map.npy"))
    student, original = load(tmp_path / "out"), load(teacher)
    ids = torch.randint(0, 384, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.allclose(student(ids).logits, original(kept[ids]).logits[..., kept], atol=1e-5)
    assert student.config.vocab_size == student.lm_head.weight.shape[0] == 384
    assert (student.lm_head.weight is student.get_input_embeddings().weight) == tied
    freed = (640 - 384) * 64 * (1 if tied else 2)
    assert original.num_parameters() - student.num_parameters() == freed


def test_head_bias_is_cut_along(tmp_path):
    from transformers import PhiConfig, PhiForCausalLM

    teacher = tiny_teacher(tmp_path / "teacher", vocab_size=600)
    config = PhiConfig(
        vocab_size=600,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    model = PhiForCausalLM(config)
    model.lm_head.bias.data.normal_()
    size = len(compress.read_source(teacher).strings)
    model.resize_token_embeddings(size)
    model.config.eos_token_id = 2
    model.save_pretrained(teacher)
    result = cut(teacher, count(teacher, corpus()), out=tmp_path / "out", vocab_size=384)
    found = next(
        one["found"] for one in result["lines"] if one["check"] == "rows equal the teacher's"
    )
    assert "'head bias': 384" in found


def test_config_ids_are_mapped_in_all_files(tmp_path):
    teacher = tiny_teacher(tmp_path / "teacher", vocab_size=600, num_hidden_layers=1)
    config = json.loads((teacher / "config.json").read_text())
    (teacher / "config.json").write_text(
        json.dumps(config | {"eos_token_id": [2, 599], "pad_token_id": 0})
    )
    (teacher / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [2, 599], "suppress_tokens": [2]})
    )
    cut(teacher, count(teacher, corpus()), out=tmp_path / "out", vocab_size=384)
    new = json.loads((tmp_path / "out/config.json").read_text())
    assert new["eos_token_id"] == [2, 383] and new["vocab_size"] == 384 and new["pad_token_id"] == 0
    generation = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert generation["eos_token_id"] == [2, 383] and generation["suppress_tokens"] == [2]


def test_rows_cut_wrongly_fail_the_certificate(tmp_path, monkeypatch):
    teacher = tiny_teacher(tmp_path / "teacher", vocab_size=600, num_hidden_layers=1)
    real = rows.slice_rows
    monkeypatch.setattr(
        compress, "slice_rows", lambda model, kept: real(model, kept * 0 + range(len(kept)))
    )
    with pytest.raises(WorkError, match="rows equal the teacher's"):
        cut(teacher, count(teacher, corpus()), out=tmp_path / "out", vocab_size=384)
    assert not (tmp_path / "out").exists()


def test_a_model_with_too_few_rows_is_an_input_error(tmp_path):
    teacher = tiny_teacher(tmp_path / "teacher", vocab_size=600, num_hidden_layers=1)
    model = load(teacher)
    model.resize_token_embeddings(300)
    model.save_pretrained(teacher)
    with pytest.raises(InputError, match="do not belong together"):
        cut(teacher, count(teacher, corpus()), out=tmp_path / "out", vocab_size=384)


def test_a_token_that_the_model_has_no_row_for_is_left_out(tmp_path):
    """Gemma 3's text models: the tokenizer names an image token after the last row, in all the
    places it has."""
    from transformers import AutoTokenizer

    teacher = tiny_teacher(tmp_path / "teacher", vocab_size=600, num_hidden_layers=1)
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    tokenizer.save_pretrained(teacher)
    settings = json.loads((teacher / "tokenizer_config.json").read_text())
    named = {
        "image_token": "<image_soft_token>",
        "extra_special_tokens": {"image_token": "<image_soft_token>"},
    }
    (teacher / "tokenizer_config.json").write_text(json.dumps(settings | named))
    (teacher / "special_tokens_map.json").write_text(
        json.dumps({"eos_token": "<|im_end|>", **named})
    )
    last = AutoTokenizer.from_pretrained(teacher).convert_tokens_to_ids("<image_soft_token>")
    assert last == load(teacher).config.vocab_size, "one more than the last row"
    result = cut(teacher, count(teacher, corpus()), out=tmp_path / "out", vocab_size=384)
    child = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert result["passed"] and len(child) == 384 and "<image_soft_token>" not in child.get_vocab()
    store = pack(corpus(), AutoTokenizer.from_pretrained(teacher), tmp_path / "store")
    assert store.vocab_size == last + 1
    # no text becomes that token
    check_inputs(load(teacher), store, TrainConfig(batch_size=1), None)


def test_a_config_without_vocab_size_gets_one(tmp_path):
    """Gemma 3 4B leaves it to its family's default."""
    teacher = tiny_teacher(tmp_path / "teacher", vocab_size=600, num_hidden_layers=1)
    cut(teacher, count(teacher, corpus()), out=tmp_path / "out", vocab_size=384)
    config = json.loads((teacher / "config.json").read_text())
    rows.write_model(
        load(tmp_path / "out"),
        _with(tmp_path / "nested", {"text_config": {}, "model_type": config["model_type"]}),
        {old: old for old in range(384)},
        600,
        tmp_path,
    )
    assert json.loads((tmp_path / "config.json").read_text())["text_config"] == {"vocab_size": 384}


def _with(folder, config):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder
