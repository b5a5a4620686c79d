"""Which number format each tensor gets, and how it is packed.

The formats are ggml's. The mixes (``Q4_K_M`` ...) give the tensors that hurt most a wider format,
by the rules of llama.cpp's own quantiser. K formats pack 256 weights together, the others 32: a
matrix whose rows do not divide gets the nearest format that fits, as in llama.cpp, and the report
says so.
"""

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType, quantize

from tinylm.errors import InputError
from tinylm.export import llamacpp

_Type = GGMLQuantizationType

# --quantize NAME -> the format of most matrices
BASE: dict[str, GGMLQuantizationType] = {
    "F32": _Type.F32,
    "F16": _Type.F16,
    "BF16": _Type.BF16,
    "Q8_0": _Type.Q8_0,
    "Q6_K": _Type.Q6_K,
    "Q5_K_M": _Type.Q5_K,
    "Q5_K_S": _Type.Q5_K,
    "Q5_1": _Type.Q5_1,
    "Q5_0": _Type.Q5_0,
    "Q4_K_M": _Type.Q4_K,
    "Q4_K_S": _Type.Q4_K,
    "Q4_1": _Type.Q4_1,
    "Q4_0": _Type.Q4_0,
}
_FALLBACK = {
    _Type.Q6_K: _Type.Q8_0,
    _Type.Q5_K: _Type.Q5_1,
    _Type.Q4_K: _Type.Q5_0,
    _Type.Q8_0: _Type.F16,
    _Type.Q5_1: _Type.F16,
    _Type.Q5_0: _Type.F16,
    _Type.Q4_1: _Type.F16,
    _Type.Q4_0: _Type.F16,
}
_K_FORMATS = (_Type.Q4_K, _Type.Q5_K, _Type.Q6_K)
# formats whose packer takes an importance matrix
_WEIGHED = (*_K_FORMATS, _Type.Q5_1, _Type.Q5_0, _Type.Q4_1, _Type.Q4_0)


def check_name(name: str) -> str:
    """``name`` in its usual spelling. InputError when there is no such quantisation, or its packer
    is not installed."""
    name = name.upper()
    if name not in BASE:
        raise InputError(f"no quantisation {name!r}: choose one of {', '.join(BASE)}")
    if BASE[name] in _K_FORMATS and not llamacpp.available():
        raise InputError(
            f"{name} is packed by llama.cpp: pip install 'tinylm[device]', or choose Q8_0, Q5_1 or"
            " Q4_0"
        )
    return name


def takes_importance(name: str) -> bool:
    return BASE[name] in _WEIGHED


def is_float(name: str) -> bool:
    """Whether the format stores floating-point numbers, so that only rounding parts it from the
    model."""
    return name in ("F32", "F16", "BF16")


def file_type(name: str) -> LlamaFileType:
    return LlamaFileType.ALL_F32 if name == "F32" else LlamaFileType[f"MOSTLY_{name}"]


def choose(
    name: str, tensor: str, shape: tuple[int, ...], layers: int, tied: bool
) -> tuple[_Type, _Type]:
    """(wanted, given) formats of the GGUF tensor ``tensor`` under the quantisation ``name``: a
    fallback differs."""
    if len(shape) < 2 or "norm" in tensor:
        return _Type.F32, _Type.F32
    wanted = _wanted(name, tensor, layers, tied)
    given = wanted
    while shape[-1] % GGML_QUANT_SIZES[given][0]:
        given = _FALLBACK[given]
    return wanted, given


def pack(
    weights: np.ndarray, to: GGMLQuantizationType, importance: np.ndarray | None = None
) -> np.ndarray:
    """float32[..., columns] in the format ``to``; ``importance`` float32[columns] weighs the errors
    of formats below 8 bits."""
    weighed = importance is not None and to in _WEIGHED
    if to in _K_FORMATS or weighed:
        block, size = GGML_QUANT_SIZES[to]
        columns = np.ascontiguousarray(importance, dtype=np.float32) if weighed else None
        return llamacpp.quantize_rows(weights, int(to), weights.shape[-1] // block * size, columns)
    return quantize(weights, to)


def _wanted(name: str, tensor: str, layers: int, tied: bool) -> GGMLQuantizationType:
    base = BASE[name]
    if base in (_Type.F32, _Type.F16, _Type.BF16, _Type.Q8_0):
        return base
    # the matrix that makes the logits
    if tensor == ("token_embd.weight" if tied else "output.weight"):
        return _Type.Q6_K if base in _K_FORMATS else _Type.Q8_0
    layer = int(tensor.split(".")[1]) if tensor.startswith("blk.") else 0
    if name.endswith("_M"):
        if ("attn_v." in tensor or "ffn_down" in tensor) and _needs_more_bits(layer, layers):
            return _Type.Q6_K
        if "attn_qkv" in tensor:
            return _Type.Q6_K if base == _Type.Q5_K else _Type.Q5_K
    if name == "Q4_K_S" and (
        ("attn_v." in tensor and layer < 4) or ("ffn_down" in tensor and layer < layers // 8)
    ):
        return _Type.Q5_K
    return base


def _needs_more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth and every third between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
