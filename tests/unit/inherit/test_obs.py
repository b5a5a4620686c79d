"""Elimination of FFN units against brute force: solve for every unit left out, take the least."""

import pytest
import torch
import torch.nn.functional as F
from builders import FAMILIES, family_model

from tinylm.inherit import obs, units
from tinylm.models import families
from tinylm.models.shape import Shape

IDS = torch.randint(64, (20, 24), generator=torch.Generator().manual_seed(1))


def missing(gram: torch.Tensor, weight: torch.Tensor, left: list[int]) -> float:
    """What the best weights of the units ``left`` still miss of all units' output, with its ridge
    towards nothing, float64."""
    cross = gram[left] @ weight.T
    solved = torch.linalg.solve(gram[left][:, left], cross)
    return float((weight @ gram * weight).sum() - (solved * cross).sum())


@pytest.mark.parametrize("seed", range(3))
def test_each_time_the_unit_goes_that_is_missed_least(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(200, 12, generator=generator) @ torch.randn(12, 12, generator=generator)
    gram, weight = (mixed.T @ mixed).double(), torch.randn(5, 12, generator=generator).double()
    order = obs.elimination_order(gram, weight, blocks=12)
    ridged = gram + obs.RIDGE * gram.diagonal().mean() * torch.eye(12)
    left = list(range(12))
    for step in range(11):
        misses = {
            unit: missing(ridged, weight, [other for other in left if other != unit])
            for unit in left
        }
        goes = min(misses, key=misses.__getitem__)
        assert int(order[goes]) == step
        left.remove(goes)
    assert sorted(order.tolist()) == list(range(12))


def test_blocks_end_near_where_single_steps_do() -> None:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(2000, 96, generator=generator) @ torch.randn(96, 96, generator=generator)
    gram, weight = (mixed.T @ mixed).double(), torch.randn(16, 96, generator=generator).double()

    def left_out(order: torch.Tensor) -> float:
        return missing(gram, weight, (order >= 48).nonzero()[:, 0].tolist())

    singly = left_out(obs.elimination_order(gram, weight, blocks=96))
    assert left_out(obs.elimination_order(gram, weight, blocks=48)) < 1.1 * singly
    assert singly < 0.9 * left_out(weight.square().sum(0).argsort().argsort().float())


def test_a_copy_of_a_unit_goes_before_it_and_a_silent_one_first() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 8, generator=generator).double()
    x[:, 3] = x[:, 5]
    x[:, 6] = 0
    order = obs.elimination_order(x.T @ x, torch.eye(8).double(), blocks=8)
    assert int(order[6]) == 0 and min(int(order[3]), int(order[5])) == 1
    silent = obs.elimination_order(torch.zeros(4, 4), torch.diag(torch.tensor([3.0, 1, 4, 2])))
    assert silent.tolist() == [2, 0, 3, 1]


@pytest.mark.parametrize("family", ["llama", "phi3", "granite", "olmo2", "gemma3_text"])
def test_the_gradients_are_those_of_the_ffn_s_output(family: str) -> None:
    model = family_model(family)
    shape = Shape.from_config(model.config)
    outputs = torch.zeros(4, shape.hidden_size, shape.hidden_size)
    scores = units.taylor(model, IDS[:6], 4, outputs)
    for axis, values in units.taylor(model, IDS[:6], 4).items():
        assert torch.equal(scores[axis], values), axis
    expected = torch.zeros_like(outputs)
    for chunk in IDS[:6]:
        kept: list[torch.Tensor] = []
        handles = [
            layer.mlp.down_proj.register_forward_hook(
                lambda module, args, out, kept=kept: kept.append(out) or out.retain_grad()
            )
            for layer in model.model.layers
        ]
        logits = model(input_ids=chunk[None]).logits[0, :-1]
        F.cross_entropy(logits.float(), chunk[1:]).backward()
        for handle in handles:
            handle.remove()
        for layer, out in enumerate(kept):
            expected[layer] += out.grad[0].T @ out.grad[0]
    torch.testing.assert_close(outputs, expected, rtol=2e-3, atol=1e-5 * float(expected.max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_stays_misses_less_of_a_layer_than_a_random_choice(family: str) -> None:
    model = family_model(family)
    shape, down = Shape.from_config(model.config), model.model.layers[1].mlp.down_proj
    scores = obs.obs(model, IDS)
    assert scores[families.HIDDEN].shape == (shape.hidden_size,)
    seen: list[torch.Tensor] = []
    handle = down.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model(input_ids=IDS)
    handle.remove()
    x = seen[0].flatten(0, 1).double()
    outputs = torch.zeros(4, shape.hidden_size, shape.hidden_size)
    units.taylor(model, IDS, outputs=outputs)
    values, vectors = torch.linalg.eigh(outputs[1].double())
    factor = vectors * values.clamp_min(0).sqrt()  # W^T G W = (L^T W)^T (L^T W): what matters
    gram, weight = x.T @ x, factor.T @ down.weight.detach().double()

    def left_out(order: torch.Tensor) -> float:
        half = order.argsort()[shape.intermediate_size // 2 :]
        return missing(gram, weight, half.tolist())

    draws = [units.random(shape, seed)[families.FFN][1] for seed in range(8)]
    assert left_out(scores[families.FFN][1]) < min(left_out(draw) for draw in draws)
