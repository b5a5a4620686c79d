"""Depth at equal parameters on a GPU, where shape can say something: 2.5M parameters, vocabulary
4,096, 50M tokens (20 a parameter), random weights with GPT-2's deviations.

Four shapes at three learning rates with seed 0, then two more seeds of each shape at its own best
rate: 20 runs of 763 batches of 256 x 256, many at once, each in a process of its own (they are
bound by kernel launches, so one GPU serves many). `--store` holds packed text: train/ and valid/,
made by `tinylm corpus pack` with a vocabulary of 4,096. Every run that ends is a line of
OUT/depth-rows.jsonl. `ratio` is the mean loss of the shallowest shape over that of the deepest.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from transformers import LlamaConfig

from tinylm.corpus.store import open_store
from tinylm.models.initialise import random_model
from tinylm.train.config import TrainConfig
from tinylm.train.loop import train

# layers, hidden, FFN: 2.5M parameters with a tied vocabulary of 4,096, heads of 32
SHAPES = [(4, 192, 488), (8, 128, 472), (16, 96, 328), (24, 96, 176)]
RATES = [2e-3, 4e-3, 8e-3]  # base_lr at the batch of 65,536 tokens
SEEDS = [1, 2]  # of each shape at its own best rate, beside seed 0
FULL = TrainConfig(
    sequence_length=256,
    batch_size=256,
    steps=763,
    base_batch_tokens=65_536,
    checkpoint_every=0,
    loss_chunk=16384,
    never_worse=False,
    rounds=1,
)
TINY = TrainConfig(
    sequence_length=32, batch_size=4, steps=4, checkpoint_every=0, compile=False, rounds=1
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", choices=["full", "tiny"], default="full")
    parser.add_argument("--store", default="")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--run", nargs=5, help=argparse.SUPPRESS)  # layers hidden FFN rate seed
    options = parser.parse_args()
    tiny = options.sizes == "tiny"
    if options.run:
        *shape, rate, seed = options.run
        config = TINY if tiny else FULL
        config = replace(config, base_lr=float(rate), seed=int(seed))
        return one_run([int(size) for size in shape], config, Path(options.store))
    shapes = [(2, 64, 128), (4, 64, 64)] if tiny else SHAPES
    rates = RATES[:2] if tiny else RATES
    with tempfile.TemporaryDirectory() as folder:
        source = Path(options.store or folder)
        if not options.store:
            made_up_text(source, 5_000 if tiny else 50_000_000)

        def run_all(runs: list[tuple[Any, ...]]) -> list[dict]:
            with ThreadPoolExecutor(1 if tiny else options.processes) as pool:
                done = pool.map(lambda run: start(run, source, options), runs)
                return [row for row in done if row]

        rows = run_all([(*shape, rate, 0) for shape in shapes for rate in rates])
        ranked = sorted(rows, key=lambda row: row["valid_loss"], reverse=True)
        best = {
            row["layers"]: row["base_lr"] for row in ranked
        }  # the lowest loss has the last word
        rows += run_all([(*shape, best[shape[0]], seed) for shape in shapes for seed in SEEDS])
    losses = {
        layers: [r["valid_loss"] for r in rows if (r["layers"], r["base_lr"]) == (layers, rate)]
        for layers, rate in best.items()
    }
    first, last = shapes[0][0], shapes[-1][0]
    ratio = mean(losses[first]) / mean(losses[last])
    report = {"ratio": ratio, "peer": f"{last} layers", "losses": losses, "rows": rows}
    print(json.dumps(report))


def start(run: tuple[Any, ...], source: Path, options: argparse.Namespace) -> dict | None:
    """One run in a fresh process; its row, also written to OUT."""
    command = [sys.executable, __file__, "--sizes", options.sizes, "--store", str(source), "--run"]
    done = subprocess.run(
        command + [str(word) for word in run],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1"},
    )
    if done.returncode:
        print(f"{run}: failed, see above", file=sys.stderr)
        return None
    line = done.stdout.splitlines()[-1]
    with open(options.out / "depth-rows.jsonl", "a") as file:
        file.write(line + "\n")
    return json.loads(line)


def one_run(shape: list[int], config: TrainConfig, source: Path) -> None:
    layers, hidden, inner = shape
    begin = time.perf_counter()
    model = make_model(layers, hidden, inner, config.seed)
    with tempfile.TemporaryDirectory() as out:
        result = train(
            model,
            open_store(source / "train"),
            config,
            Path(out),
            valid_store=open_store(source / "valid"),
        )
    row = {
        "layers": layers,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "parameters": model.num_parameters(),
        "base_lr": config.base_lr,
        "seed": config.seed,
        "seconds": time.perf_counter() - begin,
        **result,
    }
    print(json.dumps(row))


def make_model(layers: int, hidden: int, inner: int, seed: int):
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        head_dim=32,
        tie_word_embeddings=True,
        max_position_embeddings=512,
    )
    return random_model(config, seed=seed, scheme="gpt2")


def made_up_text(folder: Path, tokens: int) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from train_cpu import write_data

    write_data(folder / "train", tokens, seed=1, vocabulary=4096)
    write_data(folder / "valid", max(2_000, tokens // 100), seed=2, vocabulary=4096)


if __name__ == "__main__":
    main()
