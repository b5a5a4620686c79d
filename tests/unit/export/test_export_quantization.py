"""Formats of tensors: the mixes, the fallbacks, and what packing loses."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st

from tinylm.errors import InputError
from tinylm.export import llamacpp, quantization


def test_names_in_any_case_and_wrong_names():
    assert quantization.check_name("q8_0") == "Q8_0"
    with pytest.raises(InputError, match=r"Q8_1.*choose one of.*Q4_K_M"):
        quantization.check_name("Q8_1")


def test_k_formats_need_llamacpp(monkeypatch):
    monkeypatch.setattr(llamacpp, "available", lambda: False)
    with pytest.raises(InputError, match=r"tinylm\[device\]"):
        quantization.check_name("Q4_K_M")
    assert quantization.check_name("Q4_0") == "Q4_0"


def given_format(name, tensor, columns, layers=8, tied=True):
    return quantization.choose(name, tensor, (64, columns), layers, tied)[1]


def test_vectors_and_norms_stay_float32():
    assert quantization.choose("Q4_0", "blk.0.attn_q.bias", (64,), 4, True)[1] == Type.F32
    assert quantization.choose("Q8_0", "output_norm.weight", (256,), 4, True)[1] == Type.F32


def test_the_matrix_that_makes_the_logits_is_wider():
    assert given_format("Q4_0", "token_embd.weight", 256) == Type.Q8_0
    assert given_format("Q4_K_M", "token_embd.weight", 256) == Type.Q6_K
    assert given_format("Q4_0", "token_embd.weight", 256, tied=False) == Type.Q4_0
    assert given_format("Q4_0", "output.weight", 256, tied=False) == Type.Q8_0


def test_q4_k_m_widens_the_ends_and_every_third_layer():
    formats = [given_format("Q4_K_M", f"blk.{layer}.ffn_down.weight", 256) for layer in range(8)]
    assert formats == [Type.Q6_K if layer in (0, 3, 6, 7) else Type.Q4_K for layer in range(8)]
    assert given_format("Q4_K_M", "blk.0.ffn_up.weight", 256) == Type.Q4_K


@pytest.mark.parametrize(
    ("name", "columns", "expected"),
    [
        ("Q4_K_M", 192, Type.Q5_0),
        ("Q5_K_M", 192, Type.Q5_1),
        ("Q6_K", 192, Type.Q8_0),
        ("Q4_0", 100, Type.F16),
    ],
)
def test_rows_that_do_not_divide_fall_back(name, columns, expected):
    wanted, got = quantization.choose(name, "blk.1.ffn_up.weight", (64, columns), 8, True)
    assert got == expected != wanted


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K", "Q6_K"])
def test_llamacpp_packs_what_gguf_unpacks(name):
    pytest.importorskip("xllamacpp")
    weights = np.random.default_rng(0).normal(size=(3, 512)).astype(np.float32)
    packed = quantization.pack(weights, Type[name])
    error = np.abs(dequantize(packed, Type[name]) - weights).max() / np.abs(weights).max()
    assert error < {"Q4_K": 0.12, "Q5_K": 0.06, "Q6_K": 0.04}[name]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(-6, 3))
def test_q8_0_errs_by_at_most_half_a_step(seed, exponent):
    weights = (np.random.default_rng(seed).normal(size=(2, 64)) * 10**exponent).astype(np.float32)
    unpacked = dequantize(quantization.pack(weights, Type.Q8_0), Type.Q8_0)
    step = np.abs(weights.reshape(-1, 32)).max(axis=1, keepdims=True) / 127
    error = np.abs(unpacked - weights).reshape(-1, 32)
    assert (error <= 0.5 * step + 127 * step * 2**-10 + 1e-5).all()  # the scale itself is a float16
