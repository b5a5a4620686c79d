"""Counting parameters by arithmetic against building the `transformers` model on the meta device.

Both count the same shapes of every family and must agree to the last parameter; `ratio` is shapes
per second, ours over theirs. Planning a budget looks at thousands of shapes, so this is the step
that must be fast.
"""

import json
import time

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import tinylm.models.pangu  # noqa: F401  registers its family
from tinylm.architecture.plan import plan
from tinylm.models.families import FAMILIES
from tinylm.models.parameters import parameters


def main() -> None:
    shapes = [candidate.shape for candidate in plan(40e6, 16384, limit=4)]
    pairs = [
        (shape, shape.to_config(CONFIG_MAPPING[family]()))
        for family in FAMILIES
        for shape in shapes
    ]
    for _, config in pairs:
        config.pad_token_id = 0

    start = time.perf_counter()
    ours = [parameters(shape, config) for shape, config in pairs]
    our_seconds = time.perf_counter() - start

    start = time.perf_counter()
    theirs = []
    for _, config in pairs:
        with torch.device("meta"):
            theirs.append(
                sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
            )
    their_seconds = time.perf_counter() - start

    start = time.perf_counter()
    found = len(plan(1e9, 48000, limit=10**6))
    plan_seconds = time.perf_counter() - start
    result = {
        "shapes": len(pairs),
        "equal": ours == theirs,
        "our_seconds": our_seconds,
        "peer": "transformers on the meta device",
        "peer_seconds": their_seconds,
        "plan_candidates": found,
        "plan_seconds": plan_seconds,
        "ratio": their_seconds / our_seconds,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
