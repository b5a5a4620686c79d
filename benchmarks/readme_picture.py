"""The picture of README: size, memory and speed of the demo's teacher and student, from the figures
that are committed (docs/results/demo).

    python benchmarks/readme_picture.py       writes docs/figures/shrink.svg
"""

import json
from pathlib import Path

from tinylm.render.figures import BLUE, GREY, figure, to_svg

DOCS = Path(__file__).parents[1] / "docs"
FORMAT = "Q8_0"


def main() -> None:
    results = json.loads((DOCS / "results/demo/results.json").read_text())
    table = json.loads((DOCS / "results/demo/device.json").read_text())["rows"]
    rows = {row["model"]: row for row in table if row["format"] == FORMAT}
    panels = [
        ("parameters, millions", {who: results["parameters"][who] / 1e6 for who in rows}, ".0f"),
        (f"file, MB ({FORMAT})", {who: row["bytes"] / 1e6 for who, row in rows.items()}, ".0f"),
        (
            "tokens a second, 2 threads",
            {who: row["decode_tokens_per_s"] for who, row in rows.items()},
            ".0f",
        ),
        ("bits per byte, held-out", {who: results["bits_per_byte"][who] for who in rows}, ".2f"),
    ]
    with figure(9.0, 1.5, columns=len(panels)) as (fig, axes):
        for number, (panel, (title, values, digits)) in enumerate(zip(axes, panels, strict=True)):
            bars = panel.barh(list(values), list(values.values()), color=[GREY, BLUE], height=0.6)
            panel.bar_label(bars, [f"{value:{digits}}" for value in values.values()], padding=3)
            panel.set_title(title, fontsize=9)
            panel.set_xlim(0, 1.3 * max(values.values()))
            panel.invert_yaxis()
            panel.set_xticks([])
            panel.grid(visible=False)
            if number:
                panel.set_yticks([])
        (DOCS / "figures" / "shrink.svg").write_text(to_svg(fig))
    smaller = rows["teacher"]["bytes"] / rows["student"]["bytes"]
    print(json.dumps({"ratio": smaller, "peer": f"the teacher's {FORMAT} file"}))


if __name__ == "__main__":
    main()
