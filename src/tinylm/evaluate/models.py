"""Evaluate any number of models: tasks and bits per byte, the first one being what the others are
compared with."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tinylm.artifact import write_json
from tinylm.corpus.read import Document
from tinylm.errors import InputError
from tinylm.evaluate.adapter import TinyLM
from tinylm.evaluate.bands import bits_by_band, byte_bands
from tinylm.evaluate.bits_per_byte import Scores, report, score_documents
from tinylm.evaluate.results import differences, mean_score
from tinylm.evaluate.tasks.run import _write_records, load_tasks, run_tasks, summary
from tinylm.machine import choose_device
from tinylm.models.teacher import fingerprint, load_model, load_tokenizer, resolve
from tinylm.tokenizer.choose import require_counts
from tinylm.tokenizer.count import Counts
from tinylm.tokenizer.source import read_source

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

TEXT_TOKENS = 8192  # of a forward pass on --text unless --batch-size says otherwise

TEXT_CONTEXT = 512  # context of bits per byte unless --context says otherwise


def evaluate(
    models: Sequence[str | Path] | Mapping[str, str | Path],
    tasks: Sequence[str] = (),
    *,
    task_data: str | Path | None = None,
    documents: Sequence[Document] = (),
    limit: int | None = None,
    num_fewshot: int | None = None,
    batch_size: int | str = "auto",
    context: int | None = None,
    dtype: str = "bfloat16",
    device: str = "auto",
    counts: Path | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Scores of ``models``; the first one is what the others are compared with.

    Args:
        models: directories, .gguf files, hub ids or ``smollm2-135m``; or {name: one of these}.
        tasks: names of :data:`NAMES`.
        task_data: folder of the benchmark files (docs/evaluation.md); None: the hub.
        documents: held-out text for bits per byte.
        limit: items of each task, spread over its subjects; None: all.
        num_fewshot: examples before each item; None: what the task file says.
        batch_size: tokens per forward pass, or "auto".
        context: tokens the models see at once; None: 512 for bits per byte, and all a model has for
            tasks.
        dtype: one of :data:`DTYPES`.
        device: cpu, cuda, or auto: a GPU where there is one.
        counts: token counts made with the first model's tokenizer: bits per byte are also given by
            token frequency.
        out: results.json; item records and answers for resuming go to folders beside it. None:
            nothing is written.

    Returns:
        ``bits_per_byte`` and ``tasks`` {name: {score, stderr, n, chance, ...}} of the first model,
        and ``models``:
        one entry each with ``model``, ``bits_per_byte``, ``tasks``, ``average`` and, after the
        first, ``difference``.

    Raises:
        InputError: unknown task, missing or damaged file, model without tokenizer, context too
            short for the examples.
    """
    _check(models, tasks, documents, limit, num_fewshot, batch_size, dtype, counts, out)
    place = choose_device(device)
    loaded = load_tasks(tasks, task_data, num_fewshot)
    entries: list[dict[str, Any]] = []
    samples: list[dict[str, list[dict]]] = []
    texts: list[Scores | None] = []
    named = dict(models) if isinstance(models, Mapping) else dict(zip(_labels(models), models))
    # a missing one shows before any work
    tokenizers = {name: load_tokenizer(spec) for name, spec in named.items()}
    bands = None
    if counts is not None and documents:
        first = next(iter(named))
        counted = Counts.load(counts)
        require_counts(read_source(resolve(named[first])), counted)
        bands = byte_bands(
            tokenizers[first], counted.counts, [document.text for document in documents]
        )
    for name, spec in named.items():
        model, tokenizer = load_model(spec, dtype=DTYPES[dtype]).to(place), tokenizers[name]
        entry: dict[str, Any] = {
            "model": name,
            "dtype": dtype,
            "parameters": model.num_parameters(),
        }
        scores = None
        if documents:
            text_context = context or min(TEXT_CONTEXT, _positions(model))
            at_once = batch_size if isinstance(batch_size, int) else TEXT_TOKENS
            scores = score_documents(
                model, tokenizer, documents, text_context, batch_tokens=at_once, dtype=None
            )
            entry["bits_per_byte"] = report(scores, text_context)
            if bands is not None:
                by_band = bits_by_band(
                    model,
                    tokenizer,
                    documents,
                    bands,
                    text_context,
                    batch_tokens=at_once,
                    dtype=None,
                )
                entry["bits_per_byte"]["by_band"] = by_band
        answers = _beside(out, "answers", f"{name}-{fingerprint(resolve(spec))}-{dtype}.jsonl")
        lm = TinyLM(model, tokenizer, max_length=context, batch_size=batch_size, responses=answers)
        kept = run_tasks(lm, loaded, limit)
        entry["tasks"] = {
            task: summary(loaded[task], kept[task], lm.truncated[task]) for task in loaded
        }
        entry["average"] = mean_score(entry["tasks"])
        _write_records(_beside(out, "records", name), loaded, kept)
        entries.append(entry)
        samples.append(kept)
        texts.append(scores)
    for number in range(1, len(entries)):
        entries[number]["difference"] = differences(
            entries[number], entries[0], samples[number], samples[0], texts[number], texts[0]
        )
    result = {
        "bits_per_byte": entries[0].get("bits_per_byte", {}),
        "tasks": entries[0]["tasks"],
        "models": entries,
    }
    if out is not None:
        write_json(out, result)
    return result


def _check(models, tasks, documents, limit, num_fewshot, batch_size, dtype, counts, out) -> None:
    if out is not None and (Path(out).is_dir() or Path(out).suffix != ".json"):
        raise InputError(f"--out {out} must be a file that ends in .json")
    if out is not None:
        there = next(folder for folder in Path(out).absolute().parents if folder.exists())
        if not os.access(there, os.W_OK):
            raise InputError(f"--out {out} cannot be written: {there} is not yours to write in")
    if not models:
        raise InputError("no model given: say --model DIR")
    if counts is not None and not documents:
        raise InputError("--counts sorts the bits of --text by token frequency: give --text too")
    if not tasks and not documents:
        raise InputError("nothing to evaluate: give --text for bits per byte, --tasks, or both")
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit} must be 1 or more items")
    if num_fewshot is not None and num_fewshot < 0:
        raise InputError(f"--num-fewshot {num_fewshot} must be 0 or more")
    if batch_size != "auto" and (not isinstance(batch_size, int) or batch_size < 1):
        raise InputError(f"--batch-size {batch_size} must be auto or a number of tokens")
    if dtype not in DTYPES:
        raise InputError(f"--dtype {dtype} must be one of {', '.join(DTYPES)}")


def _labels(models: Sequence[str | Path]) -> list[str]:
    """Short names for rows and folders: the last part of each path, numbered where two are the
    same."""
    names: list[str] = []
    for spec in models:
        name = Path(str(spec).rstrip("/")).name or "model"
        count = sum(other == name or other.startswith(f"{name}-") for other in names)
        names.append(f"{name}-{count + 1}" if name in names else name)
    return names


def _positions(model: Any) -> int:
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or TEXT_CONTEXT


def _beside(out: Path | None, kind: str, name: str) -> Path | None:
    return None if out is None else out.with_name(f"{out.stem}.{kind}") / name
