"""The paper's speed protocol on a GPU: shapes of one budget by depth, random weights, greedy, a
prompt of 64 tokens and 510 new ones at batch 20 and 1.

Twice: with a token's work replayed as one CUDA graph, as servers do it (`graph`), and as plain
`transformers` (`eager`), where the CPU that launches the kernels is what is timed; a tenth of the
tokens is enough for that. `ratio` is the advised depth (the second) over the deepest, both by graph
at the first batch.
"""

import argparse
import json
import time
from typing import Any

import torch
from transformers import StaticCache

from tinylm.architecture.plan import plan
from tinylm.architecture.speed import Protocol, Timing, generate_once, measure, timed_model
from tinylm.machine import PeakMemory
from tinylm.models.shape import Shape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=float, required=True)
    parser.add_argument("--vocab-size", type=int, required=True)
    parser.add_argument("--depths", required=True)
    parser.add_argument("--new-tokens", type=int, default=510)
    parser.add_argument("--batches", type=int, nargs="+", default=[20, 1])
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    depths = [int(depth) for depth in options.depths.split(",")]
    candidates = plan(options.budget, options.vocab_size, depths=depths)
    candidates = sorted(candidates, key=lambda candidate: candidate.shape.num_layers)
    shapes = [candidate.shape for candidate in candidates]
    rows = {}
    ways = {
        "graph": (generate_graphed, options.new_tokens),
        "eager": (generate_once, max(2, options.new_tokens // 10)),
    }
    for way, (run, new_tokens) in ways.items():
        for batch in options.batches:
            protocol = Protocol(batch, 64, new_tokens, 1, "bfloat16", options.device)
            for shape, row in zip(shapes, measure(shapes, protocol, run=run, again=True)):
                rows[f"{way}, {shape.num_layers} layers, batch {batch}"] = {
                    name: row[name]["median"]
                    for name in ("decode_tokens_per_second", "prefill_tokens_per_second")
                } | {
                    "peak_bytes": row["peak_bytes"],
                    "hidden_size": shape.hidden_size,
                    "new_tokens": new_tokens,
                }
            decode = [
                rows[f"graph, {depth} layers, batch {options.batches[0]}"]
                for depth in (depths[1], depths[-1])
            ]
            first, last = (row["decode_tokens_per_second"] for row in decode)
            summary = {"ratio": first / last, "peer": f"{depths[-1]} layers", "rows": rows}
            print(json.dumps(summary), flush=True)  # each batch: a time limit costs only the rest


@torch.inference_mode()
def generate_graphed(shape: Shape, config: Any, protocol: Protocol) -> Timing:
    """One timed generation whose every new token is one replay of a CUDA graph (on a CPU: the same
    calls, to see that they work)."""
    memory, cuda = PeakMemory(protocol.device), protocol.device.startswith("cuda")
    model = timed_model(shape, config, protocol)
    cache = StaticCache(
        config=model.config, max_cache_len=protocol.prompt_tokens + protocol.new_tokens
    )
    prompt = torch.randint(
        shape.vocab_size, (protocol.batch, protocol.prompt_tokens), device=protocol.device
    )
    token = prompt[:, :1].clone()

    def read(ids: torch.Tensor) -> None:
        out = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        token.copy_(out.logits[:, -1:].argmax(-1))

    def wait() -> float:
        if cuda:
            torch.cuda.synchronize(protocol.device)
        return time.perf_counter()

    read(prompt)
    write = captured(lambda: read(token)) if cuda else lambda: read(token)
    cache.reset()
    start = wait()
    read(prompt)
    first = wait()
    for _ in range(protocol.new_tokens - 1):
        write()
    return Timing(first - start, wait() - first, memory.peak())


def captured(work: Any) -> Any:
    """``work`` as a CUDA graph; what replays it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # PyTorch wants a warm-up on a stream of its own
        work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


if __name__ == "__main__":
    main()
