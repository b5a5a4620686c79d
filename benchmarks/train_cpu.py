"""Training speed on this CPU: tinylm against Hugging Face Trainer and a hand-written loop, in one
run.

Same model (Llama, 31M parameters, vocabulary 16384, sequence 512), same first weights, same batches
in the same order, same optimiser settings and learning rates. Every contender runs alone in a fresh
process. Speed is that of the median step (compiling is outside of it, and reported); quality is the
loss on held-out data, computed for all by the same plain float32 model.

    python benchmarks/train_cpu.py [--steps 20] [--cpu-clock]

Trainer needs `accelerate` and Lightning `pytorch_lightning` (`pip install --no-deps
pytorch-lightning torchmetrics lightning-utilities` is enough); without them those rows are left
out. On a machine that others use too, `--cpu-clock` counts this process's own CPU seconds on one
thread instead of the time on the wall: "tokens/s" are then tokens a core-second.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # before torch looks: tinylm would take a GPU that its peers do not use
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import torch

from tinylm.corpus.store import TokenStore, open_store, write_header
from tinylm.machine import peak_flops, peak_memory
from tinylm.models.cost import training_flops_of_model
from tinylm.train.batches import Plan, make_plan
from tinylm.train.config import TrainConfig
from tinylm.train.schedule import learning_rate

VOCABULARY, LENGTH, BATCH = 16384, 512, 8
CONTENDERS = {
    "tinylm": "this engine at its defaults",
    "trainer": "transformers.Trainer at its defaults (float32)",
    "trainer bf16 compile": "transformers.Trainer, bf16=True, torch_compile=True",
    "lightning": "PyTorch Lightning's Trainer, bf16-mixed, whole model compiled",
    "plain loop": "hand-written: autocast bf16, whole model compiled, SDPA, fused AdamW",
}
NEEDS = {
    "trainer": "accelerate",
    "trainer bf16 compile": "accelerate",
    "lightning": "pytorch_lightning",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument(
        "--only", nargs="*", choices=list(CONTENDERS), help="contenders to run; default: all"
    )
    parser.add_argument(
        "--cpu-clock", action="store_true", help="CPU seconds of one thread, for a busy machine"
    )
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cpu_clock:
        torch.set_num_threads(1)
        time.perf_counter = time.process_time
    if arguments.worker:
        return work(arguments.worker[0], Path(arguments.worker[1]), arguments.steps)
    names = arguments.only or [
        n for n in CONTENDERS if n not in NEEDS or importlib.util.find_spec(NEEDS[n])
    ]
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder) / "train", 600_000, seed=1)
        write_data(Path(folder) / "valid", 40_000, seed=2)
        rows = {
            name: run_worker(name, Path(folder), arguments.steps, arguments.cpu_clock)
            for name in names
        }
    peak = peak_flops(torch.device("cpu"), torch.bfloat16)
    for row in rows.values():
        row["share_of_bf16_peak"] = row["tokens_per_second"] * row["flops_per_token"] / peak
    print(
        f"\n{'':22} tokens/s  first step s  total s  memory GB  held-out loss  of bf16 peak",
        file=sys.stderr,
    )
    for name, row in rows.items():
        print(
            f"{name:22} {row['tokens_per_second']:8.0f}  {row['first_step_seconds']:12.1f} "
            f" {row['seconds']:7.1f}  {row['memory_gb']:9.2f}  {row['loss']:13.4f} "
            f" {row['share_of_bf16_peak']:12.1%}",
            file=sys.stderr,
        )
    print(
        json.dumps(
            summary(rows)
            | {
                "steps": arguments.steps,
                "bf16_peak_tflops": peak / 1e12,
                "contenders": rows,
            }
        )
    )


def summary(rows: dict[str, dict]) -> dict:
    """Ratios of our speed over each peer's; ``ratio``: over Trainer's defaults where it ran, else
    the plain loop."""
    if "tinylm" not in rows:
        return {"ratio": None}
    ours = rows["tinylm"]
    ratios = {
        name: ours["tokens_per_second"] / row["tokens_per_second"]
        for name, row in rows.items()
        if name != "tinylm"
    }
    best = min((n for n in ratios if n != "trainer"), key=lambda n: ratios[n], default=None)
    return {
        "ratio": ratios.get("trainer", ratios.get("plain loop")),
        "ratios": ratios,
        "best_configured_peer": best,
        "ratio_best_configured_peer": ratios.get(best) if best else None,
        "loss_difference": {name: ours["loss"] - rows[name]["loss"] for name in ratios},
    }


def run_worker(name: str, folder: Path, steps: int, cpu_clock: bool) -> dict:
    print(f"{name}: {CONTENDERS[name]}", file=sys.stderr)
    command = [sys.executable, __file__, "--worker", name, str(folder), "--steps", str(steps)]
    command += ["--cpu-clock"] if cpu_clock else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def work(name: str, folder: Path, steps: int) -> None:
    config = TrainConfig(
        sequence_length=LENGTH,
        batch_size=BATCH,
        steps=steps,
        checkpoint_every=0,
        base_lr=1e-3,
        warmup_steps=0,
        rounds=1,
        never_worse=False,  # the contenders do not look at held-out text either
    )
    store = open_store(folder / "train")
    model = make_model()
    flops = training_flops_of_model(model, LENGTH)
    start = time.perf_counter()
    runners: dict[str, Callable[..., list[float]]] = {
        "tinylm": run_tinylm,
        "trainer": partial(run_trainer, use_cpu=True),
        "trainer bf16 compile": partial(run_trainer, use_cpu=True, bf16=True, torch_compile=True),
        "lightning": run_lightning,
        "plain loop": run_plain,
    }
    ends = runners[name](model, store, config, folder)
    seconds = time.perf_counter() - start
    durations = np.diff(ends)[1:]  # the first two steps compile
    row = {
        "tokens_per_second": config.tokens_per_batch / float(np.median(durations)),
        "first_step_seconds": ends[0] - start,
        "seconds": seconds,
        "memory_gb": peak_memory(torch.device("cpu")) / 1e9,
        "loss": held_out_loss(model, open_store(folder / "valid"), LENGTH),
        "flops_per_token": flops,
    }
    print(json.dumps(row))


def run_tinylm(model, store: TokenStore, config: TrainConfig, folder: Path) -> list[float]:
    from tinylm.train.loop import train

    start = now()
    train(model, store, config, folder / "run")
    lines = (folder / "run" / "metrics.jsonl").read_text("utf-8").splitlines()
    speeds = np.array([json.loads(line)["tokens_per_second"] for line in lines])
    return list(start + np.cumsum(config.tokens_per_batch / speeds))


def run_plain(model, store: TokenStore, config: TrainConfig, folder: Path) -> list[float]:
    plan, windows = in_order(store, config)
    ends = []
    optimizer, _ = optimizer_and_schedule(model, config, plan)
    forward = torch.compile(model)
    for step, ids in enumerate(windows.split(config.batch_size)):
        with torch.autocast("cpu", torch.bfloat16):
            logits = forward(input_ids=ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, plan, step)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        ends.append(now())
    return ends


def run_lightning(model, store: TokenStore, config: TrainConfig, folder: Path) -> list[float]:
    import pytorch_lightning as lightning

    plan, windows = in_order(store, config)
    ends = []
    optimizer, schedule = optimizer_and_schedule(model, config, plan)
    forward = torch.compile(model)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.inner = model

        def training_step(self, ids, _):
            logits = forward(input_ids=ids[:, :-1], use_cache=False).logits
            return torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), ids[:, 1:].flatten()
            )

        def configure_optimizers(self):
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

        def on_before_optimizer_step(self, _):  # its own clipping refuses a fused optimiser
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)

        def on_train_batch_end(self, *_):
            ends.append(now())

    trainer = lightning.Trainer(
        accelerator="cpu",
        precision="bf16-mixed",
        max_steps=config.steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    rows: Any = windows  # a tensor serves as a data set
    trainer.fit(Module(), torch.utils.data.DataLoader(rows, batch_size=config.batch_size))
    return ends


def run_trainer(
    model, store: TokenStore, config: TrainConfig, folder: Path, **settings
) -> list[float]:
    """transformers.Trainer with further TrainingArguments ``settings``."""
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainerCallback, TrainingArguments

    plan, windows = in_order(store, config)
    ends = []
    # labels are the inputs shifted by transformers itself: the last target of a window is not used,
    # 511 of 512 are
    rows = [{"input_ids": row, "labels": row} for row in windows[:, :-1]]

    class Sequential(Trainer):
        def _get_train_sampler(self, *_):
            return SequentialSampler(rows)

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            ends.append(now())

    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **settings,
    )
    optimizers = optimizer_and_schedule(model, config, plan)
    Sequential(
        model=model, args=arguments, train_dataset=rows, optimizers=optimizers, callbacks=[Clock()]
    ).train()
    return ends


def in_order(store: TokenStore, config: TrainConfig) -> tuple[Plan, torch.Tensor]:
    """The plan that tinylm follows and its batches, one after the other: int64[steps * batch_size,
    length + 1]."""
    plan = make_plan(config, store)
    order = np.concatenate(
        [plan.pool.reshape(-1)[plan.batch(0, step)] for step in range(config.steps)]
    )
    return plan, torch.from_numpy(store.windows(order, config.sequence_length))


def now() -> float:
    """Seconds, once the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def optimizer_and_schedule(model, config: TrainConfig, plan: Plan):
    """PyTorch's fused AdamW with tinylm's groups, and a schedule with tinylm's learning rates."""
    groups = [
        {
            "params": [w for w in model.parameters() if w.ndim > 1],
            "weight_decay": config.weight_decay,
        },
        {"params": [w for w in model.parameters() if w.ndim < 2], "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    optimizer = torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=betas, eps=config.epsilon, fused=True
    )
    share: Callable[[int], float] = lambda step: (  # noqa: E731
        learning_rate(config, plan, min(step, plan.total_steps - 1)) / config.learning_rate
    )
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def make_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=384,
            intermediate_size=1024,
            num_hidden_layers=16,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=64,
            max_position_embeddings=LENGTH,
            tie_word_embeddings=True,
        )
    )


def write_data(path: Path, tokens: int, seed: int, vocabulary: int = VOCABULARY) -> None:
    """A store of made-up text: Zipf's law, and half of the tokens follow from the one before."""
    random = np.random.default_rng(seed)
    path.mkdir()
    follower = np.random.default_rng(0).zipf(1.2, vocabulary) % vocabulary
    text = random.zipf(1.2, tokens) % vocabulary
    for place in np.flatnonzero(random.random(tokens - 1) < 0.5):
        text[place + 1] = follower[text[place]]
    text.astype("<u2").tofile(path / "tokens.bin")
    np.save(path / "documents.npy", np.array([0, tokens]))
    header = {"vocab_size": vocabulary, "num_tokens": tokens, "num_documents": 1, "dtype": "<u2"}
    write_header(path, **header, separator=0, tokenizer_hash="", text_bytes=4 * tokens)


@torch.no_grad()
def held_out_loss(model, store: TokenStore, length: int) -> float:
    torch.set_float32_matmul_precision("highest")  # a peer may have asked for less
    # peers leave wrappers on the model they trained
    plain = type(model)(model.config).to(model.device).eval()
    plain.load_state_dict(model.state_dict())
    windows = torch.from_numpy(store.windows(range(8), length)).to(model.device)
    logits = plain(windows[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).item()


if __name__ == "__main__":
    main()
