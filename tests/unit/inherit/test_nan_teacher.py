"""A teacher that makes NaN of one token: text that holds it is left out, said in a line."""

import dataclasses

import pytest
import torch
from builders import family_model

from tinylm.errors import InputError
from tinylm.inherit.inheritance import inherit
from tinylm.inherit.progress import Progress
from tinylm.inherit.stack import Stack, streamed_teacher
from tinylm.models.shape import Shape

BAD = 63
IDS = torch.randint(BAD, (20, 24), generator=torch.Generator().manual_seed(1))


def nan_prone():
    """The first layer's FFN overflows where a token has something in number 0 of its embedding:
    token 63 alone has."""
    model = family_model("llama", tied=False)
    with torch.no_grad():
        embedding, mlp = model.model.embed_tokens.weight, model.model.layers[0].mlp
        embedding[:, 0] = 0
        embedding[BAD] = 0
        embedding[BAD, 0] = 1
        model.model.layers[0].self_attn.o_proj.weight[0] = 0
        mlp.gate_proj.weight[:, 0] = mlp.up_proj.weight[:, 0] = 1e30
    return model


def half(model) -> Shape:
    shape = Shape.from_config(model.config)
    return dataclasses.replace(shape, num_layers=2, intermediate_size=24)


@pytest.mark.parametrize(
    ("criterion", "layers", "bad"),
    [
        ("taylor", "skip-loss", (3, 17)),
        ("activation", "similarity", (3, 17)),
        ("obs", "greedy", (3,)),
        ("learned", "first-last", (0, 19)),
        ("random", "first-last", (18,)),  # only the repair sees it
    ],
)
def test_bad_chunks_are_left_out(criterion, layers, bad, capsys) -> None:
    model, ids = nan_prone(), IDS.clone()
    ids[list(bad), 5] = BAD
    assert model(input_ids=ids).logits.isnan().flatten(1).any(1).nonzero()[:, 0].tolist() == [*bad]
    found = inherit(model, half(model), ids, criterion, layers)
    assert f"{len(bad)} of 20 calibration chunks make NaN" in " ".join(
        capsys.readouterr().err.split()
    )
    good = [chunk for chunk in range(20) if chunk not in bad]
    expected = inherit(model, half(model), ids[good], criterion, layers)
    for (name, weight), other in zip(
        expected.model.named_parameters(), found.model.parameters(), strict=True
    ):
        assert torch.equal(weight, other), name


@pytest.mark.parametrize("bad", [3, 18])
def test_what_was_kept_of_the_first_try_is_not_taken(bad, tmp_path) -> None:
    """With a folder for what is found so far, kept after every step; 18 is seen by the repair."""
    model, ids = nan_prone(), IDS.clone()
    ids[bad, 5] = BAD
    stack = Stack(model, progress=Progress(tmp_path, seconds=0.0))
    criterion = "obs" if bad == 3 else "random"
    found = inherit(stack, half(model), ids, criterion, "first-last")
    good = [chunk for chunk in range(20) if chunk != bad]
    expected = inherit(model, half(model), ids[good], criterion, "first-last")
    for (name, weight), other in zip(
        expected.model.named_parameters(), found.model.parameters(), strict=True
    ):
        assert torch.equal(weight, other), name


def test_a_teacher_on_disk(tmp_path, capsys) -> None:
    model, ids = nan_prone(), IDS.clone()
    ids[7, 2] = BAD
    model.save_pretrained(tmp_path)
    stack = streamed_teacher(tmp_path, torch.float32, torch.device("cpu"))
    found = inherit(stack, half(model), ids, "taylor", "first-last")
    assert "1 of 20 calibration chunks" in " ".join(capsys.readouterr().err.split())
    assert all(torch.isfinite(weight).all() for weight in found.model.parameters())


def test_too_little_is_left(capsys) -> None:
    model = nan_prone()
    ids = IDS.clone()
    ids[2:, 5] = BAD
    with pytest.raises(InputError, match="calibration is too short"):
        inherit(model, half(model), ids)


def test_a_damaged_teacher_is_named() -> None:
    model = nan_prone()
    ids = IDS.clone()
    ids[:, 5] = BAD
    with pytest.raises(InputError, match="NaN or infinity of all calibration text"):
        inherit(model, half(model), ids)
