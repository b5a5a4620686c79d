"""Training speed on one GPU: tinylm against Hugging Face Trainer (with Liger kernels where installed), random weights.

For 50M, 300M and 1B parameters: tokens/s and MFU against the data sheet's dense bfloat16 peak (H100 and H200: 989
TFLOP/s), each contender in a fresh process with the same model and batches. Not yet run: no GPU was at hand.

    python benchmarks/train_gpu.py [--sizes 50M 300M 1B] [--steps 30]     needs `accelerate`; `liger-kernel` if present
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from tinylm.corpus.store import TokenStore, open_store
from tinylm.errors import InputError
from tinylm.train.batches import make_plan
from tinylm.train.config import TrainConfig
from tinylm.train.device import peak_flops
from tinylm.train.loop import Run
from tinylm.train.metrics import flops_per_token

sys.path.insert(0, str(Path(__file__).parent))
from train_cpu import optimizer_and_schedule, write_data

VOCABULARY, LENGTH = 16384, 2048
# layers, hidden, FFN, heads, kv heads, sequences a batch
SIZES = {
    "50M": (12, 512, 1408, 8, 4, 32),
    "300M": (24, 960, 2560, 15, 5, 16),
    "1B": (20, 1792, 5120, 14, 14, 8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("train_gpu.py needs a CUDA device; benchmarks/train_cpu.py is for CPUs")
    if arguments.worker:
        return work(*arguments.worker, arguments.steps)
    rows: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder) / "train", 4_000_000, seed=1)
        for size in arguments.sizes:
            for name in ["tinylm"] + ["trainer"] * bool(importlib.util.find_spec("accelerate")):
                command = [sys.executable, __file__, "--worker", name, size, folder, "--steps", str(arguments.steps)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
                if done.returncode:  # out of memory, say: the other rows still count
                    print(f"{size} {name}: failed, see above", file=sys.stderr)
                    continue
                rows[f"{size} {name}"] = row = json.loads(done.stdout.splitlines()[-1])
                print(f"{size} {name}: {row['tokens_per_second']:.0f} tokens/s, MFU {row['mfu']:.1%}", file=sys.stderr)
    ratios = {
        size: rows[f"{size} tinylm"]["tokens_per_second"] / rows[f"{size} trainer"]["tokens_per_second"]
        for size in arguments.sizes
        if {f"{size} trainer", f"{size} tinylm"} <= rows.keys()
    }
    ratio = min(ratios.values()) if ratios else None
    print(json.dumps({"ratio": ratio, "ratios": ratios, "device": torch.cuda.get_device_name(), "rows": rows}))


def work(name: str, size: str, folder: str, steps: int) -> None:
    model, batch = make_model(size)
    config = TrainConfig(sequence_length=LENGTH, batch_size=batch, steps=steps, checkpoint_every=0, loss_chunk=4096)
    store = open_store(Path(folder) / "train")
    flops = flops_per_token(model, LENGTH)
    if name == "tinylm":
        ends = run_tinylm(Run(model, store, config, Path(folder) / f"{size}-{name}"))
    else:
        ends = run_trainer(model, store, config, Path(folder))
    speed = config.tokens_per_batch / float(np.median(np.diff(ends)[2:]))
    peak = peak_flops(torch.device("cuda"), torch.bfloat16)
    memory = torch.cuda.max_memory_allocated() / 1e9
    print(json.dumps({"tokens_per_second": speed, "mfu": speed * flops / peak, "memory_gb": memory}))


def run_tinylm(run: Run) -> list[float]:
    run.resume()
    ends = []
    while run.step < run.plan.total_steps:
        run.train_step(*run.plan.locate(run.step))
        torch.cuda.synchronize()
        ends.append(time.perf_counter())
    return ends


def run_trainer(model, store: TokenStore, config: TrainConfig, folder: Path) -> list[float]:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    plan, ends = make_plan(config, store), []
    order = np.concatenate([plan.pool.reshape(-1)[plan.batch(0, step)] for step in range(config.steps)])
    rows = [{"input_ids": row, "labels": row} for row in torch.from_numpy(store.windows(order, LENGTH)[:, :-1])]

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            torch.cuda.synchronize()
            ends.append(time.perf_counter())

    settings = TrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        bf16=True,
        torch_compile=True,
        use_liger_kernel=importlib.util.find_spec("liger_kernel") is not None,
    )
    optimizers = optimizer_and_schedule(model.cuda(), config, plan)
    Trainer(model=model, args=settings, train_dataset=rows, optimizers=optimizers, callbacks=[Clock()]).train()
    return ends


def make_model(size: str):
    from transformers import LlamaConfig, LlamaForCausalLM

    layers, hidden, inner, heads, kv_heads, batch = SIZES[size]
    if hidden % heads:
        raise InputError(f"size {size}: hidden {hidden} does not divide into {heads} heads")
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
