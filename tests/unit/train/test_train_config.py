import dataclasses

import pytest

from tinylm.errors import InputError
from tinylm.train.config import TrainConfig


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("strategy", "best", "exp-loss"),
        ("granularity", "token", "batch, sequence"),
        ("batch_size", 0, "1 or more"),
        ("batch_size", 2.5, "1 or more"),
        ("rounds", 0, "1 or more"),
        ("sampling_rate", 0.0, "above 0"),
        ("sampling_rate", 1.5, "above 0 to 1"),
        ("temperature", 0.0, "above 0"),
        ("base_lr", float("nan"), "above 0"),
        ("base_lr", "1e-3", "above 0"),
        ("beta2", 1.0, "below 1"),
        ("micro_batch_size", 3, "divisor of batch_size"),
        ("trackers", ("paper",), "wandb"),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_what_is_allowed(key, value, allowed):
    with pytest.raises(InputError) as error:
        dataclasses.replace(TrainConfig(), **{key: value}).validate()
    message = str(error.value)
    assert f"train.{key}" in message and repr(value) in message and allowed in message


def test_learning_rate_follows_the_square_root_of_the_batch():
    small = TrainConfig(
        batch_size=8, sequence_length=512, base_lr=2e-4, base_batch_tokens=2_000_000
    )
    large = dataclasses.replace(small, batch_size=32)
    assert large.learning_rate == pytest.approx(2 * small.learning_rate)
    assert small.learning_rate == pytest.approx(2e-4 * (4096 / 2e6) ** 0.5)


def test_defaults_are_valid_and_every_field_is_a_plain_type():
    config = TrainConfig().validate()
    assert all(
        isinstance(value, (int, float, bool, str, tuple)) for value in config.to_dict().values()
    )


def test_length_by_the_size_of_the_model():
    config = TrainConfig(batch_size=4, sequence_length=256, tokens_per_parameter=20).validate()
    settled = config.settle_length(1_000_000)
    assert settled.steps == round(20e6 / 1024) and settled.tokens_per_parameter == 0
    assert settled.settle_length(5) == settled  # settled once
    assert TrainConfig(steps=7).settle_length(1_000_000).steps == 7
    assert config.settle_length(3).steps == 1
    with pytest.raises(InputError, match=r"tokens_per_parameter = 20.*give one of the two"):
        dataclasses.replace(config, steps=3).validate()
