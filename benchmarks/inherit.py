"""Inheritance against other pruning packages: time, peak memory and bits per byte right after the
cut.

One teacher, one target shape, one held-out text, each tool in a process of its own, in one run.
Peers:

* optipfair: DEPTH pruning (its default, the last layers), then MLP_GLU with its default criterion
  (MAW);
* torch-pruning: its dependency graph and group L2 magnitude on the FFN; it has no depth cut, so the
  last layers are dropped by hand before.

A peer that is not installed is left out and named. They go into an environment of their own, not
into tinylm's:
``pip install --no-deps torch-pruning optipfair``.

    python benchmarks/inherit.py --layers 12 --ffn 1024

Calibration and held-out text are of the embedded corpus, an equal share of each source, unless
files are given.

Ours: by weights alone; by Taylor and skip-loss, cut alone and repaired; and by Taylor and greedy,
repaired. The last line is JSON; ``ratio`` is the best peer's bits per byte over the last of ours
(above 1: ours is better).
"""

import argparse
import dataclasses
import importlib.util
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from tinylm.corpus.read import documents
from tinylm.corpus.split import prepare, read_part, spread, write_split
from tinylm.evaluate.bits_per_byte import bits_per_byte
from tinylm.inherit.calibration import calibration_chunks
from tinylm.inherit.inheritance import inherit
from tinylm.models.shape import Shape
from tinylm.models.teacher import load_model, load_tokenizer

OURS: dict[str, dict[str, Any]] = {
    "tinylm l2, no repair": {"criterion": "l2", "layers": "first-last", "repair": ()},
    "tinylm taylor, no repair": {"criterion": "taylor", "layers": "skip-loss", "repair": ()},
    "tinylm taylor": {"criterion": "taylor", "layers": "skip-loss", "repair": ("norms", "refit")},
    "tinylm greedy": {"layers": "greedy"},
}


def optipfair_cut(model, target: Shape, options):
    import optipfair

    dropped = model.config.num_hidden_layers - target.num_layers
    model = optipfair.prune_model(
        model, pruning_type="DEPTH", num_layers_to_remove=dropped, show_progress=False
    )
    share = 100 * (1 - target.intermediate_size / model.config.intermediate_size)
    return optipfair.prune_model(
        model, pruning_type="MLP_GLU", pruning_percentage=share, show_progress=False
    )


def torch_pruning_cut(model, target: Shape, options):
    import torch_pruning

    model.model.layers = model.model.layers[: target.num_layers]
    model.config.num_hidden_layers = target.num_layers
    model.config.use_cache = False
    for parameter in model.parameters():  # it traces the autograd graph
        parameter.requires_grad_(True)
    graph = torch_pruning.DependencyGraph().build_dependency(
        model, example_inputs={"input_ids": torch.arange(8)[None]}
    )
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    for layer in model.model.layers:
        gate = layer.mlp.gate_proj
        every = list(range(gate.out_features))
        group = graph.get_pruning_group(gate, torch_pruning.prune_linear_out_channels, idxs=every)
        drop = importance(group).argsort()[: gate.out_features - target.intermediate_size].tolist()
        graph.get_pruning_group(gate, torch_pruning.prune_linear_out_channels, idxs=drop).prune()
    model.config.intermediate_size = target.intermediate_size
    return model.eval()


def tinylm_cut(model, target: Shape, options):
    how = dict(OURS[options.name])
    chunks = calibration_chunks(
        options.calibration, load_tokenizer(options.teacher), options.chunks, options.length
    )
    return inherit(model, target, chunks, **how).model


CUTS = {"optipfair": optipfair_cut, "torch_pruning": torch_pruning_cut}


def measure(name: str, options: argparse.Namespace) -> dict:
    """Cut in this process and score on the held-out text; the loading of the teacher is not
    timed."""
    options.name = name
    model = load_model(options.teacher, torch.bfloat16)
    target = dataclasses.replace(
        Shape.from_config(model.config), num_layers=options.layers, intermediate_size=options.ffn
    )
    started = time.perf_counter()
    student = model if name == "teacher" else CUTS.get(name, tinylm_cut)(model, target, options)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    texts = spread(documents([options.text]), options.text_bytes)
    with torch.no_grad():
        score = bits_per_byte(
            student, load_tokenizer(options.teacher), texts, context=options.length
        )
    return {
        "bits_per_byte": score["bits_per_byte"],
        "seconds": round(seconds, 1),
        "peak_memory_gb": round(peak, 2),
        "parameters": student.num_parameters(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", default="smollm2-135m")
    parser.add_argument("--calibration", nargs="+")
    parser.add_argument("--text", help="held-out text, of other documents than --calibration")
    parser.add_argument("--text-bytes", type=int, default=60_000)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--ffn", type=int, default=1024)
    parser.add_argument("--chunks", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    options = parser.parse_args()
    if bool(options.calibration) != bool(options.text):
        parser.error("give --calibration and --text, or neither")
    with tempfile.TemporaryDirectory() as folder:
        if not options.text:
            sizes = {"train": 8 * options.chunks * options.length, "valid": options.text_bytes}
            calibration, options.text = embedded(Path(folder), sizes)
            options.calibration = [calibration]
        compare(options)


def embedded(folder: Path, sizes: dict[str, int]) -> list[str]:
    """A file of each part of the embedded corpus, of so many bytes, made in ``folder``."""
    write_split([prepare(documents(["embedded"]), 0.03)], folder)
    for part, size in sizes.items():
        rows = [
            json.dumps({"text": document.text})
            for document in spread(read_part(folder, part), size)
        ]
        (folder / f"{part}.jsonl").write_text("\n".join(rows) + "\n")
    return [str(folder / f"{part}.jsonl") for part in sizes]


def compare(options: argparse.Namespace) -> None:
    absent = [peer for peer in CUTS if importlib.util.find_spec(peer) is None]
    results = {}
    for name in ["teacher", *(peer for peer in CUTS if peer not in absent), *OURS]:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            results[name] = pool.apply(measure, (name, options))
        print(f"{name:28} {json.dumps(results[name])}", flush=True)
    peers = {peer: results[peer]["bits_per_byte"] for peer in CUTS if peer in results}
    best = min(peers, key=lambda peer: peers[peer]) if peers else None
    ratio = peers[best] / results["tinylm greedy"]["bits_per_byte"] if best else None
    print(json.dumps({"ratio": ratio, "peer": best, "absent": absent, "results": results}))


if __name__ == "__main__":
    main()
