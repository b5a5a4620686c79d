"""Is a published student ever worse than what was inherited, and how good is the measured rate?

    python benchmarks/never_worse.py --run runs/demo --out runs/never-worse [--grid] [--only 0 3]

Three teachers, all with the vocabulary and the text of a finished run: its compact teacher (Llama,
tied), and two that are made here from random weights (Qwen 3, output matrix apart, width 256; OLMo
2, tied, width 320). From each, students of two sizes, trained 30, 180 and 720 steps of 4 x 256
tokens at TrainConfig's defaults: 18 cases. `--grid` also trains every case of 30 and 180 steps at
six fixed rates. All losses are nats per token of the same held-out text (the text that guards the
run, and what of the rest fits 2^20 tokens). Every case that ends is kept in OUT and not run again.
`ratio` is the worst case's loss after training over its loss after the cut: at most 1.
"""

import argparse
import copy
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tinylm.artifact import read_json, write_json
from tinylm.corpus.store import TokenStore, open_store
from tinylm.inherit.inheritance import inherit
from tinylm.machine import fast_dtype
from tinylm.models.initialise import random_model
from tinylm.models.shape import Shape
from tinylm.models.teacher import load_model
from tinylm.train.config import TrainConfig
from tinylm.train.loop import train

LENGTH, BATCH = 256, 4
STEPS = (30, 180, 720)
GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
CONFIG = TrainConfig(sequence_length=LENGTH, batch_size=BATCH, checkpoint_every=0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--grid", action="store_true")
    parser.add_argument("--teacher-steps", type=int, default=1500, help="of the made teachers")
    parser.add_argument("--only", type=int, nargs="*", help="teachers, 0 to 2")
    options = parser.parse_args()
    work = options.run / "work"
    (pack,) = work.glob("pack-*")
    store, valid = open_store(pack / "train"), open_store(pack / "valid")
    (compact,) = work.glob("compact-*")
    ids = torch.from_numpy(store.windows(range(0, store.num_sequences(512), 40), 511))
    rows = []
    for number, name in enumerate(("llama", "qwen3", "olmo2")):
        if options.only is not None and number not in options.only:
            continue
        source = compact / "model" if name == "llama" else made(name, store, options)
        teacher = load_model(source, fast_dtype(torch.device("cpu"))).eval()
        for size, shape in students(Shape.from_config(teacher.config)).items():
            cut = inherit(teacher, shape, ids[:120].clone()).model.float()
            for steps in STEPS:
                case = options.out / f"{name}-{size}-{steps}"
                row = one_case(cut, store, valid, steps, case, options.grid and steps < 720)
                rows.append({"case": case.name, "parameters": cut.num_parameters(), **row})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    write_json(options.out / "never-worse.json", rows)
    worst = max(row["published"] / row["cut"] for row in rows)
    print(json.dumps({"ratio": worst, "peer": "the cut, untrained", "rows": rows}))


def students(whole: Shape) -> dict[str, Shape]:
    """Half of the layers and units, and a quarter of them."""
    return {
        size: replace(
            whole,
            num_layers=max(2, whole.num_layers // parts),
            intermediate_size=whole.intermediate_size // parts // 8 * 8,
        )
        for size, parts in (("half", 2), ("quarter", 4))
    }


def made(name: str, store: TokenStore, options: argparse.Namespace) -> Path:
    """A teacher of this family, trained here from random weights; made once."""
    folder = options.out / f"teacher-{name}"
    if not (folder / "result.json").exists():
        model = random_model(config_of(name, store.vocab_size), seed=0, scheme="gpt2")
        settings = replace(
            CONFIG, batch_size=8, steps=options.teacher_steps, base_lr=2e-3, rounds=1
        )
        train(model, store, replace(settings, never_worse=False), folder)
    return folder / "model"


def config_of(name: str, rows: int) -> Any:
    from transformers import Olmo2Config, Qwen3Config

    shared: dict[str, Any] = {"vocab_size": rows, "head_dim": 64, "max_position_embeddings": 512}
    if name == "qwen3":
        return Qwen3Config(
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=8,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=False,
            **shared,
        )
    return Olmo2Config(
        hidden_size=320,
        intermediate_size=832,
        num_hidden_layers=10,
        num_attention_heads=5,
        num_key_value_heads=5,
        tie_word_embeddings=True,
        **shared,
    )


def one_case(
    cut: Any, store: TokenStore, valid: TokenStore, steps: int, folder: Path, grid: bool
) -> dict[str, Any]:
    """{"cut", "published", "base_lr", "grid": {rate: loss}} of one student and length."""
    kept = folder.with_suffix(".json")
    row = read_json(kept) if kept.exists() else {"grid": {}}
    if "cut" not in row:
        settings = replace(CONFIG, steps=1, base_lr=1e-12, never_worse=False)
        first = train(copy.deepcopy(cut), store, settings, folder / "cut", valid_store=valid)
        row["cut"] = first["valid_loss"]
    if "published" not in row:
        config = replace(CONFIG, steps=steps)
        result = train(copy.deepcopy(cut), store, config, folder / "auto", valid_store=valid)
        row |= {key: result.get(key) for key in ("base_lr", "learning_rate_trials", "seconds")}
        row["published"] = result["valid_loss"]
        write_json(kept, row)
    for rate in GRID if grid else ():
        if str(rate) not in row["grid"]:
            config = replace(CONFIG, steps=steps, base_lr=rate)
            out = folder / f"rate-{rate:g}"
            result = train(copy.deepcopy(cut), store, config, out, valid_store=valid)
            row["grid"][str(rate)] = result["valid_loss"]
            write_json(kept, row)
    return row


if __name__ == "__main__":
    main()
