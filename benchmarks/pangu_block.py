"""The PanGu-pi block against the plain Llama block: equal parameters, equal tokens in the same
order, several seeds.

    python benchmarks/pangu_block.py --data FOLDER      (token stores train/ and valid/, e.g. of a
    `tinylm run`)

`ratio` is plain over PanGu-pi in held-out bits per byte (above 1: the PanGu-pi block is better),
with the paired difference of every seed beside it, and what the block costs in training speed.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev

from tinylm.architecture.plan import Candidate, plan
from tinylm.corpus.store import open_store
from tinylm.pipeline.measured_plan import measure_quality


def matched(budget: float, vocab_size: int, depth: int) -> tuple[Candidate, Candidate]:
    """The planned plain shape and the PanGu-pi shape of the same depth, width and heads: only the
    FFN gives way."""
    plain = plan(budget, vocab_size, depths=[depth])[0]
    exact = plain.parameters
    frame = (
        plain.shape.hidden_size,
        plain.shape.num_attention_heads,
        plain.shape.num_key_value_heads,
    )
    tie = plain.shape.tie_word_embeddings
    found = plan(exact, vocab_size, block="pangu-pi", tie_word_embeddings=tie, limit=10**6)
    same = [
        c
        for c in found
        if c.shape.num_layers == depth
        and (c.shape.hidden_size, c.shape.num_attention_heads, c.shape.num_key_value_heads) == frame
    ]
    if not same:
        raise SystemExit(
            f"no PanGu-pi shape matches {plain.shape} within 1 %: take another --budget or --depth"
        )
    return plain, min(same, key=lambda c: abs(c.parameters - exact))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=10e6)
    parser.add_argument("--depth", type=int, default=16)
    parser.add_argument("--tokens", type=float, default=6e5)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    candidates = matched(
        options.budget, open_store(options.data / "train").vocab_size, options.depth
    )
    runs = [
        measure_quality(candidates, options.data, int(options.tokens), None, seed=s)
        for s in range(options.seeds)
    ]
    plain, pangu = ([run[side]["valid_bits_per_byte"] for run in runs] for side in (0, 1))
    differences = [b - a for a, b in zip(plain, pangu)]
    speeds = [mean(run[side]["tokens_per_second"] for run in runs) for side in (0, 1)]
    result = {
        "peer": "plain Llama block",
        "plain": {
            **candidates[0].shape.to_dict(),
            "parameters": candidates[0].parameters,
            "bits_per_byte": plain,
        },
        "pangu_pi": {
            **candidates[1].shape.to_dict(),
            "parameters": candidates[1].parameters,
            "bits_per_byte": pangu,
        },
        "tokens": runs[0][0]["tokens_trained"],
        "difference_bits_per_byte": differences,
        "difference_mean": mean(differences),
        "difference_sd": stdev(differences) if len(differences) > 1 else None,
        "training_speed_ratio": speeds[1] / speeds[0],
        "ratio": mean(plain) / mean(pangu),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
