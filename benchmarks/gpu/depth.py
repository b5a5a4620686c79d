"""Depth at equal parameters on a GPU: five shapes of 24M parameters from random weights (GPT-2's
deviations), each trained on the same 48M tokens, one seed.

Batch 128 x 512, 730 steps, base_lr 2e-3 at 65,536 tokens. `--store` holds packed text (train/ and
valid/, vocabulary 16,384, made by `tinylm corpus pack`); rows are kept in OUT/depth-rows.json as
they come, so that a time limit costs only the shapes that are left. `ratio` is the loss of the
shallowest over that of the deepest that ended.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from transformers import LlamaConfig

from tinylm.artifact import write_json
from tinylm.corpus.store import open_store
from tinylm.models.initialise import random_model
from tinylm.train.config import TrainConfig
from tinylm.train.loop import train

# layers, hidden, FFN: 24M parameters with a tied vocabulary of 16,384, heads of 64
SHAPES = [(16, 320, 800), (6, 448, 1472), (32, 256, 480), (10, 384, 1024), (24, 256, 736)]
FULL = TrainConfig(
    sequence_length=512,
    batch_size=128,
    micro_batch_size=64,
    steps=730,
    base_lr=2e-3,
    base_batch_tokens=65_536,
    checkpoint_every=0,
    loss_chunk=8192,
    never_worse=False,
)
TINY = TrainConfig(
    sequence_length=32, batch_size=4, steps=4, base_lr=2e-3, checkpoint_every=0, compile=False
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", choices=["full", "tiny"], default="full")
    parser.add_argument("--store", default="")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    options = parser.parse_args()
    tiny = options.sizes == "tiny"
    shapes, config = ([(2, 64, 128), (4, 64, 64)], TINY) if tiny else (SHAPES, FULL)
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(options.store or folder)
        if not options.store:
            made_up_text(source, 5_000 if tiny else 50_000_000)
        for layers, hidden, inner in shapes:
            start = time.perf_counter()
            model = make_model(layers, hidden, inner)
            result = train(
                model,
                open_store(source / "train"),
                config,
                Path(folder) / f"{layers}-layers",
                valid_store=open_store(source / "valid"),
            )
            rows.append(
                {
                    "layers": layers,
                    "hidden_size": hidden,
                    "intermediate_size": inner,
                    "parameters": model.num_parameters(),
                    "seconds": time.perf_counter() - start,
                    **result,
                }
            )
            write_json(options.out / "depth-rows.json", rows)
            print(rows[-1], flush=True)
    ends = sorted(rows, key=lambda row: row["layers"])
    ratio = ends[0]["valid_loss"] / ends[-1]["valid_loss"]
    print(json.dumps({"ratio": ratio, "peer": f"{ends[-1]['layers']} layers", "rows": rows}))


def make_model(layers: int, hidden: int, inner: int):
    heads = max(1, hidden // 64)
    config = LlamaConfig(
        vocab_size=16384,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=64,
        tie_word_embeddings=True,
        max_position_embeddings=512,
    )
    return random_model(config, seed=0, scheme="gpt2")


def made_up_text(folder: Path, tokens: int) -> None:
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from train_cpu import write_data

    write_data(folder / "train", tokens, seed=1)
    write_data(folder / "valid", max(2_000, tokens // 100), seed=2)


if __name__ == "__main__":
    main()
