"""The figures of a study, as SVG: every run is a dot, every mean has its interval, units stand on
the axes."""

from typing import Any

from tinylm.render.figures import BLUE, GREY, RED, SMALL, figure, to_svg, wrap_label
from tinylm.study.statistics import half_width

COUNTED = "counts of pairs, same tokens"
COLOURS = {"better": BLUE, "worse": RED, "perhaps better": BLUE, "perhaps worse": RED}


def levels(results: dict[str, Any]) -> str | None:
    """The measure itself: by the numbers on ``axis`` where the study has one, else one row a
    variation."""
    rungs = [rung for rung in results["rungs"] if rung["values"]]
    if not rungs:
        return None
    points = _axis_points(results["axis"], results["series"], rungs)
    return _curve(results, rungs, points) if points else _rows(results, rungs)


def differences(results: dict[str, Any]) -> str | None:
    """Each variation minus its reference with the 95 % interval, over the band of what other seeds
    alone do."""
    rungs = [rung for rung in results["rungs"] if rung["difference"] is not None]
    if not rungs:
        return None
    floor = results["noise_floor"]
    entries = [
        (f"{rung['name']}\nagainst {rung['reference']}", rung, rung["verdict"]) for rung in rungs
    ]
    if floor["difference"] is not None:
        entries.append(
            (
                f"noise floor: {floor['baseline']}\nagainst itself, other seeds",
                floor,
                floor["verdict"],
            )
        )
    labels = [wrap_label(label) for label, _, _ in entries]
    with figure(height=0.9 + _rows_height(labels, 0.52)) as (fig, ax):
        if floor["sd"] is not None:
            ax.axvspan(
                -floor["sd"], floor["sd"], color="#eceef1", zorder=0, label="± 1 sd between seeds"
            )
            fig.legend(loc="outside upper right", fontsize=SMALL)
        ax.axvline(0, color=GREY, linewidth=1)
        for row, (_, entry, word) in enumerate(entries):
            colour = COLOURS.get(word, GREY)
            if entry["interval"]:
                ax.plot(
                    entry["interval"], [row, row], color=colour, linewidth=2, solid_capstyle="butt"
                )
                for end in entry["interval"]:
                    ax.plot([end, end], [row - 0.12, row + 0.12], color=colour, linewidth=2)
            filled = word in ("better", "worse")
            ax.plot(
                entry["difference"],
                row,
                "o",
                color=colour,
                markerfacecolor=colour if filled else "white",
            )
        ax.set_yticks(range(len(entries)), labels, fontsize=SMALL)
        ax.set_ylim(len(entries) - 0.5, -0.5)
        ax.locator_params(axis="x", nbins=5)
        ax.grid(axis="y", visible=False)
        good = "negative" if results["measure"]["better"] == "lower" else "positive"
        ax.set_xlabel(f"difference in {_label(results)}\n({good} is better)")
        return to_svg(fig)


def _rows(results: dict[str, Any], rungs: list[dict[str, Any]]) -> str:
    labels = [wrap_label(rung["name"]) for rung in rungs]
    with figure(height=0.8 + _rows_height(labels, 0.42)) as (fig, ax):
        for row, rung in enumerate(rungs):
            ax.plot(
                rung["values"],
                [row] * len(rung["values"]),
                "o",
                color=GREY,
                markersize=4,
                alpha=0.7,
            )
            half = _half_width(rung)
            ax.errorbar(
                rung["mean"],
                row,
                xerr=half or None,
                fmt="D",
                color=BLUE,
                markersize=5,
                capsize=4,
                linewidth=1.8,
            )
            ax.annotate(
                f"{rung['mean']:.3f}", (rung["mean"], row - 0.3), ha="center", fontsize=SMALL
            )
            if bigram := _bigram(rung):
                ax.plot(bigram, row, "|", color=GREY, markersize=14, markeredgewidth=2)
        if any(map(_bigram, rungs)):
            ax.plot([], [], "|", color=GREY, markersize=10, markeredgewidth=2, label=COUNTED)
            fig.legend(loc="outside upper right", fontsize=SMALL)
        ax.set_yticks(range(len(rungs)), labels)
        ax.set_ylim(len(rungs) - 0.4, -0.7)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel(f"{_label(results)} ({results['measure']['better']} is better)")
        return to_svg(fig)


def _curve(
    results: dict[str, Any],
    rungs: list[dict[str, Any]],
    points: dict[str, list[tuple[float, dict]]],
) -> str:
    with figure(height=3.6) as (fig, ax):
        for series, (line, marker) in zip(
            points, (("-", "D"), ("--", "s"), (":", "^"), ("-.", "v")) * 9, strict=False
        ):
            pairs = points[series]
            x = [position for position, _ in pairs]
            means, halves = (
                [rung["mean"] for _, rung in pairs],
                [_half_width(rung) for _, rung in pairs],
            )
            bars = ax.errorbar(
                x,
                means,
                yerr=halves,
                fmt=line + marker,
                capsize=4,
                markersize=5,
                label=series or None,
            )
            for position, rung in pairs:
                colour = bars.lines[0].get_color()
                ax.plot(
                    [position] * len(rung["values"]),
                    rung["values"],
                    "o",
                    color=colour,
                    markersize=3,
                    alpha=0.45,
                )
        counted = {x: level for pairs in points.values() for x, r in pairs if (level := _bigram(r))}
        if counted:
            ax.plot(*zip(*sorted(counted.items())), ":", color=GREY, marker="|", label=COUNTED)
        every = sorted({position for pairs in points.values() for position, _ in pairs})
        if every[0] > 0 and every[-1] / every[0] > 8:
            ax.set_xscale("log")
        ax.minorticks_off()
        ax.set_xticks(every, [_tick(x) for x in every])
        ax.set_xlabel(_words(results["axis"]))
        ax.set_ylabel(f"{_label(results)} ({results['measure']['better']} is better)")
        if len(points) > 1 or counted:
            ax.legend()
        return to_svg(fig)


def _rows_height(labels: list[str], least: float) -> float:
    """Inches for rows of one height, at ``least`` so much, that holds the lines of any label."""
    return len(labels) * max(least, 0.1 + 0.17 * max(1 + label.count("\n") for label in labels))


def _tick(x: float) -> str:
    """2k for 2048 too: vocabularies and batches are powers of two."""
    unit = 1024 if x >= 1024 and x % 1024 == 0 else 1000
    return f"{x:g}" if x < 10_000 and unit == 1000 else f"{x / unit:g}k"


def _axis_points(
    axis: str, by: str, rungs: list[dict[str, Any]]
) -> dict[str, list[tuple[float, dict]]] | None:
    """Line -> (x, rung) in order of x, one line for each value of ``by``. None: not all x are
    numbers."""
    lines: dict[str, list[tuple[float, dict]]] = {}
    for rung in rungs:
        x = rung["changes"].get(axis)
        if not isinstance(x, (int, float)) or isinstance(x, bool):
            return None
        name = f"{_words(by)} {rung['changes'][by]}" if by in rung["changes"] else ""
        lines.setdefault(name, []).append((float(x), rung))
    return {name: sorted(pairs, key=lambda pair: pair[0]) for name, pairs in sorted(lines.items())}


def _words(key: str) -> str:
    return key.rpartition(".")[2].replace("_", " ")


def _bigram(rung: dict[str, Any]) -> float | None:
    """What counts of pairs of a variation's own training tokens reach."""
    return (rung.get("floors") or {}).get("bigram")


def _half_width(rung: dict[str, Any]) -> float:
    """Half the 95 % interval of a mean over seeds (Student's t); 0 with one seed."""
    n = len(rung["values"])
    return 0.0 if n < 2 else half_width(rung["sd"], n)


def _label(results: dict[str, Any]) -> str:
    measure = results["measure"]
    unit = measure["unit"]
    return _literal(
        measure["label"] + (f", {unit}" if unit and unit not in measure["label"] else "")
    )


def _literal(text: str) -> str:
    """``text`` for a figure: a $ in a user's name does not begin a formula."""
    return text.replace("$", r"\$")
