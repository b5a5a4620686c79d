"""The export formats, by name: a table that is cheap to import. A format is one module and one line
here."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tinylm.export.options import ExportOptions


def _gguf(model_dir: Path, out: Path | None, options: ExportOptions, texts: list[str]) -> Any:
    from tinylm.export import check, gguf

    quantize = options.quantize or "F16"
    what = model_dir, _named(out), quantize
    gguf.refuse_existing(what[1], options.overwrite)  # before a matrix is measured
    how: dict[str, Any] = {"pre_tokenizer": options.pre_tokenizer, "overwrite": options.overwrite}
    how["importance"] = read_importance(model_dir, options.importance, quantize)
    if not options.check:
        return gguf.export(*what, **how)
    return check.export_checked(*what, **how, texts=texts, threads=options.threads)


def read_importance(model_dir: Path, paths: list[Path], quantize: str = "Q4_0") -> Any:
    """The importance matrix by the texts in ``paths``; None without texts."""
    from tinylm.corpus.read import documents
    from tinylm.errors import InputError
    from tinylm.export import importance, llamacpp, quantization

    if not paths:
        return None
    if not quantization.takes_importance(quantization.check_name(quantize)):
        raise InputError(f"--importance is for formats below 8 bits: {quantize} keeps all it can")
    llamacpp.require_llamacpp()
    return importance.measure(model_dir, (document.text for document in documents(paths)))


def _onnx(model_dir: Path, out: Path | None, options: ExportOptions, texts: list[str]) -> Any:
    from tinylm.export.onnx import export_onnx

    return export_onnx(model_dir, _named(out), options.quantize or "F32", **_how(options, texts))


def _mlx(model_dir: Path, out: Path | None, options: ExportOptions, texts: list[str]) -> Any:
    from tinylm.export.mlx import export_mlx

    return export_mlx(model_dir, _named(out), options.quantize or "F16", **_how(options, texts))


def _executorch(model_dir: Path, out: Path | None, options: ExportOptions, texts: list[str]) -> Any:
    from tinylm.export.executorch import export_executorch

    what = model_dir, _named(out), options.quantize or "F32"
    return export_executorch(*what, **_how(options, texts))


def _how(options: ExportOptions, texts: list[str]) -> dict[str, Any]:
    return {"check": options.check, "texts": texts, "overwrite": options.overwrite}


def _card(model_dir: Path, out: Path | None, options: ExportOptions, texts: list[str]) -> Any:
    from tinylm.export.card import sort_facts, write_card

    facts = sort_facts(options.facts)
    print(write_card(model_dir, out, overwrite=options.overwrite, **facts))
    return {}


def _named(out: Path | None) -> Path:
    from tinylm.errors import InputError

    if out is None:
        raise InputError(
            "--out is missing: the file to write, e.g. --out model.gguf (or --verify FILE to check"
            " one)"
        )
    return out


# (model directory, --out, options, texts of the check) -> report of the file; {}: nothing to tell
FORMATS: dict[str, Callable[[Path, Path | None, ExportOptions, list[str]], dict[str, Any]]] = {
    "gguf": _gguf,  # one file for llama.cpp
    "executorch": _executorch,  # a folder for PyTorch's runtime of phones
    "mlx": _mlx,  # a folder for Apple's mlx-lm
    "onnx": _onnx,  # a folder for onnxruntime-genai
    "card": _card,  # the model card, README.md of the model's folder
}
if TYPE_CHECKING:
    Format = str
else:
    Format = Literal[tuple(FORMATS)]
