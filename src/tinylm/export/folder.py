"""A model as a folder of another runtime: written, measured, compared with `transformers` before
it appears."""

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from tinylm.artifact import atomic_directory
from tinylm.errors import InputError
from tinylm.export.check import compare_greedy, compare_logits
from tinylm.export.check_tokens import compare_tokens
from tinylm.models.teacher import load_model, load_tokenizer


def check_choice(
    runtime: str, quantize: str, known: Iterable[str], packages: Sequence[str], extra: str
) -> str:
    """``quantize`` in its usual spelling. InputError when the runtime has no such precision, or one
    of its ``packages``, which the ``extra`` brings, is missing."""
    quantize = quantize.upper()
    if quantize not in known:
        raise InputError(
            f"no {runtime} quantisation {quantize!r}: choose one of {', '.join(known)}"
        )
    if any(importlib.util.find_spec(name) is None for name in packages):
        raise InputError(f"{runtime} needs its packages: pip install 'tinylm[{extra}]'")
    return quantize


def export_folder(
    model_dir: Path,
    out: Path,
    quantize: str,
    write: Callable[[Path], dict[str, str]],
    runtime: Callable[[Path], Any],
    *,
    check: bool = True,
    texts: Sequence[str] = (),
    overwrite: bool = False,
) -> dict[str, Any]:
    """The report, as for GGUF, of the folder ``out``.

    ``write`` fills a folder and says which matrices are not in the format asked for, and why;
    ``runtime`` opens one: an object with ``runtime`` (its name), ``tokenize``, ``logits`` and
    ``greedy``. WorkError when it computes something else, and then there is no ``out``.
    """
    with atomic_directory(out, replace=overwrite) as folder:
        fallbacks = write(folder)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        model = load_model(model_dir, torch.float32)
        report: dict[str, Any] = {
            "file": str(out),
            "bytes": size,
            "quantize": quantize,
            "architecture": model.config.model_type,
            "parameters": model.num_parameters(),
            "bits_per_weight": round(8 * size / model.num_parameters(), 3),
            "fallbacks": fallbacks,
        }
        if check:
            report["check"] = _check(
                runtime(folder), model, load_tokenizer(model_dir), quantize, texts
            )
    return report


def _check(
    runtime: Any, model: Any, tokenizer: Any, quantize: str, texts: Sequence[str]
) -> dict[str, Any]:
    """The comparisons of :func:`tinylm.export.check.check` that need no knowledge of the file."""
    facts: dict[str, Any] = {"quantize": quantize, "tokens": compare_tokens(runtime, tokenizer)}
    facts |= compare_logits(runtime, model, tokenizer, quantize, texts)
    tie = max(0.1, 4 * facts["max_dlogp"])
    return facts | compare_greedy(runtime, model, tokenizer, quantize, tie=tie)
