"""What is planned can be cut: real cuts of tiny teachers of several families, reloaded from
disk."""

import json

import pytest
import torch
from builders import byte_level_tokenizer, texts, tiny_teacher
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tinylm.architecture.plan import plan
from tinylm.cli import main
from tinylm.corpus.pack import pack
from tinylm.inherit.inheritance import inherit
from tinylm.models.parameters import parameters
from tinylm.models.shape import Shape, read_shape
from tinylm.pipeline import measured_plan

TEACHER = Shape(6, 192, 320, 6, 3, 16, 400, True)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3_text", "phi3", "olmo2"])
def test_planned_shapes_are_cut_to_the_last_parameter(family: str, tmp_path) -> None:
    config = TEACHER.to_config(CONFIG_MAPPING[family]())
    config.pad_token_id = 0
    torch.manual_seed(0)
    teacher = AutoModelForCausalLM.from_config(config).eval()
    candidates = plan(0.5 * parameters(TEACHER, config), 400, teacher=config, limit=1000)
    narrow = next(c for c in candidates if c.shape.hidden_size < 192)
    fewer_heads = next(c for c in candidates if c.shape.num_attention_heads < 6)
    for number, candidate in enumerate((candidates[0], narrow, fewer_heads, candidates[-1])):
        student = inherit(
            teacher, candidate.shape, criterion="l1", layers="first-last", repair=()
        ).model
        student.save_pretrained(tmp_path / str(number))
        again = AutoModelForCausalLM.from_pretrained(tmp_path / str(number))
        assert sum(parameter.numel() for parameter in again.parameters()) == candidate.parameters
        ids = torch.arange(10)[None]
        torch.testing.assert_close(again(ids).logits, student(ids).logits)


def test_candidates_are_trained_from_the_teachers_weights(tmp_path) -> None:
    teacher = tiny_teacher(tmp_path / "teacher", vocab_size=400, hidden_size=128)
    tokenizer = byte_level_tokenizer(400)
    pack(texts(200), tokenizer, tmp_path / "data" / "train")
    pack(texts(20, seed=1), tokenizer, tmp_path / "data" / "valid")
    for block, budget in (("plain", 2e5), ("pangu-pi", 3.04e5)):
        candidates = plan(budget, len(tokenizer), teacher, block=block, limit=2)
        results = measured_plan.measure_quality(
            candidates, tmp_path / "data", 8192, str(teacher), compile_layers=False
        )
        assert [result["start"] for result in results] == ["teacher", "teacher"]
        assert all(0 < result["valid_bits_per_byte"] < 8 for result in results)


def test_candidates_of_another_vocabulary_start_from_random_weights(tmp_path) -> None:
    teacher = tiny_teacher(tmp_path / "teacher", vocab_size=400, hidden_size=128)
    tokenizer = byte_level_tokenizer(320)
    pack(texts(200), tokenizer, tmp_path / "data" / "train")
    pack(texts(20, seed=1), tokenizer, tmp_path / "data" / "valid")
    candidates = plan(2e5, len(tokenizer), teacher, limit=1)
    results = measured_plan.measure_quality(
        candidates, tmp_path / "data", 4096, str(teacher), compile_layers=False
    )
    assert [result["start"] for result in results] == ["random"]


def test_plan_command_writes_the_contract(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("TINYLM_CACHE", str(tmp_path / "cache"))
    teacher = tiny_teacher(tmp_path / "teacher", vocab_size=400, hidden_size=128)
    out = tmp_path / "plan"
    planning = (
        f"plan --budget 2e5 --vocab-size 400 --limit 2 --teacher {teacher} --out {out}"
        " --bill-tokens 1e9"
    )
    main(f"{planning} --measure --batches 1,2 --new-tokens 3 --repeats 1 --device cpu".split())
    written = json.loads((out / "plan.json").read_text())
    assert len(written["candidates"]) == 2
    for candidate in written["candidates"]:
        assert abs(candidate["parameters"] - 2e5) <= 2e3
        assert [result["batch"] for result in candidate["speed"]] == [1, 2]
    assert read_shape(out / "plan.json") == read_shape(out / "SHAPE.toml")
    assert (out / "pareto.svg").read_text().startswith("<svg")
    shown = capsys.readouterr().out
    assert "Best:" in shown and "device-hours" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "1e12", "--vocab-size", "400", "--teacher"], "the nearest has"),
        (["--budget", "2e5", "--vocab-size", "400", "--depths", "x", "--teacher"], "whole numbers"),
        (
            ["--budget", "2e5", "--vocab-size", "400", "--train-tokens", "4096", "--teacher"],
            "needs --data",
        ),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    tmp_path, capsys, arguments: list[str], message: str
) -> None:
    teacher = tiny_teacher(tmp_path / "teacher", vocab_size=400, hidden_size=128)
    with pytest.raises(SystemExit) as stopped:
        main(["plan", *arguments, str(teacher)])
    error = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and error.count("\n") == 0 and message in error


def test_a_plan_with_the_pangu_pi_block_is_inherited_with_it(tmp_path) -> None:
    teacher = tiny_teacher(tmp_path / "teacher", vocab_size=400, hidden_size=128)
    options = (
        f"plan --budget 3.04e5 --vocab-size 400 --limit 1 --teacher {teacher} --block pangu-pi"
    )
    main([*options.split(), "--out", str(tmp_path / "plan")])
    planned = json.loads((tmp_path / "plan" / "plan.json").read_text())["candidates"][0][
        "parameters"
    ]
    for file in ("plan.json", "SHAPE.toml"):
        out = tmp_path / f"student-{file}"
        command = f"inherit --teacher {teacher} --criterion l2 --layers first-last --out {out}"
        main([*command.split(), "--shape", str(tmp_path / "plan" / file), "--repair"])
        student = AutoModelForCausalLM.from_pretrained(out)
        assert student.config.model_type == "pangu_pi"
        assert sum(parameter.numel() for parameter in student.parameters()) == planned
