"""What a recipe costs, before anything starts."""

import dataclasses

import pytest

from tinylm.errors import InputError
from tinylm.models.cost import training_flops
from tinylm.models.parameters import parameters
from tinylm.models.shape import Shape
from tinylm.pipeline.forecast import (
    describe,
    first_words,
    is_large,
    predict_flops,
    training_passes,
)
from tinylm.pipeline.recipe import ArchitectureConfig, Recipe, packaged_recipes, read_recipe
from tinylm.render.numbers import hours
from tinylm.train.config import TrainConfig

PRO = Shape(20, 1792, 5376, 14, 7, 128, 48000, False)


@pytest.mark.parametrize("name", [name for name in packaged_recipes() if name.startswith("pangu")])
def test_the_presets_need_neither_network_nor_teacher(name):
    lines = dict(describe(read_recipe(name), 989, 0.4, 1e12))
    assert is_large(read_recipe(name)) and not is_large(read_recipe("demo"))
    assert (
        "50B tokens" in lines["cost of the student"]
        and "40% of 989 TFLOP/s" in lines["cost of the student"]
    )


def test_the_bill_of_the_pro_recipe_by_hand():
    recipe = read_recipe("pangu-pi-1b-pro")
    lines = dict(describe(recipe, 500, 0.5, 1e12))
    flops = 23842 * 1024 * 2048 * training_flops(PRO, 2048)
    assert lines["parameters"].startswith(f"{parameters(PRO) / 1e6:.1f}M")
    assert (
        f"{flops:.3g} FLOP, {flops / 250e12 / 3600:,.4g} device-hours"
        in lines["cost of the student"]
    )
    assert "the first reads 33.33B tokens of 50B" in lines["rounds"]
    # The frozen model's pass over the first round's two thirds of the tokens costs a third of
    # training them.
    whole = float(lines["with all trials and passes"].split()[0])
    assert whole == pytest.approx(flops * (1 + 2 / 3 / 3), rel=0.01)


@pytest.mark.parametrize(
    ("strategy", "over_one_training"),
    # half of the first round again: it is two thirds, and a pass over it a third of its training
    [("exp-loss", 1 + 2 / 3 / 3), ("uniform", 1), ("all", 1)],
)
def test_a_pass_is_paid_for_only_where_losses_are_used(strategy, over_one_training):
    recipe = read_recipe("pangu-pi-1b-pro")
    chosen = dataclasses.replace(recipe.train, strategy=strategy)
    lines = dict(describe(dataclasses.replace(recipe, train=chosen), 500, 0.5, 1e12))
    flops = 23842 * 1024 * 2048 * training_flops(PRO, 2048)
    paid = lines.get("with all trials and passes", lines["cost of the student"]).split()[0]
    assert float(paid) == pytest.approx(flops * over_one_training, rel=0.01)


def test_trials_of_the_rate_are_in_the_bill():
    recipe = read_recipe("demo")  # 180 steps: trials of 18
    assert training_passes(recipe) == pytest.approx(2 * 1.3)
    fixed = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, base_lr=1e-3))
    assert training_passes(fixed) == 2
    lines = dict(describe(fixed, 989, 0.4, 1e12))
    assert lines["learning rate"] == "0.001 at 4,096 tokens a batch"


@pytest.mark.parametrize(("peak", "mfu"), [(0, 0.4), (989, 0), (989, 1.5)])
def test_impossible_hardware_is_refused(peak, mfu):
    with pytest.raises(InputError, match="must be"):
        describe(read_recipe("pangu-pi-1b"), peak, mfu, 1e12)


def test_first_words_tell_the_time_and_how_little_text_there_is():
    recipe = Recipe(
        architecture=ArchitectureConfig(budget=1e6),
        train=TrainConfig(steps=10, batch_size=2, sequence_length=50),
    )
    said = first_words(recipe, machine_flops=1e9)
    # three trials of ten steps each before the ten of the run; the control does the same
    flops = 6 * 1e6 * 1000 * 4 * 2
    assert said[0].endswith(f"about {hours(flops / 1e9)} on this machine")
    assert "0.001 a parameter" in said[1]
    enough = dataclasses.replace(recipe.train, steps=10_000)
    assert len(first_words(dataclasses.replace(recipe, train=enough), 1e9)) == 1
    whole_corpus = dataclasses.replace(recipe.train, steps=0)
    assert first_words(dataclasses.replace(recipe, train=whole_corpus), 1e9) == []


def test_length_by_the_size_of_the_student_is_in_the_bill():
    demo = read_recipe("demo")  # 32M parameters by budget, 4,096 tokens a step
    long = dataclasses.replace(demo.train, steps=0, tokens_per_parameter=20)
    recipe = dataclasses.replace(demo, train=long)
    by_steps = dataclasses.replace(demo.train, steps=round(20 * 32e6 / 4096))
    assert predict_flops(recipe) == predict_flops(dataclasses.replace(demo, train=by_steps))
    assert len(first_words(recipe, 1e12)) == 1  # no word of too little text
    shape = {"num_layers": 12, "hidden_size": 384, "intermediate_size": 896}
    shape |= {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 64}
    planned = dataclasses.replace(recipe, architecture=ArchitectureConfig(shape=shape))
    size = parameters(Shape.from_dict({"vocab_size": 16384, **shape}))
    lines = dict(describe(planned, 989, 0.4, 1e12))
    assert f"{20 * size / 1e6:.0f}" == f"{float(lines['rounds'].split()[-3][:-1]):.0f}"
