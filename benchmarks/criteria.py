"""Every criterion right after the cut, under equal layers, and the two kinds of learned masks: one
teacher, one target.

    python benchmarks/criteria.py --teacher DIR --calibration A... --text B... --layers 20 --ffn
    1024 --out DIR

Writes criteria.json, importance.svg (layers) and masks.svg (what the masks decide, step by step);
prints a table. Seeds change the calibration chunks, the random scores and the masks' samples.
Layers are chosen once a seed by the loss when each is skipped. Every row is cut twice: as it is,
and repaired (norms, refit).
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path

import torch

from tinylm.artifact import write_json
from tinylm.corpus.read import documents
from tinylm.corpus.split import spread
from tinylm.evaluate.bits_per_byte import bits_per_byte
from tinylm.inherit.calibration import calibration_chunks
from tinylm.inherit.inheritance import inherit
from tinylm.inherit.masks import MaskTraining, learn
from tinylm.inherit.score import score
from tinylm.inherit.select import best
from tinylm.inherit.units import fast_matmul
from tinylm.models.shape import Shape
from tinylm.models.teacher import load_model, load_tokenizer
from tinylm.render.figures import PALETTE, figure, to_svg

STATIC = ("random", "l1", "l2", "activation", "taylor")
KINDS = ("hard-concrete", "top-k")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--calibration", nargs="+", required=True)
    parser.add_argument("--text", nargs="+", required=True, help="held-out documents")
    parser.add_argument("--text-bytes", type=int, default=60_000)
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--ffn", type=int, required=True)
    parser.add_argument("--chunks", type=int, default=48)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    teacher, tokenizer = (
        load_model(options.teacher, torch.bfloat16),
        load_tokenizer(options.teacher),
    )
    text = list(spread(documents(options.text), options.text_bytes))
    whole = Shape.from_config(teacher.config)
    target = dataclasses.replace(whole, num_layers=options.layers, intermediate_size=options.ffn)
    pool = calibration_chunks(options.calibration, tokenizer, 4 * options.chunks, options.length)
    rows: dict[str, dict[str, list[float]]] = {}
    histories, importance = {}, []

    def bits(model) -> float:
        return bits_per_byte(model, tokenizer, iter(text))["bits_per_byte"]

    teacher_bits = bits(teacher)
    for seed in options.seeds:
        order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
        chunks = pool[order[: options.chunks]]
        skip = score(teacher, chunks, "random", "skip-loss", target=target, seed=seed)
        importance.append(skip.layers.tolist())
        layers = best(skip.layers, target.num_layers).tolist()
        for name in (*STATIC, *KINDS):
            start = time.perf_counter()
            if name in KINDS:
                taylor = score(teacher, chunks, "taylor", "first-last", seed=seed)
                with fast_matmul(teacher):
                    found = learn(
                        teacher,
                        chunks,
                        target,
                        MaskTraining(name, seed=seed),
                        start={"ffn": taylor.ffn},
                        layers=layers,
                    )
                scores = dataclasses.replace(skip, ffn=found.scores["ffn"])
                histories[f"{name}, seed {seed}"] = found.history
            else:
                scores = score(teacher, chunks, name, "first-last", target=target, seed=seed)
                scores = dataclasses.replace(scores, layers=skip.layers)
            seconds = time.perf_counter() - start
            row = rows.setdefault(name, {"cut": [], "repaired": [], "score_seconds": []})
            row["score_seconds"].append(seconds)
            for column, repair in (("cut", ()), ("repaired", ("norms", "refit"))):
                row[column].append(
                    bits(inherit(teacher, target, chunks, scores=scores, repair=repair).model)
                )
            print(
                f"seed {seed}, {name}: {row['cut'][-1]:.4f} {row['repaired'][-1]:.4f}",
                file=sys.stderr,
                flush=True,
            )
            write_json(
                options.out / "criteria.json",
                {
                    "teacher_bits_per_byte": teacher_bits,
                    "target": target.to_dict(),
                    "kept_layers_last_seed": layers,
                    "importance": importance,
                    "bits_per_byte": rows,
                    "mask_histories": histories,
                },
            )
    (options.out / "importance.svg").write_text(draw_importance(importance, layers))
    (options.out / "masks.svg").write_text(
        draw_masks(histories, options.ffn / whole.intermediate_size)
    )
    means = {
        name: {key: statistics.mean(values) for key, values in row.items()}
        for name, row in rows.items()
    }
    for name, mean in means.items():
        spread_of = statistics.stdev(rows[name]["repaired"]) if len(options.seeds) > 1 else 0.0
        print(
            f"{name:14} {mean['cut']:.4f} {mean['repaired']:.4f} +- {spread_of:.4f}",
            file=sys.stderr,
        )
    print(
        json.dumps(
            {
                "ratio": means["l2"]["repaired"] / min(r["repaired"] for r in means.values()),
                "table": means,
            }
        )
    )


def draw_importance(importance: list[list[float]], kept: list[int]) -> str:
    """Loss when a layer is skipped, mean and range over seeds; the kept ones in colour."""
    values = torch.tensor(importance)
    mean = values.mean(0)
    with figure(6.4, 3.0) as (fig, ax):
        colours = [PALETTE[0] if layer in kept else "#c9ced6" for layer in range(len(mean))]
        reach = torch.stack([mean - values.amin(0), values.amax(0) - mean])
        ax.bar(
            range(len(mean)), mean, color=colours, yerr=reach.numpy(), error_kw={"elinewidth": 1}
        )
        ax.bar(0, 0, color=PALETTE[0], label="kept")
        ax.bar(0, 0, color="#c9ced6", label="left out")
        ax.set_yscale("symlog", linthresh=0.1)
        ax.set_xlabel("layer of the teacher")
        ax.set_ylabel("loss when it is skipped,\nnats above the teacher's")
        ax.legend()
        return to_svg(fig)


def draw_masks(histories: dict[str, list[dict]], share: float) -> str:
    """Left: loss of the masked teacher; right: units open and units still undecided, over the
    steps."""
    with figure(8.0, 3.2, columns=2) as (fig, (left, right)):
        for place, kind in enumerate(KINDS):
            for label, history in histories.items():
                if not label.startswith(kind):
                    continue
                names = (
                    [kind, f"{kind}: open", f"{kind}: undecided"]
                    if label.endswith(" 0")
                    else [None] * 3
                )
                series = [[row[key] for row in history] for key in ("loss", "ffn", "ffn_undecided")]
                for ax, values, style, text in zip(
                    (left, right, right), series, ("-", "-", "--"), names, strict=True
                ):
                    ax.plot(values, style, color=PALETTE[place], alpha=0.7, label=text)
        right.axhline(share, color="#8A8F98", linestyle=":", label="target")
        left.set(xlabel="step", ylabel="loss of the masked teacher, nats")
        right.set(xlabel="step", ylabel="share of FFN units", ylim=(0, 1.05))
        left.legend()
        right.legend(fontsize=8)
        return to_svg(fig)


if __name__ == "__main__":
    main()
