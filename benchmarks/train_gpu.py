"""Training speed on one GPU: tinylm against Hugging Face Trainer (with Liger kernels where
installed), random weights.

For 50M, 300M and 1B parameters: tokens/s and MFU against the data sheet's dense bfloat16 peak (H100
and H200: 989 TFLOP/s) and the loss on held-out data, each contender in a fresh process with the
same model and the same batches in the same order.
`--sizes tiny` goes the same way on any machine.

    python benchmarks/train_gpu.py [--sizes 50M 300M 1B] [--steps 30]     needs `accelerate`;
    `liger-kernel` if present
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from tinylm.corpus.store import open_store
from tinylm.machine import choose_device, peak_flops, peak_memory
from tinylm.models.cost import training_flops_of_model
from tinylm.train.config import TrainConfig

sys.path.insert(0, str(Path(__file__).parent))
from train_cpu import held_out_loss, run_tinylm, run_trainer, write_data

# layers, hidden, FFN, heads, kv heads, sequences a batch
SIZES = {
    "50M": (12, 512, 1408, 8, 4, 32),
    "300M": (24, 960, 2560, 15, 5, 16),
    "1B": (20, 1792, 5120, 14, 14, 8),
    "tiny": (2, 64, 128, 2, 1, 2),
}
TINY = "tiny" in sys.argv  # a rehearsal: on one slow core the real vocabulary takes two minutes
VOCABULARY, LENGTH = (2048, 256) if TINY else (16384, 2048)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes",
        nargs="*",
        choices=list(SIZES),
        default=[size for size in SIZES if size != "tiny"],
    )
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = choose_device()
    device_name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    if device.type == "cpu" and arguments.sizes != ["tiny"]:
        sys.exit("train_gpu.py needs a CUDA device; benchmarks/train_cpu.py is for CPUs")
    if arguments.worker:
        name, size, folder = arguments.worker
        return work(name, size, Path(folder), arguments.steps, device)
    rows: dict[str, dict] = {}
    contenders = ["tinylm"] + ["trainer"] * bool(importlib.util.find_spec("accelerate"))
    with tempfile.TemporaryDirectory() as folder:
        tokens = 100_000 if TINY else 4_000_000
        write_data(Path(folder) / "train", tokens, seed=1, vocabulary=VOCABULARY)
        write_data(Path(folder) / "valid", 40_000, seed=2, vocabulary=VOCABULARY)
        for size in arguments.sizes:
            for name in contenders:
                command = [
                    sys.executable,
                    __file__,
                    "--sizes",
                    size,
                    "--steps",
                    str(arguments.steps),
                ]
                command += ["--worker", name, size, folder]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
                if done.returncode:  # out of memory, say: the other rows still count
                    print(f"{size} {name}: failed, see above", file=sys.stderr)
                    continue
                rows[f"{size} {name}"] = row = json.loads(done.stdout.splitlines()[-1])
                print(
                    f"{size} {name}: {row['tokens_per_second']:.0f} tokens/s, MFU {row['mfu']:.1%}",
                    file=sys.stderr,
                )
                print(json.dumps({"ratio": None, "device": device_name, "rows": rows}), flush=True)
    failed = len(rows) < len(arguments.sizes) * len(contenders)
    ratios = {
        size: (
            rows[f"{size} tinylm"]["tokens_per_second"]
            / rows[f"{size} trainer"]["tokens_per_second"]
        )
        for size in arguments.sizes
        if {f"{size} trainer", f"{size} tinylm"} <= rows.keys()
    }
    ratio = min(ratios.values()) if ratios else None
    print(json.dumps({"ratio": ratio, "ratios": ratios, "device": device_name, "rows": rows}))
    sys.exit(failed)


def work(name: str, size: str, folder: Path, steps: int, device: torch.device) -> None:
    model, batch = make_model(size)
    config = TrainConfig(
        sequence_length=LENGTH,
        batch_size=batch,
        steps=steps,
        checkpoint_every=0,
        loss_chunk=4096,
        base_lr=1e-3,
        warmup_steps=0,
        rounds=1,
        never_worse=False,  # the contenders do not look at held-out text either
    )
    store, flops, model = (
        open_store(folder / "train"),
        training_flops_of_model(model, LENGTH),
        model.to(device),
    )
    liger = importlib.util.find_spec("liger_kernel") is not None
    fast = {
        "bf16": True,
        "torch_compile": device.type == "cuda",  # half a minute of C++ in a rehearsal
        "use_liger_kernel": liger,
        "use_cpu": device.type == "cpu",
    }
    with tempfile.TemporaryDirectory() as out:
        if name == "tinylm":
            ends = run_tinylm(model, store, config, Path(out))
        else:
            ends = run_trainer(model, store, config, Path(out), **fast)
    speed = config.tokens_per_batch / float(np.median(np.diff(ends)[2:]))
    row = {
        "tokens_per_second": speed,
        "mfu": speed * flops / peak_flops(device, torch.bfloat16),
        "memory_gb": peak_memory(device) / 1e9,
        "loss": held_out_loss(model, open_store(folder / "valid"), LENGTH),
    }
    print(json.dumps(row))


def make_model(size: str):
    from transformers import LlamaConfig, LlamaForCausalLM

    layers, hidden, inner, heads, kv_heads, batch = SIZES[size]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config), batch


if __name__ == "__main__":
    main()
