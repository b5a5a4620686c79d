"""The figures of a run's report, drawn from results.json alone."""

from typing import Any

from tinylm.render.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    SMALL,
    figure,
    to_svg,
    wrap_label,
)
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


def draw_figures(results: dict[str, Any]) -> dict[str, str]:
    """{name: SVG} of every figure that ``results`` have numbers for."""
    return {name: draw(results) for name, draw in FIGURES.items() if name in _available(results)}


def _available(results: dict[str, Any]) -> set[str]:
    names = {"ladder", "parts", "loss"}
    if results["tokenizer"].get("curve"):
        names.add("coverage")
    if results["inherit"].get("layer_scores"):
        names.add("layers")
    if results.get("forgetting"):
        names.add("forgetting")
    return names


def rung_name(key: str, results: dict[str, Any]) -> str:
    if key == "inherited" and not results["inherit"]:
        return "random weights, before training"
    return RUNG_NAMES.get(key, key)


def _draw_ladder(results: dict[str, Any]) -> str:
    counted = {f"{kind} counts": value for kind, value in results.get("floors", {}).items()}
    every = {**results["bits_per_byte"], **counted}
    names = list(every)
    colours = {
        "teacher": GREY,
        "compact": SKY,
        "inherited": ORANGE,
        "student": BLUE,
        "control": RED,
    }
    errors = results.get("bits_per_byte_stderr", {})
    with figure(height=0.6 + 0.5 * len(names)) as (fig, ax):
        values = list(every.values())
        bars = ax.barh(
            range(len(names)),
            values,
            color=[colours.get(name, GREY if name in counted else GREEN) for name in names],
            height=0.62,
            xerr=[errors.get(name) or 0.0 for name in names],
            error_kw={"elinewidth": 1.2, "capsize": 3},
        )
        ax.bar_label(bars, [f"{value:.3f}" for value in values], padding=4)
        labels = [wrap_label(rung_name(name, results)) for name in names]
        ax.set_yticks(range(len(names)), labels, fontsize=SMALL)
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.set_xlim(0, max(values) * 1.25)
        ax.set_xlabel("bits per byte on held-out text\n(lower is better)")
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
            held_out = held_out or results.get("looks", {}).get(name)
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
                fontsize=SMALL,
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
        free = next((p["vocab_size"] for p in curve if p["growth"] < 1.8), sizes[0])
        ax.annotate("97.86 %: the paper's 48k", (free, 99), va="bottom", fontsize=SMALL)
        ax.axvline(kept, color=GREEN, linewidth=1.2)
        ax.annotate(f"kept: {kept:,} ", (kept, 50), fontsize=SMALL, color=GREEN, ha="right")
        ax.set_xscale("log", base=2)
        ticks = [
            size
            for size in (1024, 2048, 4096, 8192, 16384, 32768, 49152, 65536, 131072, 262144)
            if size <= sizes[-1]
        ]
        ax.set_xticks(ticks, [f"{tick // 1024}k" for tick in ticks])
        ax.set_ylim(0, 110)  # room for the words above the line
        ax.set_xlabel("vocabulary size")
        ax.set_ylabel("percent")
        fig.legend(loc="outside upper center", ncols=2, fontsize=SMALL)
        return to_svg(fig)


def _draw_parts(results: dict[str, Any]) -> str:
    named: set[str] = set()
    with figure(height=2.6) as (fig, ax):
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
                f" {left:.1f}M\n {100 * share:.0f} % vocabulary",
                (left, row),
                va="center",
                fontsize=SMALL,
            )
        ax.set_yticks([0, 1], ["teacher", "student"])
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.set_xlim(0, sum(results["parts"]["teacher"].values()) / 1e6 * 1.38)
        ax.set_xlabel("parameters, millions")
        fig.legend(loc="outside upper center", ncols=3, fontsize=SMALL)
        return to_svg(fig)


def _draw_layers(results: dict[str, Any]) -> str:
    scores, kept = results["inherit"]["layer_scores"], set(results["inherit"]["kept_layers"])
    with figure(height=3.0) as (fig, ax):
        colours = [BLUE if layer in kept else "#c9ced6" for layer in range(len(scores))]
        ax.bar(range(len(scores)), scores, color=colours)
        ax.bar(0, 0, color=BLUE, label="kept")
        ax.bar(0, 0, color="#c9ced6", label="left out")
        if min(scores) > 0 and max(scores) > 30 * sorted(scores)[len(scores) // 2]:
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter("{x:g}")  # small exponents cannot be read on a phone
            ax.minorticks_off()
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
        "Bits per byte of each model on the same held-out documents, with the standard error over"
        " documents; comparable across tokenizers."
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
        "Parameters by part, before and after; vocabulary: embedding and head. A tied head costs"
        " nothing beside the embedding."
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
