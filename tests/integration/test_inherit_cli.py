import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import corpus_file, family_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from tinylm.cli import main
from tinylm.errors import InputError
from tinylm.inherit.calibration import calibration_chunks
from tinylm.inherit.inheritance import inherit
from tinylm.inherit.options import InheritOptions
from tinylm.inherit.run import inherit_files, inherit_streamed
from tinylm.inherit.score import score
from tinylm.models.shape import Shape, read_shape, write_shape
from tinylm.models.shards import Shards
from tinylm.models.teacher import load_model, load_tokenizer


@pytest.fixture(scope="module")
def done(teacher_dir, tmp_path_factory):
    """The folder of one inherited student, made by the command."""
    folder = tmp_path_factory.mktemp("inherit")
    corpus_file(folder / "text.jsonl")
    teacher = Shape.from_config(AutoModelForCausalLM.from_pretrained(teacher_dir).config)
    write_shape(
        folder / "shape.toml", Shape(**teacher.to_dict() | {"num_layers": 2, "hidden_size": 48})
    )
    common = ["inherit", "--teacher", str(teacher_dir), "--shape", str(folder / "shape.toml")]
    calibration = ["--calibration", str(folder / "text.jsonl"), "--chunks", "8", "--length", "32"]
    main([*common, *calibration, "--out", str(folder / "student")])
    return folder, common, calibration


def test_the_command_writes_an_ordinary_model_with_its_scores(done, capsys) -> None:
    folder, common, calibration = done
    student = AutoModelForCausalLM.from_pretrained(folder / "student")
    assert Shape.from_config(student.config) == read_shape(folder / "shape.toml")
    assert (folder / "student" / "tokenizer.json").exists()
    about = json.loads((folder / "student" / "scores" / "scores.json").read_text())
    assert about["criterion"] == "taylor" and about["calibration_tokens"] == 256
    main(
        [
            *common,
            *calibration,
            "--scores",
            str(folder / "student" / "scores"),
            "--out",
            str(folder / "again"),
        ]
    )
    assert "parameters in" in capsys.readouterr().out
    again = AutoModelForCausalLM.from_pretrained(folder / "again")
    for mine, other in zip(student.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--chunks", "100000"], "calibration is too short"),
        (["--kept-ids", "missing.npy"], "kept ids missing.npy cannot be read"),
        (["--shape", "missing.toml"], "missing.toml does not exist"),
        (["--chunks", "-1"], "must be 1 or more"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(done, change, message, capsys) -> None:
    folder, common, calibration = done
    with pytest.raises(SystemExit) as stop:
        main([*common, *calibration, "--out", str(folder / "bad"), *change])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and "Traceback" not in error
    assert not (folder / "bad").exists()


def test_a_truncated_shard_is_one_line_and_exit_2(done, teacher_dir, tmp_path, capsys) -> None:
    _, common, calibration = done
    broken = tmp_path / "broken"
    shutil.copytree(teacher_dir, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(SystemExit) as stop:
        main([*common, *calibration, "--teacher", str(broken), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2 and "is damaged" in capsys.readouterr().err


FLOAT32_L2 = InheritOptions(criterion="l2", layers="first-last", repair=(), dtype="float32")


@pytest.mark.parametrize("tied", [True, False])
def test_streaming_the_shards_gives_the_same_student(tied: bool, tmp_path) -> None:
    teacher = family_model("gemma2", tied)
    teacher.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    target = Shape(3, 24, 40, 2, 1, 8, 64, tied)
    streamed = inherit_streamed(tmp_path, target, FLOAT32_L2)
    in_memory = inherit(teacher, target, criterion="l2", layers="first-last", repair=())
    for mine, other in zip(streamed.model.parameters(), in_memory.model.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.skipif(
    not Path("/proc/self/maps").exists(), reason="looks at Linux's list of mapped files"
)
def test_shards_do_not_stay_mapped_once_their_tensors_are_gone(tmp_path) -> None:
    """Pages of a mapped file count as memory in use: of a 7B teacher all 13 GB would."""
    family_model("llama").save_pretrained(tmp_path)
    shards = Shards(tmp_path, tied=True)
    held = shards["model.norm.weight"]
    assert str(tmp_path) in Path("/proc/self/maps").read_text()
    del held
    assert sum(float(shards[name].sum()) for name in shards) != 0
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_shards_are_those_of_the_index_without_buffers_of_old_checkpoints(tmp_path) -> None:
    """Mistral ships its weights twice, Llama 2's shards hold rotary buffers."""
    teacher = family_model("llama")
    teacher.save_pretrained(tmp_path, max_shard_size="20KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[0]
    buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"
    save_file(load_file(shard) | {buffer: torch.ones(4)}, shard, metadata={"format": "pt"})
    save_file(
        {"layers.0.attention.wq.weight": torch.ones(2)}, tmp_path / "consolidated.safetensors"
    )
    assert set(Shards(tmp_path, tied=True)) == {name for name, _ in teacher.named_parameters()}
    shard.unlink()
    with pytest.raises(InputError, match=f"{shard.name} is missing"):
        Shards(tmp_path, tied=True)


def test_shards_that_do_not_fit_the_config_are_one_clear_line(tmp_path) -> None:
    teacher = family_model("llama", tied=False)
    teacher.save_pretrained(tmp_path)
    whole, target = load_file(tmp_path / "model.safetensors"), Shape(2, 24, 40, 2, 1, 8, 64, False)

    def refused(weights: dict, words: str) -> None:
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(InputError, match=words):
            inherit_streamed(tmp_path, target, replace(FLOAT32_L2, criterion="random"))

    refused(
        {name: w for name, w in whole.items() if name != "lm_head.weight"},
        "no usable weight for lm_head.weight",
    )
    refused(
        whole | {"model.layers.1.self_attn.q_proj.bias": torch.zeros(32)},
        "does not call for .*q_proj.bias",
    )
    refused(
        whole | {"lm_head.weight": whole["lm_head.weight"] / 0},
        "lm_head.weight of the teacher holds NaN",
    )


def test_a_tied_head_that_differs_from_the_embedding_is_refused(tmp_path) -> None:
    """A fine-tune that trained its head alone, under a config that still says tied: cutting would
    lose the head."""
    teacher = family_model("llama", tied=False)
    teacher.config.tie_word_embeddings = True
    teacher.save_pretrained(tmp_path)
    for load in (lambda: Shards(tmp_path, tied=True), lambda: load_model(tmp_path)):
        with pytest.raises(InputError, match="two different matrices"):
            load()


def test_saved_scores_cut_without_loading_the_teacher(done, monkeypatch, tmp_path) -> None:
    folder, common, _ = done
    saved = ["--scores", str(folder / "student" / "scores"), "--repair"]
    monkeypatch.setattr("tinylm.inherit.run.load_model", None)
    main([*common, *saved, "--out", str(tmp_path / "second")])
    first, second = (
        load_file(f / "scores" / "kept.safetensors")
        for f in (folder / "student", tmp_path / "second")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_one_long_text_is_calibration_enough(teacher_dir, tmp_path) -> None:
    """A book is one document: no more than a 16th of each would never fill the chunks."""
    book = tmp_path / "book.txt"
    book.write_text("The quick brown fox jumps over the lazy dog. " * 400)
    assert calibration_chunks([str(book)], load_tokenizer(teacher_dir), 16, 64).shape == (16, 64)
    with pytest.raises(InputError, match="too short"):
        calibration_chunks([str(book)], load_tokenizer(teacher_dir), 16, 4096)


def test_an_unknown_family_is_one_line_that_names_its_parameters(tmp_path) -> None:
    GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=12, n_head=2, vocab_size=64)).save_pretrained(
        tmp_path / "gpt2"
    )
    write_shape(tmp_path / "s.toml", Shape(2, 8, 32, 2, 2, 4, 64))
    with pytest.raises(
        InputError, match=r"'gpt2': parameters that no table explains: transformer.*and 8 more"
    ) as error:
        inherit_files(
            str(tmp_path / "gpt2"),
            tmp_path / "s.toml",
            tmp_path / "out",
            InheritOptions(criterion="l2"),
        )
    assert len(str(error.value)) < 600


def test_what_cannot_end_well_ends_before_the_scoring(done, tmp_path, capsys, monkeypatch) -> None:
    folder, common, calibration = done
    monkeypatch.setattr("tinylm.inherit.inheritance.score", None)
    with pytest.raises(SystemExit) as stop:
        main([*common, *calibration, "--out", str(folder / "student")])
    assert stop.value.code == 2 and "exists already" in capsys.readouterr().err


def test_masks_serve_the_shape_they_were_learned_for() -> None:
    teacher = family_model("llama")
    target = Shape.from_config(teacher.config)
    scores = score(teacher, None, "random", "first-last", seed=1)
    scores.metadata |= {"criterion": "learned", "target": {**target.to_dict(), "num_layers": 2}}
    with pytest.raises(InputError, match="masks learned for"):
        inherit(teacher, target, repair=(), scores=scores)


def test_a_second_weights_file_is_not_read(tmp_path) -> None:
    """An average of the weights beside them: `transformers` takes model.safetensors, so do we."""
    teacher = family_model("llama")
    teacher.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    other = {name: weight + 1 for name, weight in weights.items()}
    save_file(other, tmp_path / "model_ema.safetensors", metadata={"format": "pt"})
    shards = Shards(tmp_path, tied=False)
    assert all(torch.equal(shards[name], weight) for name, weight in weights.items())


def test_an_unknown_repair_is_one_clear_line(teacher_dir, tmp_path) -> None:
    write_shape(tmp_path / "s.toml", Shape.from_config(load_model(teacher_dir).config))
    options = InheritOptions(criterion="l2", layers="first-last", repair=("glue",))
    with pytest.raises(InputError, match="repair 'glue' is unknown"):
        inherit_files(str(teacher_dir), tmp_path / "s.toml", tmp_path / "out", options)
