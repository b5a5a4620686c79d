"""A folder for Apple's MLX (mlx-lm, LM Studio), with the same checks as GGUF. MLX runs on Linux
too, so they are made anywhere.

mlx-lm writes the folder and packs the weights. It still reads the rotary settings as `transformers`
4 wrote them and takes its own default where they are missing, so it is given both.
"""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinylm.artifact import read_object
from tinylm.errors import WorkError
from tinylm.export.folder import check_choice, export_folder
from tinylm.models.config import first_line
from tinylm.models.save import with_old_keys

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
BITS = {"INT8": 8, "INT4": 4}
GROUPS = (64, 32)  # weights that share a scale; mlx-lm's first choice, and where it does not divide
# int4 of a tied embedding costs most (docs/export.md): it stays at 8 bits
EMBEDDING_BITS = 8


def export_mlx(
    model_dir: str | Path, out: str | Path, quantize: str = "F16", **how: Any
) -> dict[str, Any]:
    """Write the folder ``out`` for mlx-lm. ``quantize``: F32, F16, BF16, INT8 or INT4. ``how`` and
    the report: see :func:`~tinylm.export.folder.export_folder`.

    Raises InputError when mlx-lm is missing or there is no such precision, WorkError when it cannot
    build this family or computes something else.
    """
    model_dir = Path(model_dir)
    quantize = check_choice("MLX", quantize, DTYPES | BITS, ["mlx_lm"], "mlx")

    def write(folder: Path) -> dict[str, str]:
        return _write(model_dir, folder, quantize)

    return export_folder(model_dir, Path(out), quantize, write, MlxModel, **how)


class MlxModel:
    """A folder run by mlx-lm, with the few methods the checks call."""

    runtime = "mlx"

    def __init__(self, folder: Path) -> None:
        self._model, self._tokenizer, _ = _load(folder, {})

    def tokenize(self, text: str, *, add_special: bool = False) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=add_special)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Logits float32[T, vocab_size] of a fresh sequence."""
        import mlx.core as mx

        return np.array(self._model(mx.array([list(ids)])).astype(mx.float32))[0]

    def greedy(self, ids: Sequence[int], new_tokens: int) -> list[int]:
        """The likeliest continuation; the end-of-text token that stops it is not among it."""
        import mlx.core as mx
        from mlx_lm.generate import generate_step

        made: list[int] = []
        for token, _ in generate_step(mx.array(list(ids)), self._model, max_tokens=new_tokens):
            if int(token) in self._tokenizer.eos_token_ids:
                break
            made.append(int(token))
        return made


def _write(model_dir: Path, folder: Path, quantize: str) -> dict[str, str]:
    """The folder; returns which matrices kept their float weights, and why."""
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.utils import quantize_model, save

    model, tokenizer, config = _load(
        model_dir, with_old_keys(read_object(model_dir / "config.json"))
    )
    dtype = DTYPES.get(quantize, "float16")
    model.update(tree_map(lambda weight: weight.astype(getattr(mx, dtype)), model.parameters()))
    config["torch_dtype"] = config["dtype"] = dtype
    fallbacks: dict[str, str] = {}
    if bits := BITS.get(quantize):
        matrices = {
            name: module.weight.shape[-1]
            for name, module in model.named_modules()
            if hasattr(module, "to_quantized")
        }
        group = min(GROUPS, key=lambda size: sum(width % size > 0 for width in matrices.values()))

        def precision(path: str, _: Any) -> bool | dict[str, Any]:
            outside = path.endswith(("embed_tokens", "lm_head"))
            if outside and bits < EMBEDDING_BITS:
                return {"group_size": group, "bits": EMBEDDING_BITS, "mode": "affine"}
            return True

        model, config = quantize_model(model, config, group, bits, quant_predicate=precision)
        fallbacks = {
            name: f"F16 instead of {quantize}" for name, width in matrices.items() if width % group
        }
    with contextlib.redirect_stdout(io.StringIO()):
        save(folder, model_dir, model, tokenizer, config)
    return fallbacks


def _load(folder: Path, settings: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    from mlx_lm import load

    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a bar for one file
            loaded: Any = load(str(folder), model_config=settings, return_config=True)
            return loaded
    except (ValueError, TypeError, KeyError) as error:  # a family, a setting that it does not know
        raise WorkError(f"mlx-lm cannot build this model: {first_line(error)}") from error
