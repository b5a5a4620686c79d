"""Costs by arithmetic equal what PyTorch counts, stores and keeps."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tinylm.models import cost
from tinylm.models.families import FAMILIES
from tinylm.models.pangu import PanguPiConfig
from tinylm.models.parameters import parameters
from tinylm.models.shape import Shape

# importing it also registers it with AutoModelForCausalLM
assert PanguPiConfig.model_type in FAMILIES

SHAPE = Shape(2, 96, 160, 6, 2, 16, 300, True)
UNTIED = Shape(3, 64, 96, 4, 4, 32, 256, False)


def config_of(family: str, shape: Shape):
    config = shape.to_config(CONFIG_MAPPING[family]())
    config.pad_token_id = 0
    config._attn_implementation = "eager"
    return config


def counted_flops(config, batch: int, context: int, backward: bool) -> int:
    model = AutoModelForCausalLM.from_config(config)
    tokens = torch.zeros(batch, context, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=tokens, use_cache=False).logits
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", [SHAPE, UNTIED])
def test_flops_equal_the_flop_counter_within_one_percent(family: str, shape: Shape) -> None:
    config = config_of(family, shape)
    tokens = 2 * 32
    forward = counted_flops(config, 2, 32, backward=False)
    both = counted_flops(config, 2, 32, backward=True)
    assert tokens * cost.forward_flops(shape, 32, config) == pytest.approx(forward, rel=0.01)
    assert tokens * cost.training_flops(shape, 32, config) == pytest.approx(both, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [SHAPE, UNTIED])
def test_activations_equal_what_autograd_keeps(shape: Shape, dtype: torch.dtype) -> None:
    kept = kept_bytes_per_token(shape, dtype, checkpointing=False)
    assert cost.activation_bytes_per_token(shape, dtype.itemsize) == pytest.approx(kept, abs=1)
    kept = kept_bytes_per_token(shape, dtype, checkpointing=True)
    assert cost.activation_bytes_per_token(
        shape, dtype.itemsize, checkpointing=True
    ) == pytest.approx(kept, abs=1)


def kept_bytes_per_token(shape: Shape, dtype: torch.dtype, checkpointing: bool) -> float:
    config = shape.to_config(LlamaConfig(attn_implementation="sdpa", use_cache=False))
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    # by storage; the tensor is held so that no address is used twice
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    tokens = torch.zeros(2, 64, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=tokens, labels=tokens)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / tokens.numel()


def test_weight_and_cache_bytes() -> None:
    sizes = cost.weight_bytes(SHAPE)
    assert sizes["fp32"] == 4 * parameters(SHAPE) and sizes["bf16"] == 2 * parameters(SHAPE)
    vectors = 5 * SHAPE.hidden_size  # two gains a layer and the last one
    assert sizes["Q8_0"] == (parameters(SHAPE) - vectors) * 34 / 32 + 4 * vectors
    assert sizes["Q4_0"] == (parameters(SHAPE) - vectors) * 18 / 32 + 4 * vectors
    assert cost.kv_cache_bytes_per_token(SHAPE) == 2 * 2 * (2 * 16) * 2


def test_quantised_bytes_equal_gguf() -> None:
    import gguf

    rows, columns = 64, 96
    for name in ("Q8_0", "Q4_0"):
        kind = gguf.GGMLQuantizationType[name]
        data = gguf.quants.quantize(torch.randn(rows, columns).numpy(), kind)
        assert data.nbytes == rows * columns * cost.BYTES_PER_WEIGHT[name]


def test_cache_bytes_equal_transformers() -> None:
    model = AutoModelForCausalLM.from_config(SHAPE.to_config(LlamaConfig()))
    cache = model(input_ids=torch.zeros(1, 7, dtype=torch.long), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held == 7 * cost.kv_cache_bytes_per_token(SHAPE, bytes_per_value=4)


def test_bill_of_a_run() -> None:
    bill = cost.training_bill(SHAPE, tokens=1e9, context=2048, peak_flops=989e12, mfu=0.4)
    assert bill["flops"] == 1e9 * cost.training_flops(SHAPE, 2048)
    assert bill["device_hours"] * 3600 * 989e12 * 0.4 == pytest.approx(bill["flops"])
    assert "1B tokens" in cost.describe_bill(bill) and "40% of 989 TFLOP/s" in cost.describe_bill(
        bill
    )
