"""Does a vocabulary chosen on one corpus carry over to another? The matrix "chosen on A, measured
on B"."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinylm.artifact import atomic_directory, write_json, write_text
from tinylm.errors import InputError
from tinylm.terminal import print_table
from tinylm.tokenizer import choose
from tinylm.tokenizer.count import Counts
from tinylm.tokenizer.source import read_source
from tinylm.tokenizer.splits import splits_of

PAPER_COVERAGE = 0.9786  # of the paper's own corpus by 48k of about 100k tokens


def study(
    folder: Path,
    counts: Sequence[Counts],
    names: Sequence[str],
    sizes: Sequence[int] | None = None,
    *,
    hidden_size: int | None = None,
    parameters: int | None = None,
    tied: bool = True,
) -> dict[str, Any]:
    """Everything `tinylm tokenizer coverage` tells: a curve per corpus and, for two or more, the
    matrices.

    Raises InputError when counts and tokenizer differ, or a size is not possible.
    """
    if parameters is not None and hidden_size is None:
        raise InputError(
            "--parameters needs --hidden-size: the share is that of embedding and head"
        )
    source = read_source(folder)
    splits = splits_of(source)
    rankings = [choose.rank(source, one, splits) for one in counts]
    sizes = list(sizes) if sizes else default_sizes(rankings)
    _require_sizes(sizes, rankings)
    result = {
        "tokenizer": str(folder),
        "parent_vocab_size": len(source.strings),
        "sizes": sizes,
        "measured_on": list(names),
        "tokens_per_byte": [one.tokens_per_byte for one in counts],
        "paper_coverage": PAPER_COVERAGE,
        "curves": [
            ranking.curve(sizes, hidden_size, parameters, tied=tied) for ranking in rankings
        ],
        "smallest_above_90_percent": [
            ranking.smallest(coverage=choose.PAPER_RULE) for ranking in rankings
        ],
    }
    if hidden_size and parameters:
        result["recommended"] = [
            ranking.recommended(parameters, hidden_size, tied=tied) for ranking in rankings
        ]
    if len(rankings) > 1:
        mixed = choose.rank(source, _mixed(counts), splits)
        result["chosen_on"] = [*names, "all"]
        result["matrices"] = [_matrices([*rankings, mixed], rankings, size) for size in sizes]
    return result


def default_sizes(rankings: Sequence[choose.Ranking]) -> list[int]:
    """4096, 8192, ... as far as the tokenizer goes, and 48,000, the paper's size."""
    least, most = max(ranking.forced for ranking in rankings), len(rankings[0].order)
    series = sorted({2**power for power in range(12, 19)} | {48_000})
    return [size for size in series if least <= size < most] + [most]


def _matrices(
    choosers: Sequence[choose.Ranking], measured: Sequence[choose.Ranking], size: int
) -> dict[str, Any]:
    """Coverage and growth, each [chosen on][measured on]. Coverage: share of B's tokens in the
    vocabulary chosen on A. Growth: predicted tokens of B after / before. The last row is chosen on
    all corpora with the same weight."""
    coverage, growth = [], []
    for chooser in choosers:
        kept = np.isin(np.arange(len(chooser.emitted)), chooser.order[:size])
        rows = [_measure(kept, ranking) for ranking in measured]
        coverage.append([one for one, _ in rows])
        growth.append([one for _, one in rows])
    return {"vocab_size": size, "coverage": coverage, "growth": growth}


def _measure(kept: np.ndarray, ranking: choose.Ranking) -> tuple[float, float]:
    total = max(1, int(ranking.emitted.sum()))
    return float(ranking.emitted[kept].sum() / total), 1 + float(ranking.cost[~kept].sum() / total)


def _mixed(counts: Sequence[Counts]) -> Counts:
    """All corpora scaled to the same number of tokens, so that none decides by its size."""
    total = max(one.tokens for one in counts)
    scaled = [np.rint(one.counts * (total / max(1, one.tokens))).astype(np.int64) for one in counts]
    return Counts(
        np.sum(scaled, axis=0),
        sum(one.bytes for one in counts),
        0,
        counts[0].tokenizer_hash,
        counts[0].tokenizer,
    )


def _require_sizes(sizes: Sequence[int], rankings: Sequence[choose.Ranking]) -> None:
    least, most = max(ranking.forced for ranking in rankings), len(rankings[0].order)
    for size in sizes:
        if not least <= size <= most:
            raise InputError(f"vocabulary of {size} is not possible here: choose {least} to {most}")


def print_study(result: dict[str, Any]) -> None:
    """The curves and the matrices as tables."""
    for index, (name, curve) in enumerate(zip(result["measured_on"], result["curves"])):
        print_table(name, *_curve_table(curve))
        print(
            "smallest vocabulary that covers 90 % (the paper's rule):"
            f" {result['smallest_above_90_percent'][index]:,}"
        )
        if "recommended" in result:
            print(f"recommended for this budget: {result['recommended'][index]:,}")
    for matrix in result.get("matrices", []):
        rows = [
            [name, *(f"{100 * one:.2f} % x{longer:.3f}" for one, longer in zip(coverage, growth))]
            for name, coverage, growth in zip(
                result["chosen_on"], matrix["coverage"], matrix["growth"]
            )
        ]
        title = (
            f"{matrix['vocab_size']:,} tokens: chosen on (row), measured on (column): coverage,"
            " growth of text"
        )
        print_table(title, ["", *result["measured_on"]], rows)


def _curve_table(curve: list[dict[str, float]]) -> tuple[list[str], list[list[str]]]:
    columns = ["vocabulary", "coverage %", "growth x", "of new text x", "tokens/byte"]
    rows = [
        [
            f"{row['vocab_size']:,}",
            f"{100 * row['coverage']:.2f}",
            f"{row['growth']:.4f}",
            f"{row['expected_growth']:.4f}",
            f"{row['tokens_per_byte']:.4f}",
        ]
        for row in curve
    ]
    for key, column, form in (
        ("embedding_parameters", "embedding + head M", lambda value: f"{value / 1e6:.1f}"),
        ("embedding_share", "share %", lambda value: f"{100 * value:.1f}"),
    ):
        if key in curve[0]:
            columns.append(column)
            rows = [[*row, form(values[key])] for row, values in zip(rows, curve)]
    return columns, rows


def write_coverage(result: dict[str, Any], out: Path) -> None:
    """``out/coverage.json`` and ``out/coverage.svg``."""
    with atomic_directory(out) as folder:
        write_json(folder / "coverage.json", result)
        draw(result, folder / "coverage.svg")


def draw(result: dict[str, Any], path: Path) -> None:
    """Growth against K for every corpus and, below, one pair of heat maps (coverage, growth) per
    size."""
    from tinylm.render import figures

    matrices = result.get("matrices", [])
    many = len(result["measured_on"])
    height = 3.4 + len(matrices) * (1.4 + 0.36 * (many + 1))
    with figures.figure(width=5.2 + 1.3 * many, height=height) as (figure, first):
        first.remove()
        ratios = [3.0] + [1.2 + 0.36 * (many + 1)] * len(matrices)
        grid = figure.add_gridspec(1 + len(matrices), 2, height_ratios=ratios)
        _curves(figure.add_subplot(grid[0, :]), result)
        for row, matrix in enumerate(matrices, start=1):
            label = f"{matrix['vocab_size']:,} tokens"
            _heat_map(
                figure.add_subplot(grid[row, 0]),
                result,
                100 * np.array(matrix["coverage"]),
                f"{label}: coverage, %",
            )
            _heat_map(
                figure.add_subplot(grid[row, 1]),
                result,
                np.array(matrix["growth"]),
                f"{label}: growth of text, x",
            )
        write_text(path, figures.to_svg(figure))


def _curves(axis, result: dict[str, Any]) -> None:
    for name, curve in zip(result["measured_on"], result["curves"]):
        axis.plot(
            [row["vocab_size"] for row in curve],
            [row["growth"] for row in curve],
            marker="o",
            label=name,
        )
    axis.set_xscale("log")
    sizes = sorted({row["vocab_size"] for curve in result["curves"] for row in curve})
    axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axis.set_xticks([], minor=True)
    axis.set_xlabel("vocabulary chosen on the corpus itself, tokens")
    axis.set_ylabel("tokens after / before (predicted)")
    axis.legend(fontsize=7)


def _heat_map(axis, result: dict[str, Any], values: np.ndarray, title: str) -> None:
    """Cells with their numbers: white is the best possible (100 %, x1), dark is bad."""
    loss = 1 - values / 100 if values.max() > 50 else values - 1
    axis.imshow(loss, cmap="Oranges", vmin=0, vmax=max(0.05, float(loss.max())), aspect="auto")
    axis.set_xticks(
        range(values.shape[1]), result["measured_on"], rotation=25, ha="right", fontsize=7
    )
    axis.set_yticks(range(values.shape[0]), result["chosen_on"], fontsize=7)
    axis.set_title(title + " (row: chosen on, column: measured on)", fontsize=6)
    axis.grid(False)
    for (y, x), value in np.ndenumerate(values):
        light = loss[y, x] < 0.6 * max(0.05, float(loss.max()))
        axis.text(
            x,
            y,
            f"{value:.4g}",
            ha="center",
            va="center",
            fontsize=6,
            color="black" if light else "white",
        )
