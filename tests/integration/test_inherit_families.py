"""Round trips: every family, every axis cut at once, reloaded from disk by plain transformers."""

import pytest
import torch
from builders import FAMILIES, family_model
from transformers import AutoModelForCausalLM

import tinylm.models.pangu  # noqa: F401  makes transformers know pangu_pi
from tinylm.errors import InputError, WorkError
from tinylm.inherit.inheritance import check_reload, inherit, save
from tinylm.models.shape import Shape

IDS = torch.randint(60, (8, 24), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", [*FAMILIES, "pangu_pi"])
def test_all_axes_cut_at_once_reload_to_the_bit(
    family: str, tied: bool, dtype: torch.dtype, tmp_path
) -> None:
    teacher = family_model(family, tied, dtype)
    target = Shape(3, 24, 40, 2, 1, 8, 60, tied)
    result = inherit(teacher, target, IDS, layers="greedy", vocab=torch.arange(4, 64))
    save(result, tmp_path)  # raises WorkError unless logits are the same to the bit
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    assert Shape.from_config(loaded.config) == target
    assert loaded.generate(
        IDS[:1, :4], max_new_tokens=5, min_new_tokens=5, do_sample=False
    ).shape == (1, 9)
    original, small = (
        teacher.get_input_embeddings().weight,
        result.model.get_input_embeddings().weight,
    )
    scale = (32 / 24) ** 0.5 if "gemma" in family else 1.0
    torch.testing.assert_close(small, (original[4:][:, result.kept.hidden] * scale).to(dtype))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", [*FAMILIES, "pangu_pi"])
def test_the_full_shape_is_the_teacher_bit_for_bit(family: str, tied: bool) -> None:
    teacher = family_model(family, tied)
    result = inherit(
        teacher, Shape.from_config(teacher.config), criterion="l2", layers="first-last", repair=()
    )
    ours = dict(result.model.named_parameters())
    for name, parameter in teacher.named_parameters():
        assert torch.equal(parameter, ours[name]), name
    with torch.no_grad():
        assert torch.equal(teacher(IDS).logits, result.model(IDS).logits)


def test_settings_of_a_layer_follow_it() -> None:
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    teacher = family_model(
        "smollm3",
        no_rope_layers=[1, 0, 1, 1],
        layer_types=kinds,
        use_sliding_window=True,
        sliding_window=8,
    )
    target = Shape(2, 32, 48, 4, 2, 8, 64)
    result = inherit(teacher, target, IDS, repair=())
    layers = result.kept.layers
    assert result.model.config.layer_types == [kinds[layer] for layer in layers]
    assert result.model.config.no_rope_layers == [[1, 0, 1, 1][layer] for layer in layers]
    assert [layer.self_attn.layer_idx for layer in result.model.model.layers] == [0, 1]


def test_a_tied_teacher_gives_an_untied_student() -> None:
    teacher = family_model("llama", tied=True)
    result = inherit(
        teacher,
        Shape(4, 32, 48, 4, 2, 8, 64, False),
        criterion="l2",
        layers="first-last",
        repair=(),
    )
    assert result.model.lm_head.weight is not result.model.model.embed_tokens.weight
    with torch.no_grad():
        assert torch.equal(teacher(IDS).logits, result.model(IDS).logits)


def test_scores_are_reused_for_a_second_shape(monkeypatch) -> None:
    teacher = family_model("llama")
    first = inherit(teacher, Shape(3, 32, 40, 4, 2, 8, 64), IDS, repair=())
    monkeypatch.setattr(
        "tinylm.inherit.inheritance.score", lambda *args, **kwargs: pytest.fail("scored again")
    )
    second = inherit(teacher, Shape(2, 24, 32, 4, 2, 8, 64), scores=first.scores, repair=())
    assert set(second.kept.layers) <= set(first.kept.layers)


def test_a_shape_that_transformers_refuses_is_one_clear_line() -> None:
    with pytest.raises(InputError, match="refused by transformers' llama config"):
        inherit(
            family_model("llama"),
            Shape(4, 30, 48, 4, 2, 8, 64),
            criterion="l2",
            layers="first-last",
            repair=(),
        )


def test_bad_weights_and_calibration_are_one_clear_line() -> None:
    teacher, target = family_model("llama"), Shape(2, 32, 48, 4, 2, 8, 64)
    with pytest.raises(InputError, match="needs calibration text"):
        inherit(teacher, target)
    with pytest.raises(InputError, match="too short"):
        inherit(teacher, target, IDS[:2])
    with pytest.raises(InputError, match="criterion 'magic' is unknown"):
        inherit(teacher, target, IDS, criterion="magic")
    with torch.no_grad():
        teacher.model.layers[1].mlp.up_proj.weight[3, 3] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        inherit(teacher, target, IDS)


def test_a_model_that_does_not_reload_is_not_done(tmp_path) -> None:
    model = family_model("llama")
    model.save_pretrained(tmp_path)
    check_reload(model, tmp_path)
    with torch.no_grad():
        model.model.norm.weight[0] += 1
    with pytest.raises(WorkError, match="differ by up to"):
        check_reload(model, tmp_path)
