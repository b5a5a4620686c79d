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
from tinylm.export.check import check as check_gguf
from tinylm.export.formats import FORMATS, read_importance
from tinylm.export.modelfile import modelfile_of, write_modelfile
from tinylm.export.options import ExportOptions
from tinylm.export.push import push
from tinylm.models.teacher import resolve
from tinylm.terminal import print_table

CHECKED_DOCUMENTS = 200  # of --text at most; more than the check takes


def export(
    model: str | Path, out: str | Path | None = None, format: str = "gguf", **settings: Any
) -> dict[str, Any]:
    """One `tinylm export`: write ``model`` to ``out`` in ``format`` (of ``FORMATS``) and prove that
    it is the same.

    Args:
        model: directory, .gguf file, hub id or ``smollm2-135m``.
        settings: of :class:`~tinylm.export.options.ExportOptions`.

    Returns:
        The report, which lies beside ``out`` as ``OUT.json`` too; {} for a card.

    Raises:
        InputError: what cannot be written so. WorkError: the written model computes something else.
    """
    options = ExportOptions(**settings)
    if options.threads < 1:
        raise InputError(f"--threads {options.threads} must be 1 or more")
    model_dir = resolve(model)
    if format not in FORMATS:
        raise InputError(f"no export format {format!r}: choose one of {', '.join(FORMATS)}")
    read = islice(documents(options.text), CHECKED_DOCUMENTS) if options.text else ()
    texts = [document.text for document in read]
    if options.modelfile and (format != "gguf" or options.verify is not None):
        raise InputError(
            "--modelfile goes with a GGUF that is written now: --format gguf --out FILE"
        )
    if options.verify is not None:
        checked = check_gguf(
            model_dir,
            options.verify,
            texts=texts,
            pre_tokenizer=options.pre_tokenizer,
            threads=options.threads,
            importance=read_importance(model_dir, options.importance),
        )
        print_check(checked, f"{options.verify} is {model}")
        return checked
    if options.importance and format != "gguf":
        raise InputError(f"--importance is of a GGUF: --format {format} has none")
    out = None if out is None else Path(out)
    _check_push(options)
    if options.push and (options.dry_run or (out is None and format != "card")):
        made = [] if out is None else [out, *([modelfile_of(out)] if options.modelfile else [])]
        planned = [*(path.name for path in made), *(["README.md"] if format == "card" else [])]
        there = [path for path in made if path.exists()]
        _push(model_dir, None, options, there, planned)
        return {}
    report = FORMATS[format](model_dir, out, options, texts)
    if not report or out is None:
        if options.push:  # the card that was written just now goes too
            _push(model_dir, None, options)
        return report
    if options.check:
        print_check(report["check"], f"{out} is {model}")
    elif report.get("lost"):
        print(f"not checked, and will differ: {'; '.join(report['lost'])}")
    for change, tensors in Counter(report["fallbacks"].values()).items():
        print(f"{tensors} tensors have rows that do not divide by the format's block: {change}")
    print(f"{out}  {report['bytes'] / 1e6:.1f} MB, {report['bits_per_weight']:.2f} bits per weight")
    write_json(out.with_name(out.name + ".json"), report)
    more = []
    if options.modelfile:
        more.append(write_modelfile(model_dir, out))
        print(f"{more[0]}: ollama create NAME -f {more[0]}")
    if options.push:
        _push(model_dir, out, options, more)
    return report


def _check_push(options: ExportOptions) -> None:
    given = {"--also": options.also, "--private": options.private, "--dry-run": options.dry_run}
    for name, value in given.items():
        if value and not options.push:
            raise InputError(f"{name} goes with --push: name the repository")


def _push(
    model_dir: Path,
    out: Path | None,
    options: ExportOptions,
    more: Sequence[Path] = (),
    planned: Sequence[str] = (),
) -> None:
    files = [*options.also, *([out] if out is not None else []), *more]
    push(
        model_dir,
        options.push or "",
        files,
        private=options.private,
        dry_run=options.dry_run,
        planned=planned,
    )


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
