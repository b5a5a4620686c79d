"""Evaluate any number of models: tasks and bits per byte, the first one being what the others are
compared with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tinylm.artifact import require_file_name, write_json
from tinylm.corpus.read import Document
from tinylm.errors import InputError
from tinylm.evaluate.bands import bits_by_band, byte_bands
from tinylm.evaluate.bits_per_byte import Scores, report, score_documents
from tinylm.evaluate.forward import text_context
from tinylm.evaluate.options import EvaluateOptions
from tinylm.evaluate.results import differences, mean_score
from tinylm.evaluate.tasks.catalog import require_lm_eval
from tinylm.machine import choose_device, fast_dtype
from tinylm.models.teacher import fingerprint, load_model, load_tokenizer, resolve
from tinylm.tokenizer.choose import require_counts
from tinylm.tokenizer.count import Counts
from tinylm.tokenizer.source import read_source

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

TEXT_TOKENS = 8192  # of a forward pass on --text unless --batch-size says otherwise


def evaluate(
    models: Sequence[str | Path] | Mapping[str, str | Path],
    tasks: Sequence[str] = (),
    *,
    documents: Sequence[Document] = (),
    out: Path | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Scores of ``models``; the first one is what the others are compared with.

    Args:
        models: directories, .gguf files, hub ids or ``smollm2-135m``; or {name: one of these}.
        tasks: names of :func:`tinylm.evaluate.tasks.catalog.tasks`.
        documents: held-out text for bits per byte.
        out: results.json; item records and answers for resuming go to folders beside it. None:
            nothing is written.
        settings: of :class:`~tinylm.evaluate.options.EvaluateOptions`.

    Returns:
        ``bits_per_byte`` and ``tasks`` {name: {score, stderr, n, chance, ...}} of the first model,
        and ``models``: one entry each with ``model``, ``bits_per_byte``, ``tasks``, ``average``
        and, after the first, ``difference``.

    Raises:
        InputError: unknown task, missing or damaged file, model without tokenizer, context too
            short for the examples.
    """
    options = EvaluateOptions(**settings)
    _check(models, tasks, documents, options, out)
    place = choose_device(options.device)
    dtype = fast_dtype(place) if options.dtype == "auto" else DTYPES[options.dtype]
    named_dtype = str(dtype).removeprefix("torch.")
    loaded = _load_tasks(tasks, options)
    named = dict(models) if isinstance(models, Mapping) else dict(zip(_labels(models), models))
    # a missing one shows before any work
    tokenizers = {name: load_tokenizer(spec) for name, spec in named.items()}
    bands = _bands(named, tokenizers, documents, options.counts)
    entries: list[dict[str, Any]] = []
    samples: list[dict[str, list[dict]]] = []
    texts: list[Scores | None] = []
    for name, spec in named.items():
        model = load_model(spec, dtype=dtype).to(place)
        entry: dict[str, Any] = {
            "model": name,
            "dtype": named_dtype,
            "parameters": model.num_parameters(),
        }
        scores = None
        if documents:
            entry["bits_per_byte"], scores = _score_text(
                model, tokenizers[name], documents, bands, options
            )
        file = f"{name}-{fingerprint(resolve(spec))}-{named_dtype}.jsonl"
        entry["tasks"], kept = _score_tasks(
            model,
            tokenizers[name],
            loaded,
            options,
            answers=_beside(out, "answers", file),
            records=_beside(out, "records", name),
        )
        entry["average"] = mean_score(entry["tasks"])
        entries.append(entry)
        samples.append(kept)
        texts.append(scores)
    for entry, kept, scores in list(zip(entries, samples, texts))[1:]:
        entry["difference"] = differences(entry, entries[0], kept, samples[0], scores, texts[0])
    result = {
        "bits_per_byte": entries[0].get("bits_per_byte", {}),
        "tasks": entries[0]["tasks"],
        "models": entries,
    }
    if out is not None:
        write_json(out, result)
    return result


def _load_tasks(tasks: Sequence[str], options: EvaluateOptions) -> dict[str, Any]:
    if not tasks:
        return {}
    require_lm_eval()
    from tinylm.evaluate.tasks.run import load_tasks

    return load_tasks(tasks, options.task_data, options.num_fewshot)


def _score_tasks(
    model: Any,
    tokenizer: Any,
    loaded: dict[str, Any],
    options: EvaluateOptions,
    answers: Path | None,
    records: Path | None,
) -> tuple[dict[str, Any], dict[str, list[dict]]]:
    """{task: its summary}, and {task: what became of each item}, which is written to ``records``
    too."""
    if not loaded:
        return {}, {}
    from tinylm.evaluate.adapter import TinyLM
    from tinylm.evaluate.tasks.run import run_tasks, summary, write_records

    size, context = options.batch_size, options.context
    lm = TinyLM(model, tokenizer, max_length=context, batch_size=size, answers=answers)
    kept = run_tasks(lm, loaded, options.limit)
    write_records(records, loaded, kept)
    found = {task: summary(loaded[task], kept[task], lm.truncated[task]) for task in loaded}
    return found, kept


def _bands(
    models: Mapping[str, Any],
    tokenizers: Mapping[str, Any],
    documents: Sequence[Document],
    counts: Path | None,
) -> Any:
    """Of every byte of the text, how frequent its token of the first model's tokenizer is; None
    without counts."""
    if counts is None or not documents:
        return None
    first, counted = next(iter(models)), Counts.load(counts)
    require_counts(read_source(resolve(models[first])), counted)
    return byte_bands(tokenizers[first], counted.counts, [document.text for document in documents])


def _score_text(
    model: Any, tokenizer: Any, documents: Sequence[Document], bands: Any, options: EvaluateOptions
) -> tuple[dict[str, Any], Scores]:
    """Bits per byte of ``documents`` as plain data, and of each of them."""
    context = options.context or text_context(model.config)
    size = options.batch_size
    at_once = size if isinstance(size, int) else TEXT_TOKENS
    settings: dict[str, Any] = {"batch_tokens": at_once, "dtype": None}
    scores = score_documents(model, tokenizer, documents, context, **settings)
    found = report(scores, context)
    if bands is not None:
        found["by_band"] = bits_by_band(model, tokenizer, documents, bands, context, **settings)
    return found, scores


def _check(
    models: Any, tasks: Any, documents: Any, options: EvaluateOptions, out: Path | None
) -> None:
    if out is not None:
        if Path(out).is_dir() or Path(out).suffix != ".json":
            raise InputError(f"--out {out} must be a file that ends in .json")
        require_file_name(out)
    if not models:
        raise InputError("no model given: say --model DIR")
    if options.counts is not None and not documents:
        raise InputError("--counts sorts the bits of --text by token frequency: give --text too")
    if not tasks and not documents:
        raise InputError("nothing to evaluate: give --text for bits per byte, --tasks, or both")
    limit, shots, size = options.limit, options.num_fewshot, options.batch_size
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit} must be 1 or more items")
    if shots is not None and shots < 0:
        raise InputError(f"--num-fewshot {shots} must be 0 or more")
    if size != "auto" and (not isinstance(size, int) or size < 1):
        raise InputError(f"--batch-size {size} must be auto or a number of tokens")
    if options.dtype not in ("auto", *DTYPES):
        raise InputError(f"--dtype {options.dtype} must be auto or one of {', '.join(DTYPES)}")


def _labels(models: Sequence[str | Path]) -> list[str]:
    """Short names for rows and folders: the last part of each path, numbered where two are the
    same."""
    names: list[str] = []
    for spec in models:
        name = Path(str(spec).rstrip("/")).name or "model"
        count = sum(other == name or other.startswith(f"{name}-") for other in names)
        names.append(f"{name}-{count + 1}" if name in names else name)
    return names


def _beside(out: Path | None, kind: str, name: str) -> Path | None:
    return None if out is None else out.with_name(f"{out.stem}.{kind}") / name
