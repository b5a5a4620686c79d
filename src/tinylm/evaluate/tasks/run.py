"""Run the benchmark tasks; every item is kept with what made its score."""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.task import ConfigurableTask

from tinylm.artifact import atomic_file
from tinylm.errors import InputError
from tinylm.evaluate.adapter import PREFIX, TinyLM
from tinylm.evaluate.bits_per_byte import summarise
from tinylm.evaluate.results import is_scored
from tinylm.evaluate.tasks.catalog import FOLDER, in_bits, tasks
from tinylm.evaluate.tasks.files import facts


def load_tasks(
    names: Sequence[str], task_data: str | Path | None, num_fewshot: int | None = None
) -> dict[str, ConfigurableTask]:
    """The named tasks with their data. Only these are read, and nothing of lm-eval's own is
    indexed."""
    from lm_eval.tasks import TaskManager

    unknown = [name for name in names if name not in tasks()]
    if unknown:
        raise InputError(f"no task {unknown[0]!r}: choose from {', '.join(sorted(tasks()))}")
    metadata = {"task_data": str(task_data)} if task_data else {}
    with quiet():
        manager = TaskManager(include_path=str(FOLDER), include_defaults=False, metadata=metadata)
        loaded = {
            name: manager.load([PREFIX + name])["tasks"][PREFIX + name]
            for name in dict.fromkeys(names)
        }
    for task in loaded.values():
        task.set_fewshot_seed(1234)
        if (
            num_fewshot is not None
            and task.OUTPUT_TYPE != "loglikelihood_rolling"
            and task.config.doc_to_text
        ):
            task.set_config("num_fewshot", num_fewshot)
            for subject in dict.fromkeys(task.eval_docs["subject"]) if num_fewshot else ():
                # too few examples show now
                task.sampler.sample(num_fewshot, eval_doc={"subject": subject})
    return loaded


def run_tasks(
    lm: TinyLM, loaded: dict[str, ConfigurableTask], limit: int | None
) -> dict[str, list[dict]]:
    """lm-eval's own evaluation of ``loaded``: {task: samples}, one dict an item with arguments,
    answers and metrics."""
    if not loaded:
        return {}
    from lm_eval.evaluator import evaluate as lm_eval_evaluate

    with quiet():
        result = lm_eval_evaluate(
            lm,
            {
                "tasks": {PREFIX + name: task for name, task in loaded.items()},
                "groups": {},
                "group_map": {},
            },
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
        )
    return {name: result["samples"][PREFIX + name] for name in loaded}  # type: ignore[index]


def summary(task: ConfigurableTask, samples: Sequence[dict], truncated: int = 0) -> dict[str, Any]:
    """Score of a task from its items. Items without a finite answer are left out of it and
    counted."""
    metric = task.config.metadata["main"]
    usable = [sample for sample in samples if is_scored(sample)]
    known = facts(task.eval_docs)
    if not usable:
        raise InputError(
            f"{task.task_name.removeprefix(PREFIX)}: the model gives no finite score to any item"
        )
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
        # LAMBADA's perplexity and AX-b's Matthews correlation are no means
        if other != metric and other in usable[0]:
            entry[other] = float(aggregate([sample[other] for sample in usable]))
    subjects = sorted({sample["doc"]["subject"] for sample in usable})
    if len(subjects) > 1:
        by_subject = {
            subject: _score(metric, [s[metric] for s in usable if s["doc"]["subject"] == subject])[
                "score"
            ]
            for subject in subjects
        }
        entry["by_subject"] = by_subject
        entry["mean_over_subjects"] = float(np.mean(list(by_subject.values())))
    return entry


def _score(metric: str, values: Sequence[Any]) -> dict[str, Any]:
    if in_bits(metric):
        bits, sizes = (
            np.array(column)
            for column in zip(*[(-nats / np.log(2), size) for nats, size in values])
        )
        whole = summarise(bits, sizes)
        return {"score": whole["bits_per_byte"], "stderr": whole["stderr"]}
    stderr = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return {"score": float(np.mean(values)), "stderr": stderr}


def _chance(task: ConfigurableTask, samples: Sequence[dict]) -> float | None:
    """Expected score of a guess among the choices; 0 where the answer is free text; None for bits
    per byte."""
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return None
    if task.OUTPUT_TYPE != "multiple_choice":
        return 0.0
    chances = []
    for sample in samples:
        gold = sample["target"]
        chances.append((len(gold) if isinstance(gold, list) else 1) / len(sample["arguments"]))
    return float(np.mean(chances))


def write_records(
    folder: Path | None, loaded: dict[str, ConfigurableTask], samples: dict[str, list[dict]]
) -> None:
    """``folder/TASK.jsonl``: one line an item with the hashes of its data, its prompt, and the rule
    that scored it."""
    if folder is None:
        return
    for name, task in loaded.items():
        metric, digest = task.config.metadata["main"], facts(task.eval_docs)["data_hash"]
        with (
            atomic_file(folder / f"{name}.jsonl") as scratch,
            open(scratch, "w", encoding="utf-8") as file,
        ):
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
