"""Taylor scores of a 7B teacher (Llama 2's shape, random weights in bfloat16) on one GPU: seconds
and peak memory, beside the arithmetic floor.

The floor counts 2 FLOPs a weight and token forwards and 2 backwards (weights are frozen, so only
activations have gradients) at the data sheet's peak. `ratio` is the floor over the measured time.
"""

import argparse
import json
import time

import torch
from transformers import LlamaConfig

from tinylm.inherit.criteria import TAYLOR_TOKENS
from tinylm.inherit.score import score
from tinylm.machine import choose_device, peak_flops, peak_memory
from tinylm.models.initialise import new_model

# layers, hidden, FFN, heads, vocabulary, chunks, tokens a chunk
SIZES = {
    "full": (32, 4096, 11008, 32, 32000, 8, 1024),
    "tiny": (2, 64, 128, 2, 512, 4, 64),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", choices=list(SIZES), default="full")
    layers, hidden, inner, heads, rows, count, length = SIZES[parser.parse_args().sizes]
    device = choose_device()
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=length,
    )
    model = new_model(config, "bfloat16", str(device)).eval()
    chunks = torch.randint(0, rows, (count, length), device=device)
    seconds = []
    for _ in range(2):  # the first warms up
        start = time.perf_counter()
        scores = score(model, chunks, "taylor", "first-last")
        seconds.append(time.perf_counter() - start)
    assert torch.isfinite(scores.ffn).all() and (scores.ffn > 0).all()
    weights = sum(p.numel() for p in model.parameters()) - rows * hidden
    tokens = min(TAYLOR_TOKENS, chunks.numel())  # more are not scored
    floor = 4 * weights * tokens / peak_flops(device, torch.bfloat16)
    result = {
        "seconds": seconds[1],
        "floor_seconds": floor,
        "tokens": tokens,
        "parameters": weights + rows * hidden,
        "memory_gb": peak_memory(device) / 1e9,
    }
    print(json.dumps({"ratio": floor / seconds[1], "peer": "arithmetic floor", **result}))


if __name__ == "__main__":
    main()
