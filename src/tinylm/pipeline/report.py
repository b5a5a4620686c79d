"""The report of one run, drawn from results.json alone: report.html, report.md and
figures/*.svg."""

import json
from pathlib import Path
from typing import Any

from tinylm.artifact import write_text
from tinylm.evaluate.results import with_error
from tinylm.pipeline.report_figures import CAPTIONS, draw_figures, rung_name
from tinylm.pipeline.verdict import headline, next_steps, outlook
from tinylm.render import html
from tinylm.train.learning_rate import describe_trials


def write_report(results: dict[str, Any], out: Path) -> None:
    """Write report.html (self-contained), report.md and the figures it names."""
    figures = draw_figures(results)
    for name, svg in figures.items():
        write_text(out / "figures" / f"{name}.svg", svg)
    write_text(out / "report.html", _html(results, figures))
    write_text(out / "report.md", _markdown(results, figures))


def _lead(results: dict[str, Any]) -> str:
    return f"{headline(results)} {outlook(results)}".strip()


def _next_text(results: dict[str, Any]) -> str:
    return "\n".join(f"# {why}\n{command}" for why, command in next_steps(results))


def _ladder_rows(results: dict[str, Any]) -> list[list[str]]:
    rows = []
    for key, value in results["bits_per_byte"].items():
        error = results["bits_per_byte_stderr"].get(key)
        size = results["parameters"].get(key, results["parameters"]["student"])
        tokens = results["tokens_at"].get(key)
        rows.append(
            [
                rung_name(key, results),
                f"{size / 1e6:.1f}M",
                "-" if tokens is None else f"{tokens / 1e6:.2f}M" if tokens else "0",
                f"{value:.4f}",
                "-" if error is None else f"{error:.4f}",
            ]
        )
    for kind, value in results.get("floors", {}).items():
        rows.append([f"{kind} counts of the same tokens", "-", "-", f"{value:.4f}", "-"])
    return rows


LADDER_COLUMNS = ["model", "parameters", "tokens trained", "bits per byte", "standard error"]


def _settings_rows(results: dict[str, Any]) -> list[list[str]]:
    shapes = results["shapes"]
    rows = [
        [key, str(shapes["teacher"][key]), str(value)] for key, value in shapes["student"].items()
    ]
    return [
        [
            "parameters",
            f"{results['parameters']['teacher']:,}",
            f"{results['parameters']['student']:,}",
        ],
        *rows,
    ]


def _facts_text(results: dict[str, Any]) -> str:
    tokenizer = results["tokenizer"]
    if "held_out" not in tokenizer:
        return f"The teacher's tokenizer of {tokenizer['vocab_size']:,} tokens was kept."
    held_out = tokenizer["held_out"].get("all") or next(iter(tokenizer["held_out"].values()))
    return (
        f"Vocabulary {tokenizer['parent_vocab_size']:,} -> {tokenizer['vocab_size']:,}, which"
        f" covers {100 * tokenizer['coverage']:.2f} % of the corpus' tokens. Held-out text becomes"
        f" {100 * (held_out['growth'] - 1):.2f} % longer in tokens (expected:"
        f" {100 * (tokenizer['growth_predicted'] - 1):.2f} %); {tokenizer['unreachable']} tokens"
        f" became unreachable. The certificate passed all {len(tokenizer['lines'])} checks."
    )


def _inheritance_text(results: dict[str, Any]) -> str:
    if not results["inherit"]:
        return "Weights were not inherited in this run."
    losses = results["inherit"].get("repair_losses", {})
    if not losses:
        return "Loss before and after the repair was not measured in this run."
    steps = ", ".join(f"{loss:.3f} after {name}" for name, loss in losses.items())
    return (
        f"Loss on held-out calibration text, nats per token: {steps}. A repair that raises it is"
        " taken back."
    )


def _training_text(results: dict[str, Any]) -> str:
    """How the learning rate was found and which state was published; "" for runs of before."""
    sentences = []
    for key, name in (("train", "Student"), ("control", "Control")):
        trained = results.get("train", {}).get(key, {})
        if "base_lr" not in trained:
            continue
        text = f"{name}: base_lr {trained['base_lr']:.2g}"
        trials = trained.get("learning_rate_trials")
        if trials:
            seconds = trained["learning_rate_seconds"]
            text += (
                f", measured in {seconds:.0f} s (held-out loss after short trials:"
                f" {describe_trials(trials)})"
            )
        if "published_step" in trained:
            text += (
                f"; held-out loss {trained['held_out_loss_before']:.3f} before,"
                f" {trained['held_out_loss']:.3f} after step {trained['published_step']}, which is"
                " the state that counts"
            )
        if trained.get("returns"):
            text += f"; the run diverged and went back {trained['returns']} times"
        sentences.append(text + ".")
    return " ".join(sentences)


def _html(results: dict[str, Any], figures: dict[str, str]) -> str:
    bpb, size = results["bits_per_byte"], results["parameters"]
    numbers = [
        (
            f"{size['student'] / 1e6:.1f}M",
            f"parameters ({100 * size['student'] / size['teacher']:.0f} % of the teacher)",
        ),
        (f"{bpb['student']:.3f}", "bits per byte, student"),
        (f"{bpb['teacher']:.3f}", "bits per byte, teacher"),
        (f"{results['tokens_trained'] / 1e6:.2f}M", "tokens trained"),
        (f"{sum(results['seconds'].values()) / 60:.1f} min", results["machine"]["short"]),
    ]
    if results.get("gain_over_control"):
        gain = results["gain_over_control"]["percent"]
        numbers.insert(
            2,
            (
                f"{abs(gain):.1f} %",
                f"{'lower' if gain > 0 else 'HIGHER'} than the same shape from random weights",
            ),
        )
    picture = {name: html.figure(svg, CAPTIONS[name]) for name, svg in figures.items()}
    sections = [
        ("", html.tiles(numbers)),
        ("The ladder", html.table(LADDER_COLUMNS, _ladder_rows(results)) + picture["ladder"]),
        (
            "Training",
            html.paragraph(_training_text(results))
            + picture["loss"]
            + picture.get("forgetting", ""),
        ),
        ("Compact tokenizer", html.paragraph(_facts_text(results)) + picture.get("coverage", "")),
        (
            "Architecture",
            html.table(["", "teacher", "student"], _settings_rows(results)) + picture["parts"],
        ),
        ("Inheritance", html.paragraph(_inheritance_text(results)) + picture.get("layers", "")),
    ]
    if results.get("tasks"):
        sections.append(("Zero-shot tasks", html.table(*_task_table(results))))
    if results.get("samples"):
        samples = "".join(
            html.paragraph(f"{s['model']}:") + html.quote(s["text"]) for s in results["samples"]
        )
        sections.append(("What it writes (greedy)", samples))
    sections += [
        ("What next", html.code(_next_text(results))),
        ("Time", html.table(["stage", "seconds"], _time_rows(results))),
        (
            "How to repeat",
            html.code(_repeat_text(results))
            + html.code(results["recipe_toml"], "exact recipe")
            + html.code(
                json.dumps(results["versions"] | results["machine"], indent=2),
                "versions and machine",
            )
            + html.code(
                json.dumps(results["artifacts"], indent=2),
                "artifacts, named by the hash of what made them",
            ),
        ),
    ]
    return html.page(f"tinylm run: {results['name']}", _lead(results), sections)


def _markdown(results: dict[str, Any], figures: dict[str, str]) -> str:
    picture = {name: f"![{CAPTIONS[name]}](figures/{name}.svg)\n" for name in figures}
    parts = [
        f"# tinylm run: {results['name']}\n\n{_lead(results)}\n",
        "## The ladder\n\n"
        + html.markdown_table(LADDER_COLUMNS, _ladder_rows(results))
        + "\n"
        + picture["ladder"],
        f"## Training\n\n{_training_text(results)}\n\n{picture['loss']}"
        + picture.get("forgetting", ""),
        "## Compact tokenizer\n\n" + _facts_text(results) + "\n\n" + picture.get("coverage", ""),
        "## Architecture\n\n"
        + html.markdown_table(["", "teacher", "student"], _settings_rows(results))
        + "\n"
        + picture["parts"],
        f"## Inheritance\n\n{_inheritance_text(results)}\n\n{picture.get('layers', '')}",
    ]
    if results.get("tasks"):
        parts.append("## Zero-shot tasks\n\n" + html.markdown_table(*_task_table(results)))
    if results.get("samples"):
        parts.append(
            "## What it writes (greedy)\n\n"
            + "\n".join(
                f"{s['model']}:\n\n> " + s["text"].replace("\n", "\n> ") + "\n"
                for s in results["samples"]
            )
        )
    parts.append(f"## What next\n\n```\n{_next_text(results)}\n```\n")
    parts.append("## Time\n\n" + html.markdown_table(["stage", "seconds"], _time_rows(results)))
    parts.append(
        "## How to"
        f" repeat\n\n```\n{_repeat_text(results)}\n```\n\n```toml\n{results['recipe_toml']}```\n"
    )
    return "\n".join(parts)


def _task_table(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    models = results["tasks"]["models"]
    rows = []
    for name, first in models[0]["tasks"].items():
        chance = "-" if first["chance"] is None else f"{100 * first['chance']:.1f}"
        cells = [model["tasks"][name] for model in models]
        rows.append([name, str(first["n"]), chance, *(with_error(c) for c in cells)])
    return ["task", "items", "chance %", *(f"{model['model']} %" for model in models)], rows


def _time_rows(results: dict[str, Any]) -> list[list[str]]:
    rows = [[name, f"{seconds:.1f}"] for name, seconds in results["seconds"].items()]
    return [*rows, ["all", f"{sum(results['seconds'].values()):.1f}"]]


def _repeat_text(results: dict[str, Any]) -> str:
    return (
        f"tinylm run {results['recipe_path'] or ''}".strip()
        + f"   # tinylm {results['versions']['tinylm']}"
    )
