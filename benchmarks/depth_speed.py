"""Decoding speed of planned shapes of 15, 20, 25 and 30 layers at one budget, in tokens per
CPU-second of one thread.

CPU time instead of the clock on the wall, so that a shared machine gives the same answer as a quiet
one; `tinylm plan --depths 15,20,25,30 --measure` times the same shapes by the wall clock with all
threads. `ratio` is the advised depth (20) over the deepest (30) at batch 1.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch

from tinylm.architecture import speed
from tinylm.architecture.plan import plan
from tinylm.architecture.speed import Protocol
from tinylm.pipeline import measured_plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=float, default=40e6)
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    clock: Any = SimpleNamespace(perf_counter=time.process_time)
    speed.time = measured_plan.time = clock
    candidates = sorted(
        plan(options.budget, 16384, depths=[15, 20, 25, 30]), key=lambda c: c.shape.num_layers
    )
    measured: list[dict[str, Any]] = [{"speed": []} for _ in candidates]
    for backend, run, batch, dtype in (
        ("transformers", speed.generate_once, 1, "bfloat16"),
        ("transformers", speed.generate_once, 20, "bfloat16"),
        ("llama.cpp", measured_plan.llamacpp_once, 1, measured_plan.QUANTIZED),
    ):
        protocol = Protocol(batch, 64, options.new_tokens, options.repeats, dtype=dtype)
        timings = [
            [run(c.shape, c.config, protocol) for c in candidates] for _ in range(options.repeats)
        ]
        for index, more in enumerate(measured):
            rates = [
                batch * (options.new_tokens - 1) / row[index].decode_seconds for row in timings
            ]
            spread = {"median": median(rates), "low": min(rates), "high": max(rates)}
            more["speed"].append(
                {"backend": backend, "batch": batch, "decode_tokens_per_second": spread}
            )
    if options.figure:
        measured_plan.draw(candidates, measured, options.figure)
    by_depth = {c.shape.num_layers: more["speed"] for c, more in zip(candidates, measured)}
    fast, slow = (by_depth[depth][0]["decode_tokens_per_second"]["median"] for depth in (20, 30))
    print(
        json.dumps({"tokens_per_cpu_second": by_depth, "peer": "30 layers", "ratio": fast / slow})
    )


if __name__ == "__main__":
    main()
