"""Right after the cut: perplexity of WikiText-2 and bits per byte of other text, ours beside four
published rules of structured pruning, with nothing trained.

    python benchmarks/after_cut.py --wikitext FOLDER --out OUT [--teacher DIR] [--only FLAP ...]

FOLDER holds wiki.validation.raw (calibration) and wiki.test.raw. Each rule removes the same shares
of the teacher's non-embedding parameters from the same text in windows of 512 tokens; ShortGPT
removes the nearest number of whole layers. Ours makes plain models of one width for all layers: of
the depths (in steps of two) at the share the one is cut whose quick cut (16 windows, refit) has the
lowest loss on calibration windows apart. Every row that ends is kept in OUT and not made again; the
end writes after-cut.json and after-cut.svg. `ratio` is the best rule of others over the best of
ours, in perplexity, at the share where it is least: above 1, ours is lowest everywhere.
"""

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cut_rules
import torch
import torch.nn.functional as F
from torch import Tensor

from tinylm.artifact import read_json, write_json
from tinylm.corpus.pack import find_start
from tinylm.corpus.read import documents
from tinylm.corpus.split import spread
from tinylm.evaluate.bits_per_byte import bits_per_byte
from tinylm.inherit.calibration import spread_order
from tinylm.inherit.inheritance import inherit
from tinylm.inherit.score import score
from tinylm.inherit.scores import Scores
from tinylm.machine import cpu_name
from tinylm.models.shape import Shape
from tinylm.models.teacher import load_model, load_tokenizer
from tinylm.render.figures import PALETTE, figure, to_svg

LENGTH = 512
QUICK, APART = 16, 8  # calibration windows that a shape is tried on, and that judge it
OURS = {
    "tinylm, defaults": ("taylor", ("norms", "refit")),
    "tinylm, obs": ("obs", ("norms", "refit")),
    "tinylm, obs, refit-all": ("obs", ("norms", "refit-all")),
}
PEERS: dict[str, Callable[..., tuple[Any, float]]] = {
    "MoDeGPT": cut_rules.modegpt,
    "FLAP": cut_rules.flap,
    "SliceGPT": cut_rules.slicegpt,
    "ShortGPT": cut_rules.shortgpt,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", default="smollm2-135m")
    parser.add_argument("--wikitext", type=Path, required=True)
    parser.add_argument("--text", default="embedded", help="what bits per byte are of")
    parser.add_argument("--text-bytes", type=int, default=60_000)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.2, 0.3, 0.4, 0.5])
    parser.add_argument("--chunks", type=int, default=160)
    parser.add_argument("--windows", type=int, default=200, help="of the test part, spread over it")
    parser.add_argument("--only", nargs="*", help="rules by name")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    work = Work(options)
    for share in options.shares:
        for name in (*OURS, *PEERS):
            if not options.only or name in options.only:
                work.row(name, share)
    summarise(options, work.dense())


def kept_in(out: Path, name: str) -> Path:
    return out / f"{name.replace(' ', '-').replace(',', '')}.json"


class Work:
    """A teacher, its calibration and its test text."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.out = options.out
        self.teacher = load_model(options.teacher, torch.bfloat16).eval()
        self.tokenizer = load_tokenizer(options.teacher)
        every = self._windows(options.wikitext / "wiki.validation.raw")
        self.chunks = every[: options.chunks]
        self.apart = every[options.chunks :][:APART]
        self.test = self._windows(options.wikitext / "wiki.test.raw")[: options.windows]
        self.texts = list(spread(documents([options.text]), options.text_bytes))
        self.shape = Shape.from_config(self.teacher.config)
        self.scores: dict[str, Scores] = {}

    def _windows(self, path: Path) -> Tensor:
        ids = self.tokenizer(path.read_text("utf-8"), add_special_tokens=False)["input_ids"]
        start = find_start(self.tokenizer)
        whole = torch.tensor(ids[: len(ids) // LENGTH * LENGTH]).view(-1, LENGTH)
        if start is not None:  # Gemma's text begins with it
            whole[:, 0] = start
        return whole[torch.from_numpy(spread_order(len(whole)))]

    def dense(self) -> dict[str, float]:
        return self._kept("teacher", lambda: self.measured(self.teacher, 0.0))

    def row(self, name: str, share: float) -> None:
        """One rule at one share, unless OUT has it."""
        found = self._kept(f"{name} {share:.2f}", lambda: self._cut(name, share))
        ratio = found.get("perplexity", math.nan) / self.dense()["perplexity"]
        print(f"{share:.0%} {name:28} {ratio:8.3f} {json.dumps(found)}", flush=True)

    def _kept(self, name: str, make: Callable[[], dict]) -> dict:
        path = kept_in(self.out, name)
        if not path.exists():
            write_json(path, {"rule": name, "processor": cpu_name(), **make()})
        return read_json(path)

    def _cut(self, name: str, share: float) -> dict[str, Any]:
        started = time.perf_counter()
        if name in PEERS:
            try:
                model, removed = PEERS[name](self.teacher, self.chunks, share)
            except cut_rules.NotApplicableError as error:
                return {"not_applicable": str(error)}
            extra = {}
        else:
            criterion, repair = OURS[name]
            target = self._best_shape(share)
            scores = self._scored(criterion)
            model = inherit(self.teacher, target, self.chunks, scores=scores, repair=repair).model
            removed = 1 - cut_rules.count(target) / cut_rules.count(self.shape)
            extra = {"layers": target.num_layers, "ffn": target.intermediate_size}
        seconds = time.perf_counter() - started
        return {**self.measured(model, removed), **extra, "seconds": round(seconds)}

    def _scored(self, criterion: str) -> Scores:
        if criterion not in self.scores:
            self.scores[criterion] = score(self.teacher, self.chunks, criterion, "skip-loss")
        return self.scores[criterion]

    def _best_shape(self, share: float) -> Shape:
        """Of the depths at the share the one with the lowest loss of a quick cut."""
        targets = shapes_at(self.shape, share)
        found = self._kept(f"shapes {share:.2f}", lambda: self._tried(targets))
        return min(targets, key=lambda target: found[f"{target.num_layers} layers"])

    def _tried(self, targets: list[Shape]) -> dict[str, float]:
        """Nats per token of a quick cut to each shape."""
        tried = {}
        for target in targets:
            made = inherit(
                self.teacher,
                target,
                self.chunks[:QUICK],
                scores=self._scored("obs"),
                repair=("refit",),
            )
            name = f"{target.num_layers} layers"
            tried[name] = math.log(self.perplexity(made.model, self.apart))
            print(f"  {name}, FFN {target.intermediate_size}: {tried[name]:.4f}", flush=True)
        return tried

    def measured(self, model: Any, removed: float) -> dict[str, float]:
        bits = bits_per_byte(model, self.tokenizer, iter(self.texts), context=LENGTH)
        return {
            "removed": round(removed, 4),
            "perplexity": self.perplexity(model, self.test),
            "bits_per_byte": bits["bits_per_byte"],
        }

    @torch.no_grad()
    def perplexity(self, model: Any, windows: Tensor) -> float:
        total = 0.0
        for batch in windows.split(4):
            logits = model(input_ids=batch, use_cache=False).logits[:, :-1].float()
            total += float(F.cross_entropy(logits.mT, batch[:, 1:], reduction="sum"))
        return math.exp(total / windows[:, 1:].numel())


def shapes_at(teacher: Shape, share: float) -> list[Shape]:
    """Depths in steps of two whose FFN width, in steps of 16, leaves 1 - ``share`` of the
    parameters; an FFN of less than a quarter of the teacher's is not tried."""
    found = []
    for layers in range(teacher.num_layers, 0, -2):
        shapes = (
            dataclasses.replace(teacher, num_layers=layers, intermediate_size=width)
            for width in range(teacher.intermediate_size, teacher.intermediate_size // 4, -16)
        )
        goal = (1 - share) * cut_rules.count(teacher)
        target = next((shape for shape in shapes if cut_rules.count(shape) <= goal), None)
        # what the widest FFN at this depth leaves far below the goal wastes parameters
        if target is not None and cut_rules.count(target) > 0.98 * goal:
            found.append(target)
    return found


def summarise(options: argparse.Namespace, dense: dict[str, float]) -> None:
    table: dict[str, dict[str, Any]] = {}
    for name in (*OURS, *PEERS):
        for share in options.shares:
            path = kept_in(options.out, f"{name} {share:.2f}")
            if path.exists() and "perplexity" in (row := read_json(path)):
                ratio = row["perplexity"] / dense["perplexity"]
                table.setdefault(name, {})[f"{share:.2f}"] = {**row, "ratio": ratio}
    best = []
    for share in (f"{share:.2f}" for share in options.shares):
        ours = [table[name][share]["ratio"] for name in OURS if share in table.get(name, {})]
        others = [table[name][share]["ratio"] for name in PEERS if share in table.get(name, {})]
        if ours and others:
            best.append(min(others) / min(ours))
    result = {"ratio": min(best, default=None), "teacher": dense, "table": table}
    result["settings"] = {
        key: value for key, value in vars(options).items() if key not in ("out", "only", "wikitext")
    }
    write_json(options.out / "after-cut.json", result)
    (options.out / "after-cut.svg").write_text(draw(table, dense))
    print(json.dumps({"ratio": result["ratio"]}))


def draw(table: dict[str, dict[str, Any]], dense: dict[str, float]) -> str:
    with figure(8.0, 3.6, columns=2) as (fig, (left, right)):
        for place, (name, rows) in enumerate(table.items()):
            removed = [0.0, *(row["removed"] for row in rows.values())]
            ratios = [1.0, *(row["ratio"] for row in rows.values())]
            bits = [dense["bits_per_byte"], *(row["bits_per_byte"] for row in rows.values())]
            style = {
                "color": PALETTE[place % len(PALETTE)],
                "marker": "o",
                "linestyle": "-" if name in OURS else "--",
            }
            left.plot(removed, ratios, label=name, **style)
            right.plot(removed, bits, **style)
        left.set(
            yscale="log",
            xlabel="share removed",
            ylabel="WikiText-2 perplexity, times the teacher's",
        )
        right.set(xlabel="share removed", ylabel="bits per byte of other text")
        left.legend(fontsize=8)
        return to_svg(fig)


if __name__ == "__main__":
    main()
