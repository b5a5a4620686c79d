"""Peak memory of inheritance against what is promised and what the command prints before it starts.

The teacher is made here: random weights, 1.1B parameters, 2.2 GB of bf16 in five shards.

* Weight norms and the cut read its shards. The bound: 1.3 times the largest shard, plus the
  student.
* Taylor scores it in bf16, with all activations kept and with layers that run again. The bound is
  the estimate.

    python benchmarks/inherit_memory.py --work FOLDER

Every case runs in a process of its own; what the process holds before (Python, torch) is taken off.
The last line is JSON; ``ratio`` is the measured peak over the bound (1 or less: held).
"""

import argparse
import json
import multiprocessing
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from tinylm.inherit import memory, units
from tinylm.inherit.inheritance import save
from tinylm.inherit.options import InheritOptions
from tinylm.inherit.run import inherit_streamed
from tinylm.models.parameters import parameters
from tinylm.models.shape import Shape
from tinylm.models.teacher import load_model

MADE = Shape(16, 2048, 8192, 32, 8, 64, 32000, False)
L2 = InheritOptions(criterion="l2", layers="first-last", repair=())
CUT = Shape(8, 1024, 4096, 16, 4, 64, 32000, False)


def make_teacher(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(MADE.to_config(LlamaConfig()))
    model.to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="500MB")


def streamed(work: Path) -> float:
    """Peak of L2 and the cut, written and reloaded; bytes above what was there before."""
    held = resident()
    result = inherit_streamed(work / "teacher", CUT, L2, torch.bfloat16)
    out = work / "student"
    out.mkdir(exist_ok=True)
    save(result, out)
    return peak() - held


def taylor(teacher: Path, chunks: torch.Tensor, recompute: bool) -> float:
    """Peak of scoring by Taylor, teacher included; bytes above what was there before."""
    # (its import is no part of the peak)
    from transformers.models.llama import modeling_llama  # noqa: F401

    held = resident()
    with patch.object(units, "must_recompute", lambda *args: recompute):
        units.taylor(load_model(teacher, torch.bfloat16), chunks)
    return peak() - held


def estimate(tokens: int, recompute: bool) -> float:
    logits = tokens * MADE.vocab_size * (3 * 2 + 4)  # as in inherit.bill
    return (
        parameters(MADE) * 2
        + memory.activation_bytes(MADE, torch.bfloat16, tokens, recompute)
        + logits
    )


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def alone(work: Callable[..., float | None], *args: object) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, args) or 0.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="3 GB are written here")
    parser.add_argument("--length", type=int, default=512)
    options = parser.parse_args()
    teacher = options.work / "teacher"
    if not teacher.exists():
        alone(make_teacher, teacher)
    shard = max(file.stat().st_size for file in teacher.glob("*.safetensors"))
    rows = {"l2, streamed": (alone(streamed, options.work), 1.3 * shard + 2 * parameters(CUT))}
    tokens = memory.BATCH * options.length
    chunks = torch.randint(
        MADE.vocab_size, (memory.BATCH, options.length), generator=torch.Generator().manual_seed(0)
    )
    for name, recompute in (("taylor", False), ("taylor, layers run again", True)):
        rows[name] = alone(taylor, teacher, chunks, recompute), estimate(tokens, recompute)
    for name, (measured, bound) in rows.items():
        print(
            f"{name:26} {measured / 1e9:6.2f} GB   bound {bound / 1e9:6.2f} GB  "
            f" {measured / bound:5.2f}"
        )
    print(
        json.dumps({"ratio": {name: measured / bound for name, (measured, bound) in rows.items()}})
    )


if __name__ == "__main__":
    main()
