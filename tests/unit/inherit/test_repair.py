"""Repairs on teachers made so that the right answer is known."""

import dataclasses

import pytest
import torch
from builders import FAMILIES, family_model

from tinylm.errors import InputError
from tinylm.inherit import refit as refit_module
from tinylm.inherit.cut import Kept, build, cut, model_weights
from tinylm.inherit.inheritance import inherit
from tinylm.inherit.norms import embedding_scale, norm_gains
from tinylm.inherit.refit import INPUT_GROUPS, refit
from tinylm.inherit.repair import repair_student
from tinylm.models.shape import Shape

IDS = torch.randint(1, 64, (8, 24), generator=torch.Generator().manual_seed(1))
TEST = torch.randint(1, 64, (3, 20), generator=torch.Generator().manual_seed(2))


def student_of(teacher, **smaller):
    """A student that keeps the first units of each axis, and what it kept."""
    shape = Shape.from_config(teacher.config)
    target = dataclasses.replace(shape, **smaller)
    layers = list(range(target.num_layers))
    kept = Kept(
        layers,
        torch.arange(target.hidden_size),
        [torch.arange(target.intermediate_size)] * target.num_layers,
        [torch.arange(target.num_attention_heads)] * target.num_layers,
        [torch.arange(target.num_key_value_heads)] * target.num_layers,
    )
    weights = cut(model_weights(teacher), teacher.config, target, kept)
    return build(weights, teacher.config, target, kept, teacher.dtype), kept


@torch.no_grad()
def distance(teacher, student) -> float:
    here, there = teacher(input_ids=TEST).logits, student(input_ids=TEST).logits
    return float((here - there).norm() / here.norm())


@pytest.mark.parametrize("family", ["llama", "phi3", "gemma3_text", "granite", "olmo2"])
def test_dropping_duplicate_units_changes_nothing_after_the_refit(family: str) -> None:
    teacher = family_model(family)
    with torch.no_grad():
        for layer in teacher.model.layers:
            mlp, attention = layer.mlp, layer.self_attn
            for gate in (
                [mlp.gate_up_proj.weight]
                if family == "phi3"
                else [mlp.gate_proj.weight, mlp.up_proj.weight]
            ):
                for half in gate.split(48):
                    half[24:] = half[:24]
            fused = family == "phi3"
            parts = (
                attention.qkv_proj.weight.split([32, 16, 16])
                if fused
                else [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
            )
            for part in parts:  # the second key-value group is the first again
                part[len(part) // 2 :] = part[: len(part) // 2]
            if family == "olmo2":
                for norm in (attention.q_norm.weight, attention.k_norm.weight):
                    norm[len(norm) // 2 :] = norm[: len(norm) // 2]
    student, kept = student_of(
        teacher, intermediate_size=24, num_attention_heads=2, num_key_value_heads=1
    )
    before = distance(teacher, student)
    refit(student, teacher, kept, IDS, ridge=1e-7)
    assert before > 0.05 and distance(teacher, student) < 2e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_norm_gains_make_up_for_hidden_numbers_that_were_always_zero(family: str) -> None:
    teacher = family_model(family)
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            if name.endswith(
                ("o_proj.weight", "down_proj.weight", "down_proj.bias", "o_proj.bias")
            ):
                parameter[24:] = 0
            elif name.endswith("embed_tokens.weight"):
                parameter.mul_(20)[:, 24:] = 0  # large beside the norms' eps
    student, kept = student_of(teacher, hidden_size=24)
    before = distance(teacher, student)
    embedding_scale(student, 32)
    norm_gains(student, teacher, kept, IDS)
    assert before > 0.01 and distance(teacher, student) < 2e-3


def test_a_dropped_layer_becomes_part_of_the_layer_before() -> None:
    teacher = family_model("llama")
    # layer 1 repeats what layer 0's MLP adds: one down_proj can do the work of both
    with torch.no_grad():
        first, second = teacher.model.layers[0], teacher.model.layers[1]
        second.self_attn.o_proj.weight.zero_()
        second.mlp.load_state_dict(first.mlp.state_dict())
        second.post_attention_layernorm.weight.copy_(first.post_attention_layernorm.weight)
        first.mlp.down_proj.weight.mul_(0.05)  # so weak that layer 1 sees nearly the same input
    student, kept = student_of(teacher, num_layers=3)
    kept.layers[:] = [0, 2, 3]
    for new, old in enumerate(kept.layers):
        student.model.layers[new].load_state_dict(teacher.model.layers[old].state_dict())
    before = distance(teacher, student)
    refit(student, teacher, kept, IDS, ridge=1e-3)
    assert before > 0.1 and distance(teacher, student) < 0.2 * before


def test_refitting_a_whole_model_leaves_it_alone() -> None:
    teacher = family_model("qwen3")
    student, kept = student_of(teacher)
    refit(student, teacher, kept, IDS, matrices=[name for group in INPUT_GROUPS for name in group])
    assert distance(teacher, student) < 1e-4


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite"])
def test_a_vocabulary_cut_with_the_rest_gives_the_student_of_a_teacher_cut_before(
    family: str,
) -> None:
    teacher, even = family_model(family), torch.arange(0, 64, 2)
    ids = even[IDS % 32]
    shape = dataclasses.replace(Shape.from_config(teacher.config), vocab_size=32)
    target = dataclasses.replace(shape, hidden_size=24, num_layers=2, intermediate_size=32)
    plain = {"criterion": "random", "layers": "first-last"}
    compact = inherit(teacher, shape, repair=(), vocab=even, **plain).model
    assert compact.config.eos_token_id == teacher.config.eos_token_id // 2, (
        "ids in the config follow"
    )
    at_once = inherit(teacher, target, ids, vocab=even, **plain).model
    afterwards = inherit(compact, target, ids // 2, **plain).model
    for mine, other in zip(at_once.parameters(), afterwards.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("ids", [[0, 2, 2, 5], [-1, 0, 1, 2], [0, 1, 2, 64]])
def test_ids_to_keep_that_the_teacher_has_not_are_refused(ids: list[int]) -> None:
    teacher = family_model("llama")
    shape = dataclasses.replace(Shape.from_config(teacher.config), vocab_size=4)
    with pytest.raises(InputError, match="kept ids must ascend from 0 or more to at most 63"):
        inherit(
            teacher,
            shape,
            criterion="random",
            layers="first-last",
            repair=(),
            vocab=torch.tensor(ids),
        )


def test_a_repair_that_raises_the_loss_on_held_out_text_is_taken_back(monkeypatch) -> None:
    teacher, chunks = family_model("llama"), torch.cat([IDS, IDS.flip(1)])
    target = dataclasses.replace(
        Shape.from_config(teacher.config), num_layers=2, intermediate_size=24
    )
    plain = {"criterion": "random", "layers": "first-last"}
    cut_alone = inherit(teacher, target, repair=(), **plain).model
    seen = []

    def harm(student, teacher, kept, chunks) -> None:
        seen.append(len(chunks))
        with torch.no_grad():
            student.base_model.layers[0].mlp.down_proj.weight.normal_(0, 1000)

    monkeypatch.setattr(refit_module, "refit", harm)
    result = inherit(teacher, target, chunks, **plain)
    assert seen == [12] and result.repair_losses["refit"] > result.repair_losses["cut"]
    for mine, other in zip(result.model.parameters(), cut_alone.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_refit_of_float32_weights_is_seen_by_what_runs_after_it() -> None:
    """Where bf16 products are fast autocast casts float32 weights; a kept bf16 copy would hide the
    repair."""
    teacher, chunks = family_model("llama"), torch.cat([IDS, IDS.flip(1)])
    target = dataclasses.replace(
        Shape.from_config(teacher.config), num_layers=3, intermediate_size=24
    )
    losses = inherit(teacher, target, chunks, criterion="random", layers="first-last").repair_losses
    assert losses["refit"] != losses["cut"]


def test_heads_that_a_norm_goes_over_are_made_up_for() -> None:
    """OLMo 2 norms queries over all heads: with fewer the gain must follow, though the hidden size
    stays."""
    teacher = family_model("olmo2")
    student, kept = student_of(teacher, num_attention_heads=2, num_key_value_heads=1)
    before = [layer.self_attn.q_norm.weight.clone() for layer in student.model.layers]
    repair_student(student, teacher, kept, IDS, ("norms",))
    changed = [
        not torch.equal(old, layer.self_attn.q_norm.weight)
        for old, layer in zip(before, student.model.layers)
    ]
    assert all(changed) and torch.equal(student.model.norm.weight, teacher.model.norm.weight)


def test_what_ends_an_answer_is_inherited() -> None:
    """Gemma 2 and Phi-3 name some stop tokens in generation_config.json alone."""
    teacher = family_model("llama")
    teacher.generation_config.eos_token_id = [2, 6]
    teacher.generation_config.temperature = 0.6  # without do_sample: cannot be saved as it is
    shape = dataclasses.replace(Shape.from_config(teacher.config), vocab_size=32)
    plain = {"criterion": "random", "layers": "first-last", "repair": ()}
    student = inherit(teacher, shape, vocab=torch.arange(0, 64, 2), **plain).model
    assert (
        student.generation_config.eos_token_id == [1, 3] and not student.generation_config.do_sample
    )
    student.generation_config.validate(strict=True)
