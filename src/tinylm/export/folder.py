"""A model as a folder of another runtime: written, measured, compared with `transformers` before
it appears."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tinylm.artifact import atomic_directory
from tinylm.export.check import compare_greedy, compare_logits
from tinylm.export.check_tokens import compare_tokens
from tinylm.models.teacher import load_model, load_tokenizer


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
