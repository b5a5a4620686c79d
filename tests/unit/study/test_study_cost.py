import pytest

from tinylm.pipeline.forecast import machine_speed, predict_flops
from tinylm.pipeline.recipe import ArchitectureConfig, ControlConfig, Recipe
from tinylm.render.numbers import hours
from tinylm.study.cost import estimate, predict_seconds
from tinylm.train.config import TrainConfig


def recipe(steps=100, rounds=1, control=False, **architecture):
    train = TrainConfig(steps=steps, batch_size=4, sequence_length=128, rounds=rounds, base_lr=1e-3)
    shape = ArchitectureConfig(**(architecture or {"budget": 1e6}))
    return Recipe(train=train, architecture=shape, control=ControlConfig(enabled=control))


def test_six_flops_a_parameter_and_token():
    assert predict_flops(recipe()) == 6 * 1e6 * 100 * 4 * 128


def test_control_and_the_pass_between_rounds_are_counted():
    assert predict_flops(recipe(control=True)) == 2 * predict_flops(recipe())
    # two rounds at 50 %: the first has 2/3 of the steps, and one forward pass over it is a third of
    # training it
    assert predict_flops(recipe(rounds=2)) == pytest.approx(predict_flops(recipe()) * (1 + 2 / 9))


def test_a_shape_counts_its_own_arithmetic():
    shape = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    small, large = (
        predict_flops(recipe(shape={**shape, "head_dim": 16, "num_layers": n})) for n in (2, 4)
    )
    assert 0 < small < large


def test_a_run_of_unknown_length_has_no_prediction():
    assert predict_flops(recipe(steps=0)) is None
    assert "unknown" in estimate([recipe(steps=0)], [], 1)


def test_seconds_come_from_finished_runs_scaled_by_arithmetic():
    finished = [(recipe(steps=100), 50.0), (recipe(steps=300), 150.0)]
    assert predict_seconds(recipe(steps=200), finished, 0) == pytest.approx(100)
    assert predict_seconds(recipe(steps=0), finished, 0) == 150
    assert predict_seconds(recipe(), [], 1e9) == pytest.approx(predict_flops(recipe()) / 1e9)
    assert "about 2 min (going by 2 finished runs)" in estimate([recipe(steps=400)], finished, 2)


def test_the_machine_is_measured():
    assert machine_speed() > 1e7


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "unknown"), (40, "40 s"), (600, "10 min"), (12_000, "3 h 20 min")]
)
def test_hours_as_people_say_them(seconds, text):
    assert hours(seconds) == text
