"""What `tinylm export` does: read the texts, write or verify, tell the person, leave a report on
disk."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from tinylm.artifact import write_json
from tinylm.corpus.read import documents
from tinylm.errors import InputError
from tinylm.export.card import sort_facts, write_card
from tinylm.export.check import check as check_gguf
from tinylm.export.check import export_checked
from tinylm.export.gguf import export
from tinylm.export.onnx import export_onnx
from tinylm.models.teacher import resolve
from tinylm.terminal import print_table

FORMATS = ("gguf", "onnx", "card")


def run(
    model: str,
    out: Path | None,
    format: str,
    quantize: str | None,
    check: bool,
    verify: Path | None,
    text: Sequence[Path],
    pre_tokenizer: str | None,
    overwrite: bool,
    threads: int,
    facts: Sequence[Path],
) -> dict[str, Any]:
    """One `tinylm export`; the arguments are the command's, told by `tinylm export --help`. Returns
    the report."""
    if threads < 1:
        raise InputError(f"--threads {threads} must be 1 or more")
    model_dir = resolve(model)
    if format not in FORMATS:
        raise InputError(f"no export format {format!r}: choose one of {', '.join(FORMATS)}")
    if format == "card":
        print(write_card(model_dir, out, overwrite=overwrite, **sort_facts(facts)))
        return {}
    # more than the check takes
    texts = [document.text for document in islice(documents(text), 200)] if text else []
    if verify is not None:
        checked = check_gguf(
            model_dir, verify, texts=texts, pre_tokenizer=pre_tokenizer, threads=threads
        )
        print_check(checked, f"{verify} is {model}")
        return checked
    if out is None:
        raise InputError(
            "--out is missing: the file to write, e.g. --out model.gguf (or --verify FILE to check"
            " one)"
        )
    if format == "onnx":
        report = export_onnx(
            model_dir, out, quantize or "F32", check=check, texts=texts, overwrite=overwrite
        )
    elif check:
        report = export_checked(
            model_dir,
            out,
            quantize or "F16",
            texts=texts,
            pre_tokenizer=pre_tokenizer,
            overwrite=overwrite,
            threads=threads,
        )
    else:
        report = export(
            model_dir, out, quantize or "F16", pre_tokenizer=pre_tokenizer, overwrite=overwrite
        )
    if check:
        print_check(report["check"], f"{out} is {model}")
    for change, tensors in Counter(report["fallbacks"].values()).items():
        print(f"{tensors} tensors have rows that do not divide by the format's block: {change}")
    print(f"{out}  {report['bytes'] / 1e6:.1f} MB, {report['bits_per_weight']:.2f} bits per weight")
    write_json(out.with_name(out.name + ".json"), report)
    return report


def print_check(facts: dict[str, Any], title: str) -> None:
    """The check as a small table."""
    tokens, bits = facts["tokens"], facts["bits_per_byte"]
    runtime = next(name for name in bits if name != "transformers")
    rows = [
        *([("settings, tokens, weights", "equal")] if runtime == "llama.cpp" else []),
        ("token ids of hard text", f"{tokens['ids']} equal in {tokens['texts']} texts"),
        *[("  but", difference) for difference in tokens["known_differences"]],
        ("mean KL per token", f"{facts['kl']:.2e} nats, bound {facts['kl_bound']:g}"),
        ("greedy tokens equal", f"{facts['greedy_equal']} of {facts['greedy_tokens']}"),
        ("bits per byte, transformers", f"{bits['transformers']:.4f}"),
        (
            f"bits per byte, {runtime}",
            (
                f"{bits[runtime]:.4f} ({100 * (bits[runtime] / bits['transformers'] - 1):+.2f} %, "
                f"bound {100 * facts['bits_per_byte_bound']:g} %)"
            ),
        ),
    ]
    print_table(title, ("check", facts["quantize"]), rows)
