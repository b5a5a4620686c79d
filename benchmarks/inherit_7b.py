"""A 7-8B teacher cut to 1B on a machine that cannot hold it: peak memory, seconds over the floor.

The teacher is made here: random weights of Llama-2-7B's or Qwen3-8B's shape, 13 to 16 GB of bf16 on
disk, one shard a layer. Units are scored by Taylor, layers by similarity; norms and a refit repair.

    python benchmarks/inherit_7b.py --work FOLDER [--model qwen3-8b] [--chunks 160]
        [--device cuda] [--stream auto]

The floor is counted: FLOPs of each part (`tinylm.inherit.bill`) over the rate of a matrix product
(measured here; of a known GPU its data sheet's), plus the bytes read over the disk's rate, measured
on a shard that is not in memory. The last line is JSON; ``ratio`` is seconds over the floor.
"""

import argparse
import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tinylm.inherit import bill
from tinylm.inherit.options import Streaming
from tinylm.machine import choose_device, fast_dtype, machine, peak_flops, peak_memory
from tinylm.models.initialise import hollow_model
from tinylm.models.shape import Shape

LLAMA = Shape(32, 4096, 11008, 32, 32, 128, 32000, False)
QWEN3 = Shape(36, 4096, 12288, 32, 8, 128, 151936, False)
# the paper's 1B Pro; Qwen3's heads come in groups of four
MODELS = {
    "llama-7b": (LLAMA, Shape(20, 1792, 5312, 14, 14, 128, 32000, False)),
    "qwen3-8b": (QWEN3, Shape(20, 1792, 5312, 16, 4, 128, 151936, False)),
    "tiny": (Shape(4, 64, 128, 4, 4, 16, 512, False), Shape(2, 48, 96, 2, 2, 16, 512, False)),
}
# times each layer is read. Streamed: Taylor there and back, similarity, norms, refit, the cut
READS = {True: 6, False: 1}


def config_of(name: str) -> Any:
    from transformers import LlamaConfig, Qwen3Config

    made: Any = Qwen3Config() if name.startswith("qwen3") else LlamaConfig()
    config = MODELS[name][0].to_config(made)
    config.dtype = torch.bfloat16
    return config


def make_teacher(name: str, folder: Path, device: torch.device) -> None:
    """Random weights drawn on ``device``, one shard a layer, never more than one in memory."""
    config, generator = config_of(name), torch.Generator(device).manual_seed(0)
    sizes = {key: p.shape for key, p in hollow_model(config, torch.bfloat16).named_parameters()}
    by_shard: dict[str, list[str]] = {}
    for key in sizes:
        part = key.split(".")[2] if key.startswith("model.layers.") else "outside"
        by_shard.setdefault(f"model-{part}.safetensors", []).append(key)
    folder.mkdir(parents=True, exist_ok=True)
    for file, keys in by_shard.items():
        tensors = {}
        for key in keys:
            if len(sizes[key]) == 1:
                tensors[key] = torch.ones(sizes[key], dtype=torch.bfloat16)
                continue
            drawn = torch.empty(sizes[key], dtype=torch.bfloat16, device=device)
            tensors[key] = drawn.normal_(0, 0.02, generator=generator).cpu()
        save_file(tensors, folder / file, metadata={"format": "pt"})
    index = {key: file for file, keys in by_shard.items() for key in keys}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )
    config.architectures = [f"{type(config).__name__.removesuffix('Config')}ForCausalLM"]
    config.save_pretrained(folder)


def work(folder: Path, job: bill.Job, stream: Streaming) -> dict[str, Any]:
    """The whole inheritance, in this process: seconds by part and peak bytes."""
    from tinylm.inherit.run import inherit_folder

    shape, generator = (job.chunks, job.length), torch.Generator().manual_seed(0)
    ids = torch.randint(job.teacher.vocab_size, shape, generator=generator)
    start = time.perf_counter()
    done = inherit_folder(folder, job, ids, stream)
    opened = time.perf_counter() - start - sum(done.seconds.values())
    return {
        "seconds": {"open": opened, **done.seconds},
        "peak": peak_memory(job.device),
        "parameters": done.model.num_parameters(),
    }


def job_of(name: str, device: torch.device, chunks: int, length: int) -> bill.Job:
    teacher, target = MODELS[name]
    dtype, repair = fast_dtype(device), ("norms", "refit")
    return bill.Job(teacher, target, dtype, device, chunks, length, "taylor", "similarity", repair)


def disk_rate(file: Path) -> float:
    """Bytes a second of a file that is read from the disk, not from memory."""
    with open(file, "rb", buffering=0) as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start, size = time.perf_counter(), 0
        while block := stream.read(2**24):
            size += len(block)
        return size / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="13 to 16 GB are written here")
    parser.add_argument("--model", choices=MODELS, default="llama-7b")
    parser.add_argument("--chunks", type=int, default=32)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--stream", choices=["always", "auto", "never"], default="always")
    options = parser.parse_args()
    folder, device = options.work / options.model, choose_device(options.device)
    if not (folder / "config.json").exists():
        make_teacher(options.model, folder, device)
    job = job_of(options.model, device, options.chunks, options.length)
    streamed = bill.is_streamed(job, options.stream)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    disk, speed = disk_rate(folder / "model-0.safetensors"), peak_flops(device, job.dtype)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(work, (folder, job, options.stream))
    flops = bill.arithmetic(job, streamed)
    floor = sum(flops.values()) / speed + READS[streamed] * size / disk
    seconds = sum(found["seconds"].values())
    promised = sum(bill.memory(job, streamed).values())
    for part, spent in found["seconds"].items():
        print(f"{part:10}{spent:8.1f} s")
    for part, value in flops.items():
        print(f"{part:10}{value / 1e12:8.0f} TFLOP, floor {value / speed:6.1f} s")
    print(f"disk {disk / 1e9:.2f} GB/s, matrix product {speed / 1e9:.0f} GFLOP/s")
    print(f"peak {found['peak'] / 1e9:.2f} GB, promised {promised / 1e9:.2f} GB")
    print(f"{seconds:.0f} s, floor {floor:.0f} s: {seconds / floor:.2f}")
    report = {
        "model": options.model,
        "streamed": streamed,
        "chunks": options.chunks,
        "length": options.length,
        "teacher_bytes": size,
        "seconds": found["seconds"],
        "flops": flops,
        "flops_per_second": speed,
        "disk_bytes_per_second": disk,
        "floor_seconds": floor,
        "peak_bytes": found["peak"],
        "promised_bytes": promised,
        "ratio": seconds / floor,
        "machine": machine(options.device),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
