"""The paper's speed protocol on a GPU: shapes of one budget by depth, random weights, greedy, a
prompt of 64 tokens and 510 new ones at batch 1 and 20 (eager `transformers`).

`ratio` is the advised depth (the second) over the deepest at the first batch.
"""

import argparse
import json

from tinylm.architecture.plan import plan
from tinylm.architecture.speed import Protocol, measure


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
    for batch in options.batches:
        protocol = Protocol(batch, 64, options.new_tokens, 1, "bfloat16", options.device)
        for shape, row in zip(shapes, measure(shapes, protocol, again=True)):
            rows[f"{shape.num_layers} layers, batch {batch}"] = {
                name: row[name]["median"]
                for name in ("decode_tokens_per_second", "prefill_tokens_per_second")
            } | {"peak_bytes": row["peak_bytes"], "hidden_size": shape.hidden_size}
        decode = [
            rows[f"{depth} layers, batch {options.batches[0]}"]["decode_tokens_per_second"]
            for depth in (depths[1], depths[-1])
        ]
        summary = {"ratio": decode[0] / decode[1], "peer": f"{depths[-1]} layers", "rows": rows}
        print(json.dumps(summary), flush=True)  # after each batch: a time limit costs only the rest


if __name__ == "__main__":
    main()
