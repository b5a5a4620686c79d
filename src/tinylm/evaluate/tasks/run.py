"""Run the benchmark tasks and bits per byte for any number of models; every item is kept with what made its score."""

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.api.task import ConfigurableTask

from tinylm.artifact import atomic_file, write_json
from tinylm.corpus.read import Document
from tinylm.errors import InputError
from tinylm.evaluate.adapter import PREFIX, TinyLM
from tinylm.evaluate.bands import bits_by_band, byte_bands
from tinylm.evaluate.bits_per_byte import Scores, report, score_documents, summarise
from tinylm.evaluate.results import PAPER, differences, is_scored, mean_score
from tinylm.evaluate.tasks.files import facts
from tinylm.models.teacher import fingerprint, load_model, load_tokenizer, resolve
from tinylm.tokenizer.choose import require_counts
from tinylm.tokenizer.count import Counts
from tinylm.tokenizer.source import read_source
from tinylm.train.device import choose_device

FOLDER = Path(__file__).parent  # for `lm_eval --include_path`
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))
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
        context: tokens the models see at once; None: 512 for bits per byte, and all a model has for tasks.
        dtype: one of :data:`DTYPES`.
        device: cpu, cuda, or auto: a GPU where there is one.
        counts: token counts made with the first model's tokenizer: bits per byte are also given by token frequency.
        out: results.json; item records and answers for resuming go to folders beside it. None: nothing is written.

    Returns:
        ``bits_per_byte`` and ``tasks`` {name: {score, stderr, n, chance, ...}} of the first model, and ``models``:
        one entry each with ``model``, ``bits_per_byte``, ``tasks``, ``average`` and, after the first, ``difference``.

    Raises:
        InputError: unknown task, missing or damaged file, model without tokenizer, context too short for the examples.
    """
    _check(models, tasks, documents, limit, num_fewshot, batch_size, dtype, counts, out)
    place = choose_device(device)
    loaded = load_tasks(tasks, task_data, num_fewshot)
    entries: list[dict[str, Any]] = []
    samples: list[dict[str, list[dict]]] = []
    texts: list[Scores | None] = []
    named = dict(models) if isinstance(models, Mapping) else dict(zip(_labels(models), models))
    tokenizers = {name: load_tokenizer(spec) for name, spec in named.items()}  # a missing one shows before any work
    bands = None
    if counts is not None and documents:
        first = next(iter(named))
        counted = Counts.load(counts)
        require_counts(read_source(resolve(named[first])), counted)
        bands = byte_bands(tokenizers[first], counted.counts, [document.text for document in documents])
    for name, spec in named.items():
        model, tokenizer = load_model(spec, dtype=DTYPES[dtype]).to(place), tokenizers[name]
        entry: dict[str, Any] = {"model": name, "dtype": dtype, "parameters": model.num_parameters()}
        scores = None
        if documents:
            text_context = context or min(TEXT_CONTEXT, _positions(model))
            at_once = batch_size if isinstance(batch_size, int) else TEXT_TOKENS
            scores = score_documents(model, tokenizer, documents, text_context, batch_tokens=at_once, dtype=None)
            entry["bits_per_byte"] = report(scores, text_context)
            if bands is not None:
                by_band = bits_by_band(
                    model, tokenizer, documents, bands, text_context, batch_tokens=at_once, dtype=None
                )
                entry["bits_per_byte"]["by_band"] = by_band
        answers = _beside(out, "answers", f"{name}-{fingerprint(resolve(spec))}-{dtype}.jsonl")
        lm = TinyLM(model, tokenizer, max_length=context, batch_size=batch_size, responses=answers)
        kept = run_tasks(lm, loaded, limit)
        entry["tasks"] = {task: summary(loaded[task], kept[task], lm.truncated[task]) for task in loaded}
        entry["average"] = mean_score(entry["tasks"])
        _write_records(_beside(out, "records", name), loaded, kept)
        entries.append(entry)
        samples.append(kept)
        texts.append(scores)
    for number in range(1, len(entries)):
        entries[number]["difference"] = differences(
            entries[number], entries[0], samples[number], samples[0], texts[number], texts[0]
        )
    result = {"bits_per_byte": entries[0].get("bits_per_byte", {}), "tasks": entries[0]["tasks"], "models": entries}
    if out is not None:
        write_json(out, result)
    return result


def choose(names: Sequence[str]) -> list[str]:
    """Task names with ``paper`` (its ten columns) and ``all`` spelt out."""
    lists = {"paper": PAPER, "all": NAMES}
    return list(dict.fromkeys(name for given in names for name in lists.get(given, (given,))))


def load_tasks(
    names: Sequence[str], task_data: str | Path | None, num_fewshot: int | None = None
) -> dict[str, ConfigurableTask]:
    """The named tasks with their data. Only these are read, and nothing of lm-eval's own is indexed."""
    from lm_eval.tasks import TaskManager

    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise InputError(f"no task {unknown[0]!r}: choose from {', '.join(NAMES)}")
    metadata = {"task_data": str(task_data)} if task_data else {}
    with quiet():
        manager = TaskManager(include_path=str(FOLDER), include_defaults=False, metadata=metadata)
        loaded = {name: manager.load([PREFIX + name])["tasks"][PREFIX + name] for name in dict.fromkeys(names)}
    for task in loaded.values():
        task.set_fewshot_seed(1234)
        if num_fewshot is not None and task.OUTPUT_TYPE != "loglikelihood_rolling" and task.config.doc_to_text:
            task.set_config("num_fewshot", num_fewshot)
            for subject in dict.fromkeys(task.eval_docs["subject"]) if num_fewshot else ():
                task.sampler.sample(num_fewshot, eval_doc={"subject": subject})  # too few examples show now
    return loaded


def run_tasks(lm: TinyLM, tasks: dict[str, ConfigurableTask], limit: int | None) -> dict[str, list[dict]]:
    """lm-eval's own evaluation of ``tasks``: {task: samples}, one dict an item with arguments, answers and metrics."""
    if not tasks:
        return {}
    from lm_eval.evaluator import evaluate as lm_eval_evaluate

    with quiet():
        result = lm_eval_evaluate(
            lm,
            {"tasks": {PREFIX + name: task for name, task in tasks.items()}, "groups": {}, "group_map": {}},
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
        )
    return {name: result["samples"][PREFIX + name] for name in tasks}  # type: ignore[index]


def summary(task: ConfigurableTask, samples: Sequence[dict], truncated: int = 0) -> dict[str, Any]:
    """Score of a task from its items. Items without a finite answer are left out of it and counted."""
    metric = task.config.metadata["main"]
    usable = [sample for sample in samples if is_scored(sample)]
    known = facts(task.eval_docs)
    if not usable:
        raise InputError(f"{task.task_name.removeprefix(PREFIX)}: the model gives no finite score to any item")
    entry: dict[str, Any] = {
        **_score(metric, [sample[metric] for sample in usable]),
        "n": len(usable),
        "chance": _chance(task, usable),
        "metric": metric,
        "num_fewshot": task.config.num_fewshot or 0,
        "data_hash": known["data_hash"],
        "bad_items": len(known["bad_items"]) + len(samples) - len(usable),
        "bad_examples": known["bad_items"][:3],
        "truncated": truncated,
    }
    for other, aggregate in task.aggregation().items():
        if other != metric and other in usable[0]:  # LAMBADA's perplexity and AX-b's Matthews correlation are no means
            entry[other] = float(aggregate([sample[other] for sample in usable]))
    subjects = sorted({sample["doc"]["subject"] for sample in usable})
    if len(subjects) > 1:
        by_subject = {
            subject: _score(metric, [s[metric] for s in usable if s["doc"]["subject"] == subject])["score"]
            for subject in subjects
        }
        entry["by_subject"] = by_subject
        entry["mean_over_subjects"] = float(np.mean(list(by_subject.values())))
    return entry


def _score(metric: str, values: Sequence[Any]) -> dict[str, Any]:
    if metric == "bits_per_byte":
        bits, sizes = (np.array(column) for column in zip(*[(-nats / np.log(2), size) for nats, size in values]))
        whole = summarise(bits, sizes)
        return {"score": whole["bits_per_byte"], "stderr": whole["stderr"]}
    stderr = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return {"score": float(np.mean(values)), "stderr": stderr}


def _chance(task: ConfigurableTask, samples: Sequence[dict]) -> float | None:
    """Expected score of a guess among the choices; 0 where the answer is free text; None for bits per byte."""
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return None
    if task.OUTPUT_TYPE != "multiple_choice":
        return 0.0
    chances = []
    for sample in samples:
        gold = sample["target"]
        chances.append((len(gold) if isinstance(gold, list) else 1) / len(sample["arguments"]))
    return float(np.mean(chances))


def _write_records(folder: Path | None, tasks: dict[str, ConfigurableTask], samples: dict[str, list[dict]]) -> None:
    """``folder/TASK.jsonl``: one line an item with the hashes of its data, its prompt, and the rule that scored it."""
    if folder is None:
        return
    for name, task in tasks.items():
        metric, digest = task.config.metadata["main"], facts(task.eval_docs)["data_hash"]
        with atomic_file(folder / f"{name}.jsonl") as scratch, open(scratch, "w", encoding="utf-8") as file:
            for sample in samples[name]:
                record = {
                    "id": sample["doc_id"],
                    "subject": sample["doc"]["subject"],
                    "data_hash": digest,
                    "item_hash": sample["doc_hash"],
                    "prompt_hash": sample["prompt_hash"],
                    "num_fewshot": task.config.num_fewshot or 0,
                    "rule": f"{task.OUTPUT_TYPE}:{metric}",
                    "target": sample["target"] if task.OUTPUT_TYPE == "multiple_choice" else None,
                    "answers": sample["filtered_resps"],
                    "score": sample[metric] if is_scored(sample) else None,
                }
                file.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")


@contextmanager
def quiet() -> Iterator[None]:
    """lm-eval and datasets log and draw a lot; here one progress bar is enough."""
    import datasets

    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "transformers")]
    levels = [logger.level for logger in loggers]
    bars = datasets.is_progress_bar_enabled()
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        datasets.disable_progress_bars()
        with warnings.catch_warnings(), _no_tqdm():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()


@contextmanager
def _no_tqdm() -> Iterator[None]:
    """lm-eval's loop over items draws a bar that it has no switch for."""
    import lm_eval.api.task as module

    original = module.tqdm
    module.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        module.tqdm = original


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
    """Short names for rows and folders: the last part of each path, numbered where two are the same."""
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
