"""Every criterion against a brute-force reference that shares no code with it."""

import pytest
import torch
import torch.nn.functional as F
from builders import family_model

from tinylm.inherit import depth, units
from tinylm.models.shape import Shape

IDS = torch.randint(64, (6, 24), generator=torch.Generator().manual_seed(1))


def loss_of(model, ids: torch.Tensor, stride: int = 1) -> torch.Tensor:
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1][:, ::stride]
    return F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:][:, ::stride].flatten())


@pytest.mark.parametrize("family", ["llama", "phi3", "granite"])
def test_taylor_is_weight_times_gradient_summed_per_unit_and_chunk(family: str) -> None:
    model = family_model(family, tied=False)
    scores = units.taylor(model, IDS, batch_size=4)
    expected = units.empty(Shape.from_config(model.config))
    for chunk in IDS:
        model.zero_grad()
        loss_of(model, chunk[None]).backward()
        products = {name: p.detach() * p.grad for name, p in model.named_parameters()}
        hidden = products["model.embed_tokens.weight"].sum(0)
        for layer in range(4):
            o_proj = products[f"model.layers.{layer}.self_attn.o_proj.weight"]
            down = products[f"model.layers.{layer}.mlp.down_proj.weight"]
            expected["q_heads"][layer] += o_proj.sum(0).view(4, 8).sum(1).abs()
            expected["ffn"][layer] += down.sum(0).abs()
            hidden = hidden + o_proj.sum(1) + down.sum(1)
        expected["hidden"] += hidden.abs()
    for axis, values in expected.items():
        torch.testing.assert_close(scores[axis], values, rtol=2e-3, atol=1e-5)


def test_taylor_leaves_the_model_as_it_was_and_nothing_behind() -> None:
    model = family_model("llama")
    before = model(input_ids=IDS).logits
    units.taylor(model, IDS)
    assert all(
        parameter.requires_grad and parameter.grad is None for parameter in model.parameters()
    )
    assert torch.equal(model(input_ids=IDS).logits, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("power", [1, 2])
def test_weight_norms_count_every_weight_of_a_unit(power: int) -> None:
    model = family_model("qwen2", tied=True)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    scores = units.weight_norm(weights, model.config, power)

    def norm(*parts: torch.Tensor) -> float:
        return sum(float(part.abs().pow(power).sum()) for part in parts)

    mlp = [weights[f"model.layers.2.mlp.{name}_proj.weight"] for name in ("gate", "up", "down")]
    assert float(scores["ffn"][2, 5]) == pytest.approx(
        norm(mlp[0][5], mlp[1][5], mlp[2][:, 5]), rel=1e-4
    )
    rows = slice(24, 32)  # query head 3, of key-value head 1
    attention = {k: weights[f"model.layers.1.self_attn.{k}_proj.weight"] for k in "qkvo"}
    bias = {k: weights[f"model.layers.1.self_attn.{k}_proj.bias"] for k in "qkv"}
    own = norm(attention["q"][rows], bias["q"][rows], attention["o"][:, rows])
    shared = norm(attention["k"][8:], attention["v"][8:], bias["k"][8:], bias["v"][8:])
    assert float(scores["q_heads"][1, 3]) == pytest.approx(own + shared / 2, rel=1e-4)
    hidden = sum(
        norm(w.select(d, 7))
        for w in weights.values()
        for d in range(w.dim())
        if w.shape[d] == 32 and w.dim() == 1
    )
    assert float(scores["hidden"][7]) > hidden


def test_activation_is_the_l2_over_chunks_of_mean_sizes() -> None:
    model = family_model("llama")
    seen: list[torch.Tensor] = []
    handle = model.model.layers[3].mlp.down_proj.register_forward_pre_hook(
        lambda m, args: seen.append(args[0])
    )
    with torch.no_grad():
        model(input_ids=IDS)
    handle.remove()
    scores = units.activation(model, IDS, batch_size=4)
    torch.testing.assert_close(
        scores["ffn"][3], seen[0].abs().mean(1).norm(dim=0), rtol=1e-4, atol=1e-6
    )


# one kind of layer each
@pytest.mark.parametrize("family", ["llama", "phi3", "qwen3", "gemma", "granite", "olmo2"])
def test_skip_loss_is_the_loss_of_the_model_without_the_layer(family: str) -> None:
    model = family_model(family)
    rises, layers = depth.skip_loss(model, IDS), list(model.model.layers)
    with torch.no_grad():
        base = loss_of(model, IDS, depth.LOSS_STRIDE)
        model.config.num_hidden_layers = 3
        for skipped in range(4):
            model.model.layers = torch.nn.ModuleList(
                layer for layer in layers if layer is not layers[skipped]
            )
            without = loss_of(model, IDS, depth.LOSS_STRIDE)
            assert float(rises[skipped]) == pytest.approx(float(without - base), abs=2e-4)


def test_greedy_removes_the_cheapest_layer_of_what_is_left() -> None:
    model = family_model("llama", num_hidden_layers=6)
    importance = depth.greedy(model, IDS, 3)
    left = list(range(6))
    layers = list(model.model.layers)
    with torch.no_grad():
        for step in range(3):
            losses = {}
            for candidate in left:
                kept = [i for i in left if i != candidate]
                model.model.layers = torch.nn.ModuleList(layers[i] for i in kept)
                model.config.num_hidden_layers = len(kept)
                losses[candidate] = float(loss_of(model, IDS, depth.LOSS_STRIDE))
            cheapest = min(losses, key=losses.get)
            assert float(importance[cheapest]) == step - 6
            left.remove(cheapest)
    assert (importance[left] > importance.sort().values[2]).all()


def test_similarity_and_position() -> None:
    model = family_model("llama")
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight.zero_()
        model.model.layers[1].mlp.down_proj.weight.zero_()
    influence = depth.similarity(model, IDS)
    assert int(influence.argmin()) == 1 and float(influence[1]) == pytest.approx(0, abs=1e-5)
    assert depth.first_last(5).argsort(descending=True).tolist() == [0, 4, 1, 3, 2]


def test_random_scores_follow_the_seed() -> None:
    shape = Shape(4, 32, 48, 4, 2, 8, 64)
    assert torch.equal(units.random(shape, 3)["ffn"], units.random(shape, 3)["ffn"])
    assert not torch.equal(units.random(shape, 3)["ffn"], units.random(shape, 4)["ffn"])


def test_greedy_that_removes_nothing_still_ranks_the_layers() -> None:
    """Its scores may serve a shallower shape later."""
    model = family_model("llama")
    importance = depth.greedy(model, IDS, 4)
    assert len(set(importance.tolist())) == 4
    assert torch.equal(importance.argsort(), depth.skip_loss(model, IDS).argsort())
