"""The report of one run, drawn from results.json alone: report.html, report.md and
figures/*.svg."""

import json
from pathlib import Path
from typing import Any

from tinylm.artifact import atomic_file
from tinylm.evaluate.results import with_error
from tinylm.render import html
from tinylm.render.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, figure, to_svg
from tinylm.train.forgetting import draw as draw_forgetting

PARTS = {
    "embedding": SKY,
    "head": PURPLE,
    "attention": ORANGE,
    "ffn": BLUE,
    "norms": GREY,
    "shortcut": GREEN,
    "series": RED,
}
RUNG_NAMES = {
    "teacher": "teacher",
    "compact": "teacher, compact tokenizer",
    "inherited": "after the cut, before training",
    "student": "student, trained",
    "control": "control: same shape from random weights",
}


def write_report(results: dict[str, Any], out: Path) -> None:
    """Write report.html (self-contained), report.md and the figures it names."""
    figures = {name: draw(results) for name, draw in FIGURES.items() if name in _available(results)}
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for name, svg in figures.items():
        (out / "figures" / f"{name}.svg").write_text(svg)
    with atomic_file(out / "report.html") as path:
        path.write_text(_html(results, figures), encoding="utf-8")
    with atomic_file(out / "report.md") as path:
        path.write_text(_markdown(results, figures), encoding="utf-8")


def headline(results: dict[str, Any]) -> str:
    """One sentence: what came out and how good it is."""
    bpb, size = results["bits_per_byte"], results["parameters"]
    text = (
        f"{size['student'] / 1e6:.1f}M parameters from a {size['teacher'] / 1e6:.1f}M teacher: "
        f"{bpb['student']:.3f} bits per byte on held-out text (teacher {bpb['teacher']:.3f})"
    )
    gain = results.get("gain_over_control")
    if gain is not None:
        text += (
            f"; at {gain['tokens'] / 1e6:.2f}M tokens {gain['student']:.3f} against"
            f" {gain['control']:.3f} for the same shape from random weights,"
            f" {abs(gain['percent']):.1f} % {'lower' if gain['percent'] > 0 else 'HIGHER'}"
        )
    return text + "."


def _available(results: dict[str, Any]) -> set[str]:
    names = {"ladder", "parts", "loss"}
    if results["tokenizer"].get("curve"):
        names.add("coverage")
    if results["inherit"].get("layer_scores"):
        names.add("layers")
    if results.get("forgetting"):
        names.add("forgetting")
    return names


def _rung(key: str, results: dict[str, Any]) -> str:
    if key == "inherited" and not results["inherit"]:
        return "random weights, before training"
    return RUNG_NAMES.get(key, key)


def _ladder_rows(results: dict[str, Any]) -> list[list[str]]:
    rows = []
    for key, value in results["bits_per_byte"].items():
        error = results["bits_per_byte_stderr"].get(key)
        size = results["parameters"].get(key, results["parameters"]["student"])
        tokens = results["tokens_at"].get(key)
        rows.append(
            [
                _rung(key, results),
                f"{size / 1e6:.1f}M",
                "-" if tokens is None else f"{tokens / 1e6:.2f}M" if tokens else "0",
                f"{value:.4f}",
                "-" if error is None else f"{error:.4f}",
            ]
        )
    return rows


LADDER_COLUMNS = ["model", "parameters", "tokens trained", "bits per byte", "standard error"]


def _draw_ladder(results: dict[str, Any]) -> str:
    names = list(results["bits_per_byte"])
    colours = {
        "teacher": GREY,
        "compact": SKY,
        "inherited": ORANGE,
        "student": BLUE,
        "control": RED,
    }
    with figure(6.4, 0.6 + 0.42 * len(names)) as (fig, ax):
        values = [results["bits_per_byte"][name] for name in names]
        bars = ax.barh(
            range(len(names)),
            values,
            color=[colours.get(name, GREEN) for name in names],
            height=0.62,
        )
        ax.bar_label(bars, [f"{value:.3f}" for value in values], padding=4)
        ax.set_yticks(range(len(names)), [_rung(name, results) for name in names])
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.set_xlim(0, max(values) * 1.13)
        ax.set_xlabel("bits per byte on held-out text (lower is better)")
        return to_svg(fig)


def _draw_loss(results: dict[str, Any]) -> str:
    with figure() as (fig, ax):
        for name, colour in (("control", RED), ("student", BLUE)):
            points = results["losses"].get(name)
            if points:
                tokens, losses = (
                    [point[0] / 1e6 for point in points],
                    [point[1] for point in points],
                )
                ax.plot(tokens, losses, color=colour, alpha=0.25, linewidth=0.8)
                ax.plot(tokens, _smooth(losses), color=colour, label=name)
            held_out = results.get("validation", {}).get(name)
            if held_out:
                tokens, losses = (
                    [point[0] / 1e6 for point in held_out],
                    [point[1] for point in held_out],
                )
                ax.plot(
                    tokens,
                    losses,
                    "o--",
                    color=colour,
                    markersize=4,
                    label=f"{name}, held-out text",
                )
        for boundary in results["round_starts"][1:]:
            ax.axvline(boundary / 1e6, color=GREY, linestyle=":", linewidth=1.2)
            ax.annotate(
                "next round",
                (boundary / 1e6, ax.get_ylim()[1]),
                fontsize=8,
                va="top",
                rotation=90,
                ha="right",
            )
        ax.set_xlabel("tokens trained, millions")
        ax.set_ylabel("training loss, nats per token")
        ax.legend()
        return to_svg(fig)


def _draw_coverage(results: dict[str, Any]) -> str:
    curve, kept = results["tokenizer"]["curve"], results["tokenizer"]["vocab_size"]
    sizes = [point["vocab_size"] for point in curve]
    with figure() as (fig, ax):
        ax.plot(
            sizes, [100 * point["coverage"] for point in curve], color=BLUE, label="tokens covered"
        )
        ax.plot(
            sizes,
            [100 * (point["growth"] - 1) for point in curve],
            color=RED,
            label="text grows by (predicted)",
        )
        ax.axhline(97.86, color=GREY, linestyle=":", linewidth=1.2)
        ax.annotate(
            "97.86 %: the paper's 48k", (sizes[len(sizes) // 3], 97.86), va="bottom", fontsize=8
        )
        ax.axvline(kept, color=GREEN, linewidth=1.2)
        ax.annotate(f"kept: {kept:,} ", (kept, 50), fontsize=9, color=GREEN, ha="right")
        ax.set_xscale("log", base=2)
        ticks = [
            size
            for size in (1024, 2048, 4096, 8192, 16384, 32768, 49152, 65536, 131072, 262144)
            if size <= sizes[-1]
        ]
        ax.set_xticks(ticks, [f"{tick // 1024}k" for tick in ticks])
        ax.set_ylim(0, 106)
        ax.set_xlabel("vocabulary size")
        ax.set_ylabel("percent")
        fig.legend(loc="outside upper center", ncols=2, fontsize=8.5)
        return to_svg(fig)


def _draw_parts(results: dict[str, Any]) -> str:
    named: set[str] = set()
    with figure(6.4, 2.3) as (fig, ax):
        for row, who in enumerate(("teacher", "student")):
            left = 0.0
            for part, colour in PARTS.items():
                size = results["parts"][who].get(part, 0) / 1e6
                if size:
                    ax.barh(
                        row,
                        size,
                        left=left,
                        color=colour,
                        height=0.6,
                        label=part if part not in named else None,
                    )
                    named.add(part)
                left += size
            share = (
                (results["parts"][who]["embedding"] + results["parts"][who]["head"]) / 1e6 / left
            )
            ax.annotate(
                f" {left:.1f}M, {100 * share:.0f} % embedding + head",
                (left, row),
                va="center",
                fontsize=8.5,
            )
        ax.set_yticks([0, 1], ["teacher", "student"])
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.set_xlim(0, sum(results["parts"]["teacher"].values()) / 1e6 * 1.38)
        ax.set_xlabel("parameters, millions")
        fig.legend(loc="outside upper center", ncols=5, fontsize=8.5)
        return to_svg(fig)


def _draw_layers(results: dict[str, Any]) -> str:
    scores, kept = results["inherit"]["layer_scores"], set(results["inherit"]["kept_layers"])
    with figure(6.4, 3.0) as (fig, ax):
        colours = [BLUE if layer in kept else "#c9ced6" for layer in range(len(scores))]
        ax.bar(range(len(scores)), scores, color=colours)
        ax.bar(0, 0, color=BLUE, label="kept")
        ax.bar(0, 0, color="#c9ced6", label="left out")
        if min(scores) > 0 and max(scores) > 30 * sorted(scores)[len(scores) // 2]:
            ax.set_yscale("log")
        ax.set_xlabel("layer of the teacher")
        ax.set_ylabel("importance")
        ax.legend()
        return to_svg(fig)


def _draw_forgetting(results: dict[str, Any]) -> str:
    with figure() as (fig, ax):
        draw_forgetting(ax, results["forgetting"])
        return to_svg(fig)


FIGURES = {
    "ladder": _draw_ladder,
    "loss": _draw_loss,
    "coverage": _draw_coverage,
    "parts": _draw_parts,
    "layers": _draw_layers,
    "forgetting": _draw_forgetting,
}
CAPTIONS = {
    "ladder": (
        "Bits per byte of each model on the same held-out documents; comparable across tokenizers."
    ),
    "loss": (
        "Training loss in the order of training (faint: each logged step; bold: running mean). A"
        " later round trains again on some of the batches of the first, drawn by how hard the model"
        " finds them."
    ),
    "coverage": (
        "Share of the corpus' tokens that the best K cover, and how much longer text becomes when"
        " the rest is spelt with smaller pieces."
    ),
    "parts": (
        "Parameters by part, before and after. A tied head costs nothing beside the embedding."
    ),
    "layers": "Importance of each of the teacher's layers and which of them the student inherits.",
    "forgetting": (
        "Loss of each round's batches at its end, in the order in which they were seen. A falling"
        " solid line is forgetting: what came first is known less well than what came last."
    ),
}


def _smooth(values: list[float], width: int = 15) -> list[float]:
    return [
        sum(values[max(0, i - width + 1) : i + 1]) / min(width, i + 1) for i in range(len(values))
    ]


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
        f" {100 * (held_out['growth'] - 1):.2f} % longer in tokens (predicted:"
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
        ("Training", picture["loss"] + picture.get("forgetting", "")),
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
    return html.page(f"tinylm run: {results['name']}", headline(results), sections)


def _markdown(results: dict[str, Any], figures: dict[str, str]) -> str:
    picture = {name: f"![{CAPTIONS[name]}](figures/{name}.svg)\n" for name in figures}
    parts = [
        f"# tinylm run: {results['name']}\n\n{headline(results)}\n",
        "## The ladder\n\n"
        + html.markdown_table(LADDER_COLUMNS, _ladder_rows(results))
        + "\n"
        + picture["ladder"],
        "## Training\n\n" + picture["loss"] + picture.get("forgetting", ""),
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
        rows.append([name, str(first["n"]), chance, *(with_error(c, name) for c in cells)])
    return ["task", "items", "chance %", *(f"{model['model']} %" for model in models)], rows


def _time_rows(results: dict[str, Any]) -> list[list[str]]:
    rows = [[name, f"{seconds:.1f}"] for name, seconds in results["seconds"].items()]
    return [*rows, ["all", f"{sum(results['seconds'].values()):.1f}"]]


def _repeat_text(results: dict[str, Any]) -> str:
    return (
        f"tinylm run {results['recipe_path'] or ''}".strip()
        + f"   # tinylm {results['versions']['tinylm']}"
    )
