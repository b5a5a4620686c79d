import json
import shutil
from pathlib import Path

import pytest
import torch
from builders import corpus_file, family_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tinylm.cli import main
from tinylm.errors import InputError
from tinylm.inherit import inherit
from tinylm.inherit.cut import Shards
from tinylm.inherit.inheritance import score
from tinylm.inherit.run import inherit_streamed
from tinylm.models.shape import Shape, read_shape, write_shape


@pytest.fixture(scope="module")
def done(teacher_dir, tmp_path_factory):
    """The folder of one inherited student, made by the command."""
    folder = tmp_path_factory.mktemp("inherit")
    corpus_file(folder / "text.jsonl")
    teacher = Shape.from_config(AutoModelForCausalLM.from_pretrained(teacher_dir).config)
    write_shape(folder / "shape.toml", Shape(**teacher.to_dict() | {"num_layers": 2, "hidden_size": 48}))
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
    main([*common, *calibration, "--scores", str(folder / "student" / "scores"), "--out", str(folder / "again")])
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
    assert stop.value.code == 2 and "cannot be loaded" in capsys.readouterr().err


@pytest.mark.parametrize("tied", [True, False])
def test_streaming_the_shards_gives_the_same_student(tied: bool, tmp_path) -> None:
    teacher = family_model("gemma2", tied)
    teacher.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    target = Shape(3, 24, 40, 2, 1, 8, 64, tied)
    streamed = inherit_streamed(tmp_path, target, "l2", None, torch.float32)
    in_memory = inherit(teacher, target, criterion="l2", layers="first-last", repair=())
    for mine, other in zip(streamed.model.parameters(), in_memory.model.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks at Linux's list of mapped files")
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
    save_file({"layers.0.attention.wq.weight": torch.ones(2)}, tmp_path / "consolidated.safetensors")
    assert set(Shards(tmp_path, tied=True)) == {name for name, _ in teacher.named_parameters()}
    shard.unlink()
    with pytest.raises(InputError, match="is damaged"):
        Shards(tmp_path, tied=True)


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
    scores.about |= {"criterion": "learned", "target": {**target.to_dict(), "num_layers": 2}}
    with pytest.raises(InputError, match="masks learned for"):
        inherit(teacher, target, repair=(), scores=scores)
