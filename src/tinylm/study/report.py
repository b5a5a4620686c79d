"""The report of a study, drawn from its summary alone: results.json, report.html, report.md.
Verdicts come first."""

import json
from html import escape
from pathlib import Path
from typing import Any

from tinylm.artifact import write_json, write_text
from tinylm.render import html
from tinylm.render.numbers import hours
from tinylm.study import charts, gate
from tinylm.study.summary import ARITHMETIC

NONE = "–"


def write_report(results: dict[str, Any], out: Path) -> None:
    """Write the three files into ``out``, and the figures as SVG files for the Markdown."""
    figures = {
        name: svg
        for name, svg in (
            ("levels", charts.levels(results)),
            ("differences", charts.differences(results)),
        )
        if svg
    }
    write_json(out / "results.json", results)
    for name, svg in figures.items():
        write_text(out / "figures" / f"{name}.svg", svg)
    write_text(out / "report.html", _html(results, figures))
    write_text(out / "report.md", _markdown(results, figures))


def sentences(results: dict[str, Any]) -> list[str]:
    """What was found, one sentence a comparison, the whole ladder first."""
    return [f"{name}: {word}{evidence}." for name, word, evidence in _findings(results)]


def _findings(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what is compared, verdict, evidence)."""
    decimals, found = _decimals(results), []
    gain = results["total_gain"]
    if gain:
        interval = gain["percent_interval"]
        between = f" (95 % interval {interval[0]:.1f} to {interval[1]:.1f} %)" if interval else ""
        evidence = f", a gain of {gain['percent']:.1f} % in {results['measure']['label']}{between}"
        found.append(
            (f"Whole ladder, {gain['to']} against {gain['from']}", gain["verdict"], evidence)
        )
    return found + [
        (rung["name"], rung["verdict"], _evidence(rung, decimals))
        for rung in results["rungs"]
        if rung["reference"]
    ]


def _evidence(rung: dict[str, Any], decimals: int) -> str:
    if rung["difference"] is None:
        return f" (no seed has both it and {rung['reference']} yet)"
    text = f", {rung['difference']:+.{decimals}f} against {rung['reference']}"
    if rung["interval"]:
        low, high = rung["interval"]
        p = _p(rung["p_holm"])
        text += (
            f" (95 % interval {low:+.{decimals}f} to {high:+.{decimals}f}, {rung['pairs']} seeds, "
        )
        text += f"corrected p {p if p.startswith('<') else '= ' + p})"
    return text


def _sections(results: dict[str, Any]) -> list[tuple[str, str]]:
    """(heading, paragraph) texts that both formats share."""
    floor, budget, decimals = results["noise_floor"], results["equal_budget"], _decimals(results)
    noise = "The noise floor has not been measured: no two runs of the baseline have ended."
    if floor["sd"] is not None:
        noise = (
            f"{floor['runs']} runs of {floor['baseline']!r} that differ in the seed alone have a"
            f" standard deviation of {floor['sd']:.{decimals}f} {results['measure']['label']}."
        )
        if floor.get("visible"):
            noise += (
                f" Differences below about {floor['visible']:.{decimals}f} cannot be told with so"
                " many seeds, unless the seeds move both sides alike."
            )
        if floor["interval"]:
            low, high = floor["interval"]
            noise += (
                " Its seeds against its other seeds (unpaired) give:"
                f" {floor['verdict']} ({floor['difference']:+.{decimals}f}, 95 % interval"
                f" {low:+.{decimals}f} to {high:+.{decimals}f}); anything but 'no difference seen'"
                " there would be chance, about once in twenty studies."
            )
    kinds = results.get("processors", [])
    if len(kinds) > 1:
        noise += f" The runs are of {len(kinds)} kinds of processor: {ARITHMETIC}."
    fair = "All variations have the same number of parameters and of training tokens (within 2 %)."
    if not budget["equal"]:
        spread = " and ".join(
            f"{what} differ by {100 * budget[key]:.0f} %"
            for key, what in (("parameters", "parameters"), ("tokens_trained", "training tokens"))
            if budget[key] and budget[key] > 0.02
        )
        fair = (
            f"Not a comparison at equal budget: {spread} between the smallest and the largest"
            " variation."
        )
    method = (
        "Differences are paired by seed (same data order, same start where shapes allow). Intervals"
        " are Student's t below 8 seeds, the studentised bootstrap from there on; p-values are of"
        " the paired t-test, corrected by Holm for the number of comparisons. 'No difference seen'"
        " means that the interval contains zero: a difference smaller than the interval may exist."
        " 'Perhaps' means that the interval excludes zero but the corrected p-value is not below"
        " 0.05, or that the interval over documents (drawn anew, the same for both sides) contains"
        " zero."
    )
    floors = [("What counting does", gate.sentence(results["rungs"]))]
    return [
        *(floors if results["measure"]["key"].startswith("bits_per_byte.") else []),
        ("Noise floor", noise),
        ("Is it fair?", fair),
        ("How to read the verdicts", method),
    ]


COLUMNS = [
    "variation",
    "verdict",
    "mean",
    "bigram",
    "difference",
    "95 % interval",
    "over documents",
    "p (Holm)",
    "sd",
    "seeds",
    "size",
    "tokens",
]


def _rows(rungs: list[dict[str, Any]], decimals: int) -> list[list[str]]:
    return [
        [
            rung["name"],
            rung["verdict"].partition(":")[0],  # why there is none stands above
            _fixed(rung["mean"], decimals),
            _fixed((rung.get("floors") or {}).get("bigram"), decimals),
            _fixed(rung["difference"], decimals, sign=True),
            _interval(rung["interval"], decimals),
            _interval(rung.get("document_interval"), decimals),
            _p(rung["p_holm"]),
            _fixed(rung["sd"], decimals),
            str(len(rung["seeds"])),
            _millions(rung["parameters"]),
            _millions(rung["tokens_trained"]),
        ]
        for rung in rungs
    ]


def _table(
    rungs: list[dict[str, Any]], decimals: int, without: tuple[str, ...] = ()
) -> tuple[list[str], list[list[str]]]:
    """Columns and rows; those in which no row has anything are left out."""
    rows = _rows(rungs, decimals)
    kept = [
        place
        for place, name in enumerate(COLUMNS)
        if name not in without and any(row[place] != "–" for row in rows)
    ]
    return [COLUMNS[place] for place in kept], [[row[place] for place in kept] for row in rows]


def _short(rungs: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Of a measure that is not the study's first: no counts, no budget."""
    return _table(rungs, 4, without=("bigram", "size", "tokens"))


def _state(results: dict[str, Any]) -> str:
    state = results["state"]
    text = f"{state['finished']} of {sum(state.values())} runs finished"
    if state["failed"]:
        text += f", {state['failed']} FAILED"
    return text + (
        f", {state['to do']} to do: what follows is preliminary" if state["to do"] else ""
    )


def _html(results: dict[str, Any], figures: dict[str, str]) -> str:
    decimals = _decimals(results)
    sections = [("", _tiles(results) + _claim(results))]
    verdicts = "".join(
        f"<li>{escape(name)}: <b>{escape(word)}</b>{escape(evidence)}.</li>"
        for name, word, evidence in _findings(results)
    )
    sections.append(
        ("Verdicts", f"<ul>{verdicts}</ul>" + "".join(map(html.paragraph, results["notes"])))
    )
    captions = {
        "levels": "Dots: single runs. Diamonds: means over seeds with their 95 % interval.",
        "differences": (
            "Paired differences with 95 % intervals (the noise floor unpaired). Filled: better or"
            " worse after correction; open: not."
        ),
    }
    drawn = "".join(html.figure(svg, captions[name]) for name, svg in figures.items())
    sections.append(("Figures", f'<div style="max-width:33rem">{drawn}</div>'))
    sections.append(("Numbers", html.table(*_table(results["rungs"], decimals))))
    sections += [(heading, html.paragraph(text)) for heading, text in _sections(results)]
    for other in results["other_measures"]:
        heading = f"{other['measure']['label']} ({other['measure']['better']} is better)"
        sections.append((heading, html.table(*_short(other["rungs"]))))
    if results["by_source"]:
        columns, rows = _source_table(results)
        sections.append(("Bits per byte by kind of text", html.table(columns, rows)))
    failed = [run for run in results["runs"] if run["status"] == "failed"]
    if failed:
        listed = "".join(
            html.paragraph(f"{run['id']}: {run['error']}")
            + (html.code(run["trace"], "trace") if run["trace"] else "")
            for run in failed
        )
        sections.append(("Failed runs", listed))
    sections.append(("Repeat it", _repeat_html(results)))
    return html.page(results["title"], f"{_state(results)} · scale {results['scale']}", sections)


def _tiles(results: dict[str, Any]) -> str:
    measured = [rung for rung in results["rungs"] if rung["mean"] is not None]
    if not measured:
        return html.paragraph("No run has finished yet.")
    best = (min if results["measure"]["better"] == "lower" else max)(
        measured, key=lambda rung: rung["mean"]
    )
    items = [(f"{best['mean']:.3f}", f"{results['measure']['label']}, best mean: {best['name']}")]
    if results["total_gain"]:
        items.append((f"{results['total_gain']['percent']:.1f} %", "gain of the whole ladder"))
    better = sum(word == "better" for word in results["verdicts"].values())
    items.append((f"{better} of {len(results['verdicts'])}", "comparisons better after correction"))
    if results["noise_floor"]["sd"] is not None:
        items.append((f"± {results['noise_floor']['sd']:.4f}", "standard deviation between seeds"))
    items.append((hours(results["times"]["hours"] * 3600), "of computing"))
    return html.tiles(items)


def _claim(results: dict[str, Any]) -> str:
    text = html.paragraph("The paper: " + results["claim"]) if results["claim"] else ""
    return text + (html.paragraph("Here: " + results["question"]) if results["question"] else "")


def _source_table(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    names = [rung["name"] for rung in results["rungs"] if rung["values"]]
    rows = [
        [source, *[_fixed(row.get(name), 3) for name in names]]
        for source, row in results["by_source"].items()
    ]
    return ["text", *names], rows


def _repeat_html(results: dict[str, Any]) -> str:
    changes = {rung["name"]: rung["changes"] for rung in results["rungs"]}
    rows = [
        [
            r["id"],
            r["status"] + (", noise floor" if r["noise"] else ""),
            _fixed(r["value"], 4),
            r["recipe_hash"],
        ]
        for r in results["runs"]
    ]
    return (
        html.code(results["repeat"])
        + html.paragraph(_environment(results))
        + html.code(json.dumps(results["base_recipe"], indent=1), "base recipe")
        + html.code(json.dumps(changes, indent=1), "what each variation changes in it")
        + "<details><summary>every run</summary>"
        + html.table(["run", "status", results["measure"]["label"], "recipe hash"], rows)
        + "</details>"
    )


def _environment(results: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    parts = [
        f"study hash {results['hash']}",
        *(f"machine: {machine}" for machine in results["machine"]),
        versions,
    ]
    return (
        "; ".join(part for part in [*parts, f"{results['times']['hours']:.2f} hours"] if part) + "."
    )


def _markdown(results: dict[str, Any], figures: dict[str, str]) -> str:
    lines = [f"# {results['title']}", "", f"{_state(results)} · scale {results['scale']}", ""]
    lines += [f"The paper: {results['claim']}", ""] if results["claim"] else []
    lines += [
        "## Verdicts",
        "",
        *(f"- {line}" for line in sentences(results)),
        "",
        *results["notes"],
        "",
    ]
    lines += [f"![{name}](figures/{name}.svg)" for name in figures]
    lines += ["", html.markdown_table(*_table(results["rungs"], _decimals(results)))]
    for heading, text in _sections(results):
        lines += [f"## {heading}", "", text, ""]
    for other in results["other_measures"]:
        lines += [f"## {other['measure']['label']}", ""]
        lines += [html.markdown_table(*_short(other["rungs"]))]
    if results["by_source"]:
        lines += [
            "## Bits per byte by kind of text",
            "",
            html.markdown_table(*_source_table(results)),
        ]
    failed = [
        f"- {run['id']}: {run['error']}" for run in results["runs"] if run["status"] == "failed"
    ]
    lines += ["## Failed runs", "", *failed, ""] if failed else []
    return "\n".join(
        [*lines, "## Repeat it", "", f"    {results['repeat']}", "", _environment(results), ""]
    )


def _decimals(results: dict[str, Any]) -> int:
    """Enough digits for the noise between seeds to show: 4 for bits per byte, fewer for large
    numbers."""
    means = [abs(rung["mean"]) for rung in results["rungs"] if rung["mean"]]
    return 1 if means and max(means) >= 100 else 4


def _fixed(value: float | None, decimals: int, *, sign: bool = False) -> str:
    return NONE if value is None else f"{value:{'+' if sign else ''}.{decimals}f}"


def _interval(interval: list[float] | None, decimals: int) -> str:
    """Both ends, with spaces that do not break a line."""
    return (
        f"{interval[0]:+.{decimals}f}\u00a0…\u00a0{interval[1]:+.{decimals}f}" if interval else NONE
    )


def _p(value: float | None) -> str:
    return NONE if value is None else "<\u00a00.0001" if value < 0.0001 else f"{value:.4f}"


def _millions(value: float | None) -> str:
    return NONE if value is None else f"{value / 1e6:.2f}M"
