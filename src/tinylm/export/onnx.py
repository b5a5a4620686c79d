"""A second on-device format: an ONNX folder with key-value cache for onnxruntime-genai, with the
same checks as GGUF.

onnxruntime-genai's own builder writes the graph; it is a separate program, run as one. It knows
fewer families than llama.cpp does here, and reads configs of an older `transformers`: what it
cannot build is a clear error.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tinylm.errors import WorkError
from tinylm.export.folder import check_choice, export_folder
from tinylm.models.teacher import load_config

# --quantize -> the builder's name; what its CPU kernels have
PRECISIONS = {"F32": "fp32", "INT4": "int4"}


def export_onnx(
    model_dir: str | Path, out: str | Path, quantize: str = "F32", **how: Any
) -> dict[str, Any]:
    """Write the folder ``out``: model.onnx, its weights, tokenizer and genai_config.json. ``how``
    and the report: see :func:`~tinylm.export.folder.export_folder`.

    Raises InputError when onnxruntime-genai is missing or has no such precision, WorkError when it
    cannot build this family or computes something else.
    """
    model_dir, packages = Path(model_dir), ("onnxruntime_genai", "onnx_ir")
    quantize = check_choice("ONNX", quantize, PRECISIONS, packages, "onnx")
    model_type = load_config(model_dir).get_text_config().model_type

    def write(folder: Path) -> dict[str, str]:
        _build(model_dir, folder, PRECISIONS[quantize], model_type)
        return {}

    return export_folder(model_dir, Path(out), quantize, write, OnnxModel, **how)


class OnnxModel:
    """An ONNX folder run by onnxruntime-genai, with the few methods the checks call."""

    runtime = "onnxruntime"

    def __init__(self, folder: Path) -> None:
        import onnxruntime_genai

        self._genai = onnxruntime_genai
        with _told():
            self._model = onnxruntime_genai.Model(str(folder))
        self._tokenizer = onnxruntime_genai.Tokenizer(self._model)
        self._prefix = len(self._tokenizer.encode(""))  # special tokens put before every text

    def tokenize(self, text: str, *, add_special: bool = False) -> list[int]:
        ids = [int(token) for token in self._tokenizer.encode(text)]
        return ids if add_special else ids[self._prefix :]

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Logits float32[T, vocab_size] of a fresh sequence."""
        generator = self._start(ids, len(ids) + 1)
        return np.asarray(generator.get_output("logits"), dtype=np.float32)[0]

    def greedy(self, ids: Sequence[int], new_tokens: int) -> list[int]:
        """The likeliest continuation; the end-of-text token that stops it is not among it."""
        generator = self._start(ids, len(ids) + new_tokens)
        while not generator.is_done():
            generator.generate_next_token()
        return [int(token) for token in generator.get_sequence(0)[len(ids) :]]

    def _start(self, ids: Sequence[int], length: int) -> Any:
        parameters = self._genai.GeneratorParams(self._model)
        parameters.set_search_options(max_length=length, do_sample=False)
        with _told():
            generator = self._genai.Generator(self._model, parameters)
            generator.append_tokens(np.array([ids], dtype=np.int32))
        return generator


@contextmanager
def _told() -> Iterator[None]:
    """What the runtime raises of a graph that it cannot run (Gemma 2's), as a WorkError."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise WorkError(f"onnxruntime cannot run what was built: {reason}") from error


def _build(model_dir: Path, folder: Path, precision: str, model_type: str) -> None:
    with tempfile.TemporaryDirectory(prefix="tinylm-onnx-") as cache:
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
        command += [
            "-i",
            str(model_dir),
            "-o",
            str(folder),
            "-p",
            precision,
            "-e",
            "cpu",
            "-c",
            cache,
        ]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode or not (folder / "genai_config.json").is_file():
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise WorkError(
            f"onnxruntime-genai cannot build {model_type!r}:"
            f" {lines[-1] if lines else 'no reason given'}"
        )
