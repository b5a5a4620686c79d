"""Schedule, float32 weights, guards."""

import itertools
import json
import math

import numpy as np
import pytest
import torch

from tinylm.train.batches import Plan
from tinylm.train.config import TrainConfig
from tinylm.train.guards import Guard
from tinylm.train.master_weights import MasterWeights, clip_gradients
from tinylm.train.optimizers import OPTIMIZERS
from tinylm.train.schedule import learning_rate


def plan_of(config, *steps):
    return Plan(config, np.zeros((1, 1)), steps)


def test_learning_rate_warms_up_then_falls_as_a_cosine_over_all_rounds():
    config = TrainConfig(base_lr=1.0, warmup=0.1, warmup_steps=0, min_lr_ratio=0.1)
    rates = [learning_rate(config, plan_of(config, 60, 40), step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[9] == rates[10] == pytest.approx(
        1.0
    )
    assert rates[-1] == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    middle = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (55 - 10) / 89))
    assert rates[55] == pytest.approx(middle)


def test_restart_gives_each_round_its_own_cosine():
    config = TrainConfig(base_lr=1.0, warmup=0.1, warmup_steps=0, round_schedule="restart")
    rates = [learning_rate(config, plan_of(config, 60, 40), step) for step in range(100)]
    assert (
        rates[59] == pytest.approx(0.1)
        and rates[60] == pytest.approx(0.25)
        and rates[63] == pytest.approx(1.0)
    )


def test_float32_copies_keep_updates_that_bfloat16_would_round_away():
    model = torch.nn.Linear(4, 4, bias=False)
    torch.nn.init.ones_(model.weight)
    masters = MasterWeights(model, torch.bfloat16)
    optimizer = torch.optim.SGD(masters.weights, lr=1.0)
    for _ in range(64):
        model.weight.grad = torch.full((4, 4), 1e-4, dtype=torch.bfloat16)
        masters.collect_gradients()
        optimizer.step()
        masters.update_model()
        masters.clear_gradients()
    assert model.weight.dtype == torch.bfloat16
    assert masters.weights[0][0, 0].item() == pytest.approx(1 - 64e-4, abs=1e-4)
    assert model.weight[0, 0].item() < 1
    masters.restore_model(torch.float32)
    assert torch.equal(model.weight, masters.weights[0])


def test_micro_batch_gradients_add_up():
    model = torch.nn.Linear(4, 4, bias=False)
    masters = MasterWeights(model, torch.bfloat16)
    for value in (1.0, 2.0):
        model.weight.grad = torch.full((4, 4), value, dtype=torch.bfloat16)
        masters.collect_gradients()
    assert (masters.weights[0].grad == 3).all()


def test_only_matrices_decay():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    (optimizer,) = OPTIMIZERS["adamw"](TrainConfig(), MasterWeights(model, torch.float32))
    decay = {
        p.ndim: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert decay == {2: 0.1, 1: 0.0}


def test_clip_returns_the_norm_before_and_limits_it():
    weight = torch.nn.Parameter(torch.zeros(4))
    weight.grad = torch.full((4,), 3.0)
    assert clip_gradients([weight], 1.0).item() == pytest.approx(6.0)
    assert weight.grad.norm().item() == pytest.approx(1.0, rel=1e-4)
    weight.grad = torch.full((4,), 3.0)
    clip_gradients([weight], 0.0)
    assert weight.grad.norm().item() == pytest.approx(6.0)


def test_guard_refuses_what_is_not_a_number_and_spikes_and_is_exhausted_after_a_limit():
    guard = Guard(TrainConfig(max_skips=3))
    assert "loss of nan" in guard.refuses(float("nan"), 1.0)
    assert "norm of inf" in guard.refuses(2.0, float("inf"))
    assert guard.in_a_row == 2
    for step in range(60):
        assert guard.refuses(3.0 + 0.1 * (step % 2), 1.0) is None
    assert guard.in_a_row == 0
    assert guard.refuses(3.3, 1.0) is None  # 5 sigma
    assert "6 sigma" in guard.refuses(3.6, 1.0)
    assert not guard.exhausted
    guard.refuses(float("inf"), 1.0)
    assert guard.exhausted and "4 steps were skipped" in str(guard.stop(63))
    copy = Guard(TrainConfig())
    copy.restore(json.loads(json.dumps(guard.state())))
    assert copy.recent == guard.recent and copy.skipped == 4


def test_guard_knows_a_spike_from_the_first_step_when_it_is_told_what_to_expect():
    guard = Guard(TrainConfig())
    assert guard.refuses(50.0, 1.0) is None  # nothing is known: not a spike
    guard.expect(5.9)
    assert guard.refuses(7.8, 1.0) is None
    assert "held-out text has 5.90" in guard.refuses(18.8, 1.0)
    copy = Guard(TrainConfig())
    copy.restore(json.loads(json.dumps(guard.state())))
    assert copy.expected == 5.9 and copy.in_a_row == 1
