"""Layers that run again: the same scores to the bit, less memory."""

import pytest
import torch
from builders import family_model

from tinylm.inherit import masks, memory, units
from tinylm.inherit.memory import activation_bytes, recomputed_layers
from tinylm.models.shape import Shape

IDS = torch.randint(64, (4, 24), generator=torch.Generator().manual_seed(1))
SMOLLM2 = Shape(30, 576, 1536, 9, 3, 64, 49152, True)


def saved_bytes(model, ids):
    """What one forward pass keeps for its backward pass."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=ids).logits.sum().backward()
    return sum(kept.values())


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "phi3"])
def test_scores_are_the_same_to_the_bit(family, monkeypatch):
    model = family_model(family)
    expected = units.taylor(model, IDS)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1)
    found = units.taylor(model, IDS)
    for axis, values in expected.items():
        assert torch.equal(found[axis], values), axis
    assert "forward" not in vars(model.base_model.layers[0])  # and the model is as it was


@pytest.mark.parametrize("kind", ["hard-concrete", "top-k"])
def test_masks_are_the_same_to_the_bit(kind, monkeypatch):
    model = family_model("llama")
    shape = Shape.from_config(model.config)
    target = Shape.from_dict(
        {**shape.to_dict(), "num_layers": 2, "intermediate_size": shape.intermediate_size // 2}, ""
    )
    expected = masks.learn(model, IDS, target, masks.MaskTraining(kind, steps=4))
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1)
    found = masks.learn(model, IDS, target, masks.MaskTraining(kind, steps=4))
    for axis, values in expected.scores.items():
        assert torch.equal(found.scores[axis], values), axis


def test_a_layer_that_runs_again_keeps_less():
    model = family_model("llama")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.get_input_embeddings().register_forward_hook(
        lambda module, args, out: out.requires_grad_()
    )
    everything = saved_bytes(model, IDS)
    with recomputed_layers(model):
        again = saved_bytes(model, IDS)
    assert again < everything / 2


def test_the_estimate_falls_to_one_layer_and_the_inputs():
    tokens = 4 * 512
    whole = activation_bytes(SMOLLM2, torch.bfloat16, tokens, recompute=False)
    again = activation_bytes(SMOLLM2, torch.bfloat16, tokens, recompute=True)
    assert whole > 10 * again


def test_free_memory_of_this_machine_is_read():
    assert 1e7 < memory.free_bytes(torch.device("cpu")) < 1e14
