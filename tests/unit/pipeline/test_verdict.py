"""What a run came to, in words that follow its numbers."""

import copy

import pytest
from test_pipeline_report import RESULTS

from tinylm.pipeline.verdict import doubling, headline, next_steps, outlook


def made(**changes):
    results = copy.deepcopy(RESULTS)
    results["recipe"] = {"train": {"steps": 8}}
    results["looks"] = {"student": [[0, 6.0], [1024, 5.0], [2048, 4.4], [4096, 4.0]]}
    for key, value in changes.items():
        results[key] = value
    return results


def test_the_control_comes_first():
    text = headline(made())
    assert text.startswith("33.3 % lower in bits per byte than the same shape from random weights")
    assert "12.0M parameters from a 30.0M teacher: 1.400 bits per byte" in text
    worse = made(gain_over_control=RESULTS["gain_over_control"] | {"percent": -5.0})
    assert headline(worse).startswith("5.0 % HIGHER")
    assert headline(made(gain_over_control=None)).startswith("12.0M parameters")


def test_floors_and_a_training_that_gained_nothing_are_said():
    text = headline(made(floors={"bigram": 1.75}))
    assert "20 % lower than bigrams" in text and "(1.750), which beat the control." in text
    assert "which beat" not in headline(made(floors={"bigram": 2.5}))
    assert "12 % HIGHER than bigrams" in headline(made(floors={"bigram": 1.25}))
    nothing = made(train={"train": {"published_step": 0}})
    assert headline(nothing).startswith("TRAINING GAINED NOTHING")


def test_twice_the_tokens_gain_what_the_second_half_gained():
    # 4.4 nats at half of the tokens, 4.0 at the end: 3.6 is nine tenths of the bits
    assert doubling(made()) == pytest.approx(1.4 * 3.6 / 4.0)
    assert outlook(made()) == "Training still falls: twice the tokens would give about 1.26."
    level = made(looks={"student": [[0, 6.0], [2048, 4.001], [4096, 4.0]]})
    assert outlook(level).startswith("Training has levelled off")
    rising = made(looks={"student": [[0, 3.0], [2048, 3.5], [4096, 4.0]]})
    assert doubling(rising) == 1.4
    for unknown in ({}, {"student": []}, {"student": [[4096, 4.0]]}):
        assert doubling(made(looks=unknown)) is None and outlook(made(looks=unknown)) == ""


def test_next_steps_are_commands_that_fit():
    steps = dict(next_steps(made(), "runs/a b/model"))
    assert steps["read it"] == "tinylm generate --model 'runs/a b/model' --prompt \"The\""
    assert steps["ship it"].endswith("--quantize Q8_0 --out 'runs/a b/tiny.gguf'")
    longer = steps["twice the tokens, about 1.26 bits per byte"]
    assert longer == "tinylm run demo --set train.steps=16 name=made-<up>-longer"
    assert not any("vocabulary" in why for why in steps)  # 768 tokens are more than there are
    dear = made(tokenizer=RESULTS["tokenizer"] | {"parent_vocab_size": 5000})
    (why, command) = next_steps(dear)[-1]
    assert "384 tokens cost 0.10 before" in why and "tokenizer.vocab_size=768" in command
    level = made(looks={"student": [[0, 6.0], [2048, 4.0], [4096, 4.0]]})
    assert not any("twice" in why for why, _ in next_steps(level))


def test_a_longer_run_than_steps_say_is_not_proposed():
    assert not any("twice" in why for why, _ in next_steps(made(recipe={"train": {"steps": 0}})))
