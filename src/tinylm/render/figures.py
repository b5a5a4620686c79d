"""The look of every figure: colour-blind safe, units on axes, readable on a phone and in print."""

import io
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from cycler import cycler

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

# Okabe & Ito's palette: told apart by readers with any of the common colour blindnesses, and in
# grey print.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8A8F98",
)  # fmt: skip
# inches: on a phone 358 pixels wide a point is 1.13 pixels, so that SMALL is 11 of them
WIDTH, SMALL = 4.4, 9.8
PALETTE = [BLUE, ORANGE, GREEN, PURPLE, RED, SKY, GREY]


@contextmanager
def figure(
    width: float = WIDTH, height: float = 3.6, columns: int = 1
) -> Iterator[tuple[Figure, Any]]:
    """A styled figure and its axes (an array of axes when ``columns`` > 1), closed at the end of
    the block."""
    style: dict[Any, Any] = {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#5b616a",
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e6e8eb",
        "grid.linewidth": 0.8,
        "axes.prop_cycle": cycler(color=PALETTE),
        "legend.frameon": False,
        "svg.fonttype": "path",
        "svg.hashsalt": "tinylm",  # the same figure gives the same bytes
    }
    with plt.rc_context(style):
        fig, axes = plt.subplots(1, columns, figsize=(width, height), layout="constrained")
        try:
            yield fig, axes
        finally:
            plt.close(fig)


def wrap_label(text: str, width: int = 22) -> str:
    """``text`` in lines for an axis; its own line ends stay, and a $ begins no formula."""
    lines = [line for part in text.split("\n") for line in textwrap.wrap(part, width) or [""]]
    return "\n".join(lines).replace("$", r"\$")


def to_svg(fig: Figure) -> str:
    """The figure as an inline ``<svg>`` that scales with the page."""
    buffer = io.StringIO()
    fig.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    return re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", svg, count=1)
