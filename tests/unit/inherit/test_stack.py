"""A teacher whose layers stay on disk: the same scores, the same student, one layer at a time in
memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import FAMILIES, family_model

from tinylm.errors import WorkError
from tinylm.inherit import depth, masks, obs, units
from tinylm.inherit.inheritance import inherit
from tinylm.inherit.stack import Stack, streamed_teacher
from tinylm.models.shape import Shape

IDS = torch.randint(64, (20, 24), generator=torch.Generator().manual_seed(1))
CPU = torch.device("cpu")


def on_disk(model: Any, folder: Path) -> Stack:
    model.save_pretrained(folder)
    return streamed_teacher(folder, torch.float32, CPU)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "score", [units.taylor, units.activation, obs.obs, depth.similarity, depth.skip_loss]
)
def test_scores_are_those_of_the_whole_teacher(family: str, score: Any, tmp_path: Path) -> None:
    model = family_model(family)
    expected, found = score(model, IDS), score(on_disk(model, tmp_path), IDS)
    if isinstance(expected, torch.Tensor):
        expected, found = {"layers": expected}, {"layers": found}
    for axis, values in expected.items():
        assert_close(found[axis], values)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "olmo2"])
def test_greedy_removes_the_same_layers(family: str, tmp_path: Path) -> None:
    model = family_model(family)
    assert_close(
        depth.greedy(on_disk(model, tmp_path), IDS, 2, candidates=2),
        depth.greedy(model, IDS, 2, candidates=2),
    )


@pytest.mark.parametrize("kind", ["hard-concrete", "top-k"])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "olmo2"])
def test_masks_are_learned_alike(family: str, kind: str, tmp_path: Path) -> None:
    model = family_model(family)
    target = half(model)
    training = masks.MaskTraining(kind, steps=3)
    expected = masks.learn(model, IDS, target, training)
    found = masks.learn(on_disk(model, tmp_path), IDS, target, training)
    for axis, values in expected.scores.items():
        assert_close(found.scores[axis], values)
    assert [row["loss"] for row in found.history] == pytest.approx(
        [row["loss"] for row in expected.history], rel=1e-5
    )


@pytest.mark.parametrize("repair", [("norms", "refit"), ("norms", "refit-all")])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_student_is_that_of_the_whole_teacher(
    family: str, repair: tuple[str, ...], tmp_path: Path
) -> None:
    model = family_model(family)
    expected = inherit(model, half(model), IDS, "taylor", "similarity", repair=repair)
    stack = on_disk(model, tmp_path)
    found = inherit(stack, half(model), IDS, "taylor", "similarity", repair=repair)
    assert found.kept.layers == expected.kept.layers
    assert found.repair_losses == pytest.approx(expected.repair_losses, rel=1e-4)
    for (name, weight), other in zip(
        expected.model.named_parameters(), found.model.parameters(), strict=True
    ):
        torch.testing.assert_close(other, weight, rtol=1e-3, atol=1e-4, msg=name)
    assert found.model.generation_config.eos_token_id == model.generation_config.eos_token_id


def test_one_layer_at_a_time_is_in_memory(tmp_path: Path) -> None:
    stack = on_disk(family_model("llama"), tmp_path)
    inside = [len(step.layer.state_dict()) and held(stack) for step in stack.walk([IDS[:2]])]
    assert inside == [[0], [1], [2], [3]] and held(stack) == []
    units.taylor(stack, IDS)
    assert held(stack) == []
    with pytest.raises(ZeroDivisionError), stack.layer(1):
        raise ZeroDivisionError
    assert held(stack) == [], "nor after an error"


def test_a_shard_that_goes_away_meanwhile_is_one_line(tmp_path: Path) -> None:
    stack = on_disk(family_model("llama"), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WorkError, match=r"shard .*model.safetensors can no longer be read"):
        units.activation(stack, IDS)


def held(stack: Stack) -> list[int]:
    """The layers that have weights."""
    return [
        index
        for index, layer in enumerate(stack.layers)
        if any(weight.device.type != "meta" for weight in layer.parameters())
    ]


def half(model: Any) -> Shape:
    shape = Shape.from_config(model.config)
    return Shape.from_dict(
        {
            **shape.to_dict(),
            "num_layers": 2,
            "intermediate_size": shape.intermediate_size // 2,
            "hidden_size": shape.hidden_size // 2,
        },
        "",
    )
