import dataclasses

import pytest
import torch
from builders import FAMILIES, family_model

from tinylm.inherit import masks
from tinylm.inherit.cut import build, cut, model_weights
from tinylm.inherit.inheritance import inherit
from tinylm.inherit.norms import embedding_scale, norm_gains
from tinylm.inherit.scores import Scores
from tinylm.inherit.select import best_heads, select
from tinylm.models import families
from tinylm.models.pangu import from_llama
from tinylm.models.shape import Shape

IDS = torch.randint(1, 64, (8, 24), generator=torch.Generator().manual_seed(1))


def random_selection(teacher, target: Shape):
    sizes = ((4, 48), (4, 4), (32,), (4,))
    generator = torch.Generator().manual_seed(5)
    return select(
        Scores(*(torch.rand(size, generator=generator) for size in sizes)),
        Shape.from_config(teacher.config),
        target,
    )


def binary_gates(kept, shape: Shape):
    """The gates that a selection means: 1 for what stays. Rows of dropped layers are 1 (the layer's
    own gate is 0)."""
    ffn, q_heads = (
        torch.ones(shape.num_layers, shape.intermediate_size),
        torch.ones(shape.num_layers, shape.num_attention_heads),
    )
    for new, old in enumerate(kept.layers):
        ffn[old] = masks._indicator(kept.ffn[new], shape.intermediate_size)
        q_heads[old] = masks._indicator(kept.q_heads[new], shape.num_attention_heads)
    hidden = masks._indicator(kept.hidden, shape.hidden_size)
    layers = masks._indicator(torch.tensor(kept.layers), shape.num_layers)
    return {
        families.FFN: ffn,
        families.Q_HEADS: q_heads,
        families.HIDDEN: hidden,
        masks.LAYERS: layers,
    }


@pytest.mark.parametrize("family", [*FAMILIES, "pangu_pi"])
def test_the_masked_teacher_is_the_exported_student(family: str) -> None:
    teacher = family_model("llama" if family == "pangu_pi" else family)
    if family == "pangu_pi":
        teacher = from_llama(teacher)
        for layer in teacher.model.layers:
            torch.nn.init.normal_(layer.self_attn.shortcut.up.weight)
    with torch.no_grad():
        teacher.get_input_embeddings().weight.mul_(20)  # large beside the norms' eps
    shape = Shape.from_config(teacher.config)
    target = dataclasses.replace(
        shape,
        num_layers=3,
        hidden_size=24,
        intermediate_size=40,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    kept = random_selection(teacher, target)
    student = build(
        cut(model_weights(teacher), teacher.config, target, kept),
        teacher.config,
        target,
        kept,
        torch.float32,
    )
    embedding_scale(student, 32)
    # without calibration: as if the dropped numbers had been zero, as they are here
    norm_gains(student, teacher, kept)
    with torch.no_grad(), masks.gated(teacher, binary_gates(kept, shape)):
        masked = teacher(IDS, use_cache=False).logits
    with torch.no_grad():
        exported, whole = student(IDS).logits, teacher(IDS).logits
    torch.testing.assert_close(masked, exported, rtol=2e-3, atol=2e-3 * float(masked.abs().max()))
    assert float((whole - masked).abs().max()) > 20 * float((masked - exported).abs().max())


def test_open_probability_is_what_samples_say_corrected_for_the_clamp() -> None:
    generator = torch.Generator().manual_seed(0)
    raw = {}
    for log_alpha in (-masks.CLAMP, -1.0, 0.5, masks.CLAMP):
        samples = masks.hard_concrete(torch.full((200_000,), log_alpha), generator)
        raw[log_alpha] = float((samples > 0).float().mean())
    # the bias that the correction removes
    assert raw[-masks.CLAMP] == pytest.approx(0.047, abs=0.003)
    least, most = raw[-masks.CLAMP], raw[masks.CLAMP]
    for log_alpha, probability in raw.items():
        expected = (probability - least) / (most - least)
        assert float(masks.open_probability(torch.tensor(log_alpha))) == pytest.approx(
            expected, abs=0.01
        )


def test_top_k_opens_exactly_k_and_passes_gradients() -> None:
    values = torch.tensor([[0.1, 2.0, -1.0, 0.5]], requires_grad=True)
    gate = masks.top_k(values, 2)
    assert gate.detach().round(decimals=5).tolist() == [[0.0, 1.0, 0.0, 1.0]]
    (gate * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert (values.grad > 0).all()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_hold_reaches_any_share_and_keeps_the_order(share: float) -> None:
    values = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * 3
    held = masks.hold(values, share)
    torch.testing.assert_close(
        masks.open_probability(held).mean(-1), torch.full((3,), share), rtol=0, atol=1e-4
    )
    assert (held.gather(-1, values.argsort(-1)).diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("kind", ["hard-concrete", "top-k"])
def test_masks_find_the_units_that_do_the_work(kind: str) -> None:
    teacher = family_model("llama")
    with torch.no_grad():
        for layer in teacher.model.layers:
            layer.mlp.down_proj.weight[:, ::2] = 0  # half of the units do nothing
    # a little training, so that the other half reduces the loss
    optimizer = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        teacher(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        for layer in teacher.model.layers:
            layer.mlp.down_proj.weight.grad[:, ::2] = 0
        optimizer.step()
    target = dataclasses.replace(Shape.from_config(teacher.config), intermediate_size=24)
    learned = masks.learn(
        teacher, IDS, target, masks.MaskTraining(kind, 60, 8, 0.2), layers=[0, 1, 2, 3]
    )
    chosen = learned.scores["ffn"].topk(24, -1).indices
    assert float((chosen % 2 == 1).float().mean()) > 0.7
    if kind == "hard-concrete":
        assert learned.history[-1]["ffn"] == pytest.approx(0.5, abs=1e-3)


def test_heads_are_learned_inside_the_groups_that_the_cut_keeps() -> None:
    """With 8 heads in 4 groups: one head of each group, two whole groups, or one head of each of
    two groups."""
    teacher = family_model("llama", num_attention_heads=8, num_key_value_heads=4)
    whole = Shape.from_config(teacher.config)
    for heads, groups in ((4, 4), (4, 2), (2, 2)):
        target = dataclasses.replace(whole, num_attention_heads=heads, num_key_value_heads=groups)
        found = masks.learn(
            teacher, IDS, target, masks.MaskTraining(steps=6, batch_size=4), layers=[0, 1, 2, 3]
        )
        open_groups, open_heads = (
            found.history[-1].get(axis, 1.0) for axis in ("kv_groups", "q_heads")
        )
        assert (open_groups, open_heads) == pytest.approx(
            (groups / 4, heads / groups / 2), abs=1e-3
        )


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (2, 2)])
def test_the_heads_that_were_open_are_those_that_the_cut_keeps(
    heads: int, groups: int, monkeypatch
) -> None:
    teacher = family_model("llama", num_attention_heads=8, num_key_value_heads=4)
    whole = Shape.from_config(teacher.config)
    target = dataclasses.replace(whole, num_attention_heads=heads, num_key_value_heads=groups)
    seen, gated = [], masks.gated
    monkeypatch.setattr(
        masks, "gated", lambda model, gates: seen.append(gates["q_heads"]) or gated(model, gates)
    )
    found = masks.learn(
        teacher, IDS, target, masks.MaskTraining("top-k", 1, 4, 0.0), layers=[0, 1, 2, 3]
    )
    for layer, scores in enumerate(found.scores["q_heads"]):
        kept = best_heads(scores, whole, target)[0].tolist()
        assert [head for head in range(8) if seen[0][layer, head] > 0.5] == kept


def test_a_cut_in_depth_alone_leaves_nothing_to_learn() -> None:
    teacher = family_model("llama")
    target = dataclasses.replace(Shape.from_config(teacher.config), num_layers=2)
    result = inherit(teacher, target, IDS, criterion="learned", repair=())
    assert (
        Shape.from_config(result.model.config) == target
        and result.scores.metadata.get("masks") is None
    )


def test_learned_masks_end_in_the_target_shape() -> None:
    teacher = family_model("qwen3")
    target = Shape(3, 24, 40, 2, 2, 8, 64)
    result = inherit(teacher, target, IDS, criterion="learned", layers="learned")
    assert Shape.from_config(result.model.config) == target
    last = result.scores.metadata["masks"][-1]
    shares = {"ffn": 40 / 48, "q_heads": 2 / 4, "hidden": 24 / 32, "layers": 3 / 4}
    assert {axis: last[axis] for axis in shares} == pytest.approx(shares, abs=1e-3)
    assert all(parameter.requires_grad for parameter in teacher.parameters())
