"""What the stages beside training cost."""

import dataclasses

import pytest
from builders import corpus_file, tiny_teacher

from tinylm.errors import InputError
from tinylm.inherit import bill
from tinylm.models.cost import forward_flops
from tinylm.models.parameters import parameters
from tinylm.models.shape import Shape
from tinylm.models.teacher import load_config
from tinylm.pipeline.forecast import describe, expected_seconds, predict_flops
from tinylm.pipeline.recipe import packaged_recipes, read_recipe
from tinylm.pipeline.stage_costs import (
    COUNT,
    SPLIT_AT_MOST,
    passes_over_text,
    stage_costs,
    teacher_shape,
    text_bytes,
)

PRO = Shape(20, 1792, 5376, 14, 7, 128, 48000, False)
H100 = 0.4 * 989e12
DAY = 86_400


@pytest.mark.parametrize("name", [name for name in packaged_recipes() if name.startswith("pangu")])
def test_no_stage_of_the_large_recipes_takes_a_day_but_the_training(name) -> None:
    recipe = read_recipe(name)
    stages = {stage.name: stage for stage in stage_costs(recipe, PRO)}
    assert {"corpus", "count tokens", "pack", "bits per byte"} <= stages.keys()
    assert ("inherit" in stages) == (recipe.inherit.init == "inherit")
    assert all(stage.on(H100, 8) < DAY for stage in stages.values())
    lines = dict(describe(recipe, 989, 0.4, 1e12, devices=8))
    assert stages.keys() <= lines.keys() and "with 8 such devices" in lines["pack"]
    assert "with 8 devices" in lines["with all trials and passes"]


def test_text_is_paid_by_the_byte() -> None:
    recipe = read_recipe("pangu-pi-1b-pro")
    stages = {stage.name: stage for stage in stage_costs(recipe, PRO)}
    assert stages["corpus"].on(1.0) >= recipe.corpus.max_bytes / SPLIT_AT_MOST
    assert stages["count tokens"].on(1e15, 8) == recipe.corpus.max_bytes / COUNT
    assert "150 GB" in stages["pack"].what


@pytest.mark.parametrize(
    ("spec", "low", "high"),
    [
        ("Qwen/Qwen3-8B", 7e9, 9e9),
        ("Qwen/Qwen2.5-0.5B-Instruct", 0.4e9, 0.7e9),
        ("HuggingFaceTB/SmolLM2-135M", 0.1e9, 0.25e9),
        ("meta-llama/Llama-2-70b-hf", 60e9, 80e9),
    ],
)
def test_a_teacher_that_is_not_here_is_known_by_its_name(spec, low, high) -> None:
    shape, note = teacher_shape(spec, PRO)
    assert low < parameters(shape) < high and "by its name" in note


def test_a_teacher_without_a_size_in_its_name_is_said() -> None:
    shape, note = teacher_shape("someone/their-model", PRO)
    assert shape == PRO and "not here yet" in note


def test_a_teacher_that_is_here_counts_with_its_own_shape(tmp_path) -> None:
    folder = tiny_teacher(tmp_path / "teacher")
    text = corpus_file(tmp_path / "c.jsonl", 40)
    recipe = read_recipe("demo")
    recipe = dataclasses.replace(
        recipe,
        teacher=str(folder),
        corpus=dataclasses.replace(recipe.corpus, paths=(str(text),), eval_bytes=43_000),
        evaluate=dataclasses.replace(recipe.evaluate, tasks=("piqa", "boolq"), limit=10),
    )
    shape = Shape.from_config(load_config(folder))
    student = dataclasses.replace(shape, num_layers=1)
    stages = {stage.name: stage for stage in stage_costs(recipe, student)}
    once = [forward_flops(one, 2048) for one in (shape, shape, student, student, student)]
    assert stages["bits per byte"].flops == pytest.approx(10_000 * sum(once))
    assert "20 items" in stages["tasks"].what and stages["tasks"].spread
    assert text_bytes(recipe) == text.stat().st_size
    assert stages["inherit"].flops > 0 and "on disk" not in stages["inherit"].what


def test_every_stage_that_takes_time_is_one_of_a_run(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tinylm.pipeline.forecast.machine_speed", lambda: 1e9)
    recipe = dataclasses.replace(
        read_recipe("demo"), teacher=str(tiny_teacher(tmp_path / "teacher"))
    )
    shape = {"num_layers": 2, "hidden_size": 32, "intermediate_size": 64, "head_dim": 16}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
    architecture = dataclasses.replace(recipe.architecture, shape=shape)
    tokenizer = dataclasses.replace(recipe.tokenizer, vocab_size=400)
    recipe = dataclasses.replace(recipe, architecture=architecture, tokenizer=tokenizer)
    found = expected_seconds(recipe)
    assert found["train"] == found["control"] == predict_flops(recipe) / 1e9 / 2
    assert {"inherit", "score teacher", "score control"} <= found.keys()
    absent = dataclasses.replace(recipe, teacher="someone/their-8B")
    assert expected_seconds(absent) == {}


def test_text_of_unknown_size_is_said() -> None:
    recipe = read_recipe("demo")
    hub = dataclasses.replace(recipe.corpus, paths=("hub:a/b",), max_bytes=0)
    first = stage_costs(dataclasses.replace(recipe, corpus=hub), PRO)[0]
    assert "known when it is read" in first.what and first.on(1.0) == 0


def test_what_is_streamed_is_said(monkeypatch) -> None:
    monkeypatch.setattr(bill, "free_bytes", lambda device: 10e9)
    stages = {stage.name: stage for stage in stage_costs(read_recipe("pangu-pi-1b-pro"), PRO)}
    assert "its layers read from disk" in stages["inherit"].what


def costs_of(recipe, **changes) -> dict[str, float]:
    """FLOPs of each stage with other settings of the training."""
    changed = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **changes))
    return {stage.name: stage.flops for stage in stage_costs(changed, PRO)}


def test_the_teacher_beside_the_student_is_in_the_bill() -> None:
    recipe = read_recipe("pangu-pi-1b-pro")
    plain = dataclasses.replace(recipe.train, rounds=2, sampling_rate=0.5, strategy="exp-loss")
    recipe = dataclasses.replace(recipe, train=plain)
    assert "teacher's passes" not in costs_of(recipe)
    live = costs_of(recipe, distillation="live")["teacher's passes"]
    teacher, _ = teacher_shape(recipe.teacher, PRO)
    teacher = dataclasses.replace(teacher, vocab_size=PRO.vocab_size)
    tokens = plain.steps * plain.tokens_per_batch
    assert live == pytest.approx(tokens * forward_flops(teacher, plain.sequence_length))
    # the text of the first round, two thirds of it
    assert costs_of(recipe, distillation="stored")["teacher's passes"] == pytest.approx(live / 1.5)
    assert costs_of(recipe, strategy="excess-loss")["teacher's passes"] == pytest.approx(live / 1.5)


def test_how_often_a_text_is_read_is_said_where_its_size_is_known(tmp_path) -> None:
    recipe = read_recipe("demo")
    assert passes_over_text(recipe, 10**6) == []  # of a package: known when it is read
    paths = tuple(str(corpus_file(tmp_path / name, 40)) for name in ("a.jsonl", "b.jsonl"))
    size = (tmp_path / "a.jsonl").stat().st_size

    def read(**changes) -> list[float]:
        corpus = dataclasses.replace(recipe.corpus, valid_fraction=0.5, paths=paths, **changes)
        changed = dataclasses.replace(recipe, corpus=corpus)
        return [count for _, count in passes_over_text(changed, round(size / 4.3))]

    assert read() == pytest.approx([1.0], rel=1e-3)
    assert read(weights=(3.0, 1.0)) == pytest.approx([1.5, 0.5], rel=1e-3)
    assert read(weights=(1.0, 0.0)) == pytest.approx([2.0], rel=1e-3)


def test_a_text_that_is_not_there_is_said_by_the_dry_run(tmp_path) -> None:
    recipe = read_recipe("demo")
    corpus = dataclasses.replace(recipe.corpus, paths=(str(tmp_path / "none.jsonl"),))
    with pytest.raises(InputError, match="does not exist: give a file or folder"):
        stage_costs(dataclasses.replace(recipe, corpus=corpus), PRO)
