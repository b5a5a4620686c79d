"""From scores to what a person reads: averages, paired differences, the paper's table as text,
Markdown and HTML."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinylm.artifact import write_text
from tinylm.evaluate.bits_per_byte import Scores, paired_difference
from tinylm.evaluate.tasks.catalog import in_bits, paper_columns, tasks
from tinylm.render import html
from tinylm.terminal import print_table

Table = tuple[list[str], list[list[str]]]


def mean_score(scores: dict[str, dict]) -> dict[str, Any] | None:
    """Mean over those of the paper's ten columns that were run, with its standard error; None when
    none was."""
    run = [name for name in paper_columns() if name in scores]
    if not run:
        return None
    errors = [scores[name]["stderr"] for name in run]
    stderr = None if None in errors else float(np.sqrt(np.square(errors).sum()) / len(run))
    chance = float(np.mean([scores[name]["chance"] for name in run]))
    return {
        "score": float(np.mean([scores[name]["score"] for name in run])),
        "stderr": stderr,
        "chance": chance,
        "columns": len(run),
    }


def merge_tasks(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What :func:`tinylm.evaluate.models.evaluate` would have returned for all tasks, from its
    results for some of them each."""
    merged = copy.deepcopy(parts[0])
    for part in parts[1:]:
        for entry, more in zip(merged["models"], part["models"], strict=True):
            entry["tasks"] |= more["tasks"]
            if "difference" in entry:
                entry["difference"] |= more["difference"]
    for entry in merged["models"]:
        entry["average"] = mean_score(entry["tasks"])
        if "difference" in entry:
            entry["difference"] |= _mean_difference(entry["difference"])
    merged["tasks"] = merged["models"][0]["tasks"]
    return merged


def differences(
    entry: dict,
    base: dict,
    samples: dict[str, list[dict]],
    base_samples: dict[str, list[dict]],
    text: Scores | None,
    base_text: Scores | None,
) -> dict[str, Any]:
    """``entry`` minus ``base``, item by item: {name: {difference, low, high}} with 95 % confidence
    intervals."""
    found: dict[str, Any] = {}
    if text is not None and base_text is not None:
        found["bits_per_byte"] = paired_difference(text, base_text)
    for name, task in entry["tasks"].items():
        found[name] = _paired(task["metric"], samples[name], base_samples[name])
    return found | _mean_difference(found)


def _mean_difference(found: dict[str, Any]) -> dict[str, Any]:
    """{"average": mean over those of the paper's columns that were run}, {} when none was."""
    run = [name for name in paper_columns() if name in found]
    if not run:
        return {}
    mean = float(np.mean([found[name]["difference"] for name in run]))
    half = [(found[name]["high"] - found[name]["low"]) / 2 for name in run]
    width = float(np.sqrt(np.square(half).sum()) / len(run))
    return {"average": {"difference": mean, "low": mean - width, "high": mean + width}}


def _paired(metric: str, samples: Sequence[dict], base_samples: Sequence[dict]) -> dict[str, float]:
    theirs = {sample["doc_hash"]: sample[metric] for sample in base_samples if is_scored(sample)}
    both = [sample for sample in samples if is_scored(sample) and sample["doc_hash"] in theirs]
    pairs = [(sample[metric], theirs[sample["doc_hash"]]) for sample in both]
    if in_bits(metric):
        ours, base = (_as_scores([pair[side] for pair in pairs]) for side in (0, 1))
        return paired_difference(ours, base)
    delta = np.array([mine - other for mine, other in pairs], dtype=float)
    mean = float(delta.mean())
    half = 1.96 * float(delta.std(ddof=1)) / np.sqrt(len(delta)) if len(delta) > 1 else float("nan")
    return {"difference": mean, "low": mean - half, "high": mean + half}


def _as_scores(values: Sequence[tuple[float, int]]) -> Scores:
    nats, sizes = (np.array(column) for column in zip(*values))
    return Scores(-nats / np.log(2), sizes, np.zeros_like(sizes), [""] * len(sizes), 0)


def is_scored(sample: dict) -> bool:
    """False when the model gave the item no finite log-likelihood (an overflow, an answer without
    tokens)."""
    numbers = [
        answer[0] if isinstance(answer, (tuple, list)) else answer
        for answer in sample["filtered_resps"]
    ]
    return all(not isinstance(number, float) or np.isfinite(number) for number in numbers)


def tables(result: dict[str, Any]) -> list[tuple[str, Table]]:
    """(title, table) for every group of tasks that was run, the average, and bits per byte."""
    models = result["models"]
    made: list[tuple[str, Table]] = []
    if models[0].get("bits_per_byte"):
        made.append(("Bits per byte", _text_table(models)))
        if "by_band" in models[0]["bits_per_byte"]:
            made.append(
                ("Bits per byte by frequency of the first model's tokens", _band_table(models))
            )
    for group in dict.fromkeys(facts.group for facts in tasks().values()):
        names = [name for name, facts in tasks().items() if facts.group == group]
        if names := [name for name in names if name in models[0]["tasks"]]:
            made.append((group, _task_table(models, names)))
    if models[0].get("average"):
        made.append(
            (
                f"Average of {models[0]['average']['columns']} of the paper's ten columns",
                _average(models),
            )
        )
    return made


def _task_table(models: Sequence[dict], names: Sequence[str]) -> Table:
    first = {name: models[0]["tasks"][name] for name in names}
    columns = ["model", *[f"{tasks()[name].title} (n={first[name]['n']})" for name in names]]
    metrics = {name: first[name]["metric"] for name in names}
    rows = [["chance", *[_number(first[name]["chance"], metrics[name]) for name in names]]]
    rows += [[m["model"], *[with_error(m["tasks"][name]) for name in names]] for m in models]
    for m in models[1:]:
        cells = [_interval(m["difference"][name], metrics[name]) for name in names]
        rows.append([f"{m['model']} - {models[0]['model']}", *cells])
    return columns, rows


def _average(models: Sequence[dict]) -> Table:
    rows = [["chance", _number(models[0]["average"]["chance"], "average")]]
    rows += [[m["model"], with_error(m["average"])] for m in models]
    rows += [
        [f"{m['model']} - {models[0]['model']}", _interval(m["difference"]["average"], "average")]
        for m in models[1:]
    ]
    return ["model", "average"], rows


def _text_table(models: Sequence[dict]) -> Table:
    sources = list(models[0]["bits_per_byte"]["by_source"])
    rows = []
    for m in models:
        parts = [
            m["bits_per_byte"],
            *[m["bits_per_byte"]["by_source"][source] for source in sources],
        ]
        rows.append([m["model"], *[_bits(part) for part in parts]])
    for m in models[1:]:
        cell = _interval(m["difference"]["bits_per_byte"], "bits_per_byte")
        rows.append([f"{m['model']} - {models[0]['model']}", cell, *[""] * len(sources)])
    return ["model", "all text", *sources], rows


def _band_table(models: Sequence[dict]) -> Table:
    bands = models[0]["bits_per_byte"]["by_band"]
    total = sum(band["bytes"] for band in bands.values())
    rows = [
        [
            "share of bytes",
            *[_number(band["bytes"] / total, "share") + " %" for band in bands.values()],
        ]
    ]
    for m in models:
        values = [band["bits_per_byte"] for band in m["bits_per_byte"]["by_band"].values()]
        rows.append([m["model"], *["-" if value is None else f"{value:.4f}" for value in values]])
    return ["model", *bands], rows


def _bits(part: dict) -> str:
    return f"{part['bits_per_byte']:.4f}" + (
        "" if part["stderr"] is None else f" ± {part['stderr']:.4f}"
    )


def _number(value: float | None, metric: str) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if in_bits(metric) else f"{100 * value:.1f}"


def with_error(entry: dict) -> str:
    """A score as a person reads it: bits per byte, or percent, with its standard error."""
    metric, error = entry.get("metric", ""), entry["stderr"]
    return _number(entry["score"], metric) + (
        "" if error is None else f" ± {_number(error, metric)}"
    )


def _interval(entry: dict, metric: str) -> str:
    scale, digits = (1, 4) if in_bits(metric) else (100, 1)
    mid, low, high = (scale * entry[key] for key in ("difference", "low", "high"))
    return f"{mid:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def notes(result: dict[str, Any]) -> list[str]:
    """What a reader must know beside the numbers: metrics, shots, items left out, prompts cut."""
    scored = "Scores are percentages with standard errors over items"
    if not result["models"][0]["tasks"]:
        scored = "Bits per byte are with standard errors over documents"
    lines = [f"{scored}; differences are paired, with 95 % intervals."]
    for name, task in result["models"][0]["tasks"].items():
        rule = f"{task['metric']}, {task['num_fewshot']}-shot, {task['n']} items"
        line = f"{tasks()[name].title}: {rule}, data {task['data_hash']}"
        if "mean_over_subjects" in task:
            line += (
                f", mean over {len(task['by_subject'])} subjects"
                f" {_number(task['mean_over_subjects'], task['metric'])}"
            )
        if task["bad_items"]:
            reasons = "; ".join(task["bad_examples"]) or "no finite score"
            line += f"; {task['bad_items']} items could not be used ({reasons})"
        if task["truncated"]:
            line += f"; {task['truncated']} prompts lost their beginning to the context"
        lines.append(line)
    return lines


def show(result: dict[str, Any]) -> None:
    for title, (columns, rows) in tables(result):
        print_table(title, columns, rows)
    for line in notes(result):
        print(line)


def write(result: dict[str, Any], out: Path) -> None:
    """Markdown and HTML beside ``out`` (results.json -> results.md, results.html)."""
    made = tables(result)
    text = "# Evaluation\n\n" + "\n".join(
        f"## {title}\n\n{html.markdown_table(*table)}" for title, table in made
    )
    listed = "\n".join(f"- {line}" for line in notes(result))
    write_text(out.with_suffix(".md"), f"{text}\n{listed}\n")
    sections = [(title, html.table(*table)) for title, table in made]
    sections.append(("Notes", "".join(html.paragraph(line) for line in notes(result))))
    lead = ", ".join(model["model"] for model in result["models"])
    write_text(out.with_suffix(".html"), html.page("Evaluation", lead, sections))
