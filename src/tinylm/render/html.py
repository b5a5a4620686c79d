"""One self-contained page: no script, no font or file from elsewhere; reads well on a phone and in
print."""

import re
from collections.abc import Sequence
from html import escape

STYLE = """
:root { --ink:#1d2126; --soft:#5b616a; --line:#dfe2e6; --paper:#fff; --wash:#f5f7f9;
  --accent:#0072B2; }
* { box-sizing:border-box; }
body { margin:0; background:var(--paper); color:var(--ink);
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",
  "DejaVu Sans",sans-serif; }
main { max-width:60rem; margin:0 auto; padding:2rem 1.1rem 4rem; }
h1 { font-size:1.75rem; line-height:1.2; margin:0 0 .3rem; letter-spacing:-.01em; }
h2 { font-size:1.2rem; margin:2.6rem 0 .6rem; padding-top:.9rem; border-top:1px solid var(--line); }
p { margin:.5rem 0; max-width:46rem; overflow-wrap:anywhere; } .lead { color:var(--soft);
  font-size:1.05rem; }
.tiles { display:grid; grid-template-columns:repeat(auto-fit,minmax(15rem,1fr)); gap:.7rem;
  margin:1.3rem 0; }
.tile { background:var(--wash); border-radius:.6rem; padding:.8rem 1rem; }
.tile b { display:block; font-size:1.5rem; line-height:1.25; font-variant-numeric:tabular-nums; }
.tile span { color:var(--soft); font-size:.86rem; }
.scroll { overflow-x:auto; margin:.8rem 0; }
table { border-collapse:collapse; font-variant-numeric:tabular-nums; font-size:.93rem;
  min-width:50%; }
th,td { padding:.34rem .8rem .34rem 0; text-align:right; border-bottom:1px solid var(--line);
  vertical-align:top; }
th:first-child,td:first-child { text-align:left; } th { color:var(--soft); font-weight:600; }
figure { margin:1rem 0; } figure svg { width:100%; max-width:33rem; height:auto; }
figcaption { color:var(--soft); font-size:.88rem; max-width:44rem; }
pre { background:var(--wash); border-radius:.5rem; padding:.8rem 1rem; overflow-x:auto;
  font-size:.83rem;
  line-height:1.45; white-space:pre-wrap; overflow-wrap:anywhere; }
code { font-size:.9em; background:var(--wash); padding:.1em .3em; border-radius:.3em; }
blockquote { margin:.5rem 0; padding:.1rem 0 .1rem 1rem; border-left:3px solid var(--accent);
  overflow-wrap:anywhere; }
details { margin:.6rem 0; } summary { cursor:pointer; color:var(--accent); }
@media (max-width:40rem) { main { padding:1.2rem 1rem 3rem; } h1 { font-size:1.4rem; }
  .tiles { grid-template-columns:1fr 1fr; }
  table { font-size:.8rem; } th,td { padding-right:.4rem; min-width:2.6rem; }
  td:not(:first-child) { white-space:nowrap; } }
@media (prefers-color-scheme:dark) {
  :root { --ink:#e4e7ea; --soft:#a3abb4; --line:#343a41; --paper:#14171a; --wash:#1f2429;
    --accent:#56B4E9; }
  figure svg { filter:invert(.92) hue-rotate(180deg); } }
@media print { body { font-size:11pt; } h2 { break-after:avoid; }
  figure,table,.tile { break-inside:avoid; } }
"""


def page(title: str, lead: str, sections: Sequence[tuple[str, str]]) -> str:
    """A whole HTML document. ``sections`` are (heading, HTML); an empty heading gives no
    heading."""
    body = "".join(
        (f"<h2>{escape(heading)}</h2>" if heading else "") + content
        for heading, content in sections
    )
    return (
        '<!doctype html><html lang="en"><head><meta'
        f' charset="utf-8"><title>{escape(title)}</title><meta name="viewport"'
        ' content="width=device-width,initial-scale=1"><link rel="icon"'
        f' href="data:,"><style>{STYLE}</style></head><body><main><h1>{escape(title)}</h1><p'
        f' class="lead">{escape(lead)}</p>{body}</main></body></html>\n'
    )


def tiles(items: Sequence[tuple[str, str]]) -> str:
    """Big numbers: (number, what it is)."""
    cells = "".join(
        f'<div class="tile"><b>{escape(number)}</b><span>{escape(what)}</span></div>'
        for number, what in items
    )
    return f'<div class="tiles">{cells}</div>'


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        "<div"
        f' class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def figure(svg: str, caption: str) -> str:
    named = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(caption)}" ', 1)
    return f"<figure>{named}<figcaption>{escape(caption)}</figcaption></figure>"


def paragraph(text: str) -> str:
    """``text`` with what stands between backticks as code."""
    return "<p>" + re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text)) + "</p>"


def quote(text: str) -> str:
    return f"<blockquote>{escape(text)}</blockquote>"


def code(text: str, summary: str = "") -> str:
    """A block of code, folded under ``summary`` when one is given."""
    block = f"<pre>{escape(text)}</pre>"
    return f"<details><summary>{escape(summary)}</summary>{block}</details>" if summary else block


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The same table for report.md."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" + " ---: |" * (len(columns) - 1)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
