"""A plan with measurements: the speed of every candidate, its quality after a short training run,
and the picture.

Beside `pipeline/run.py` the one place where formulas meet: planning knows nothing of training or
export, so what is measured here is handed to it as functions.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from tinylm.architecture import speed
from tinylm.architecture.plan import Candidate, parse_numbers
from tinylm.architecture.speed import Protocol, Timing
from tinylm.artifact import write_text
from tinylm.errors import InputError
from tinylm.machine import choose_device, fast_dtype
from tinylm.models.block import apply, block_of
from tinylm.models.initialise import random_model
from tinylm.models.save import save_model
from tinylm.models.shape import Shape
from tinylm.pipeline.plan_options import PlanOptions
from tinylm.terminal import console, print_table, quiet_transformers

QUANTIZED = "Q8_0"  # what a phone would run; the finalists are timed in it through llama.cpp
TRAINING_SEQUENCE, TRAINING_BATCH, CALIBRATION_CHUNKS = 512, 8, 32


def measure(candidates: Sequence[Candidate], options: PlanOptions) -> list[dict[str, Any]]:
    """Further keys of plan.json for each candidate: "speed" (when asked to ``measure``), "quality"
    (when ``train_tokens``).

    A teacher's cuts are trained from its weights when its vocabulary is the candidates' own, else
    from random ones.
    """
    train_tokens, data = int(options.train_tokens), options.data
    if train_tokens and data is None:
        raise InputError(
            "plan: --train-tokens needs --data, a folder with the token stores train/ and valid/"
        )
    measured: list[dict[str, Any]] = [{} for _ in candidates]
    if options.measure:
        found = choose_device(options.device)
        device = found.type if options.device == "auto" else str(found)
        if options.finalists:
            speed.llamacpp_version()  # a missing package shows now, not after all other timings
        protocols = [
            Protocol(batch, 64, options.new_tokens, options.repeats, device=device)
            for batch in parse_numbers("batches", options.batches) or []
        ]
        speeds = measure_speed(candidates, protocols, options.finalists, options.again)
        for more, of_shape in zip(measured, speeds):
            more["speed"] = of_shape
    if train_tokens and data is not None:
        for more, quality in zip(
            measured, measure_quality(candidates, data, train_tokens, options.teacher)
        ):
            more["quality"] = quality
    return measured


def measure_speed(
    candidates: Sequence[Candidate],
    protocols: Sequence[Protocol],
    finalists: int,
    again: bool = False,
) -> list[list[dict]]:
    """For each candidate its speeds: `transformers` at every protocol, llama.cpp at batch 1 for the
    first few."""
    shapes, configs = [c.shape for c in candidates], [c.config for c in candidates]
    results: list[list[dict]] = [[] for _ in candidates]
    for protocol in protocols:
        for found, result in zip(results, speed.measure(shapes, protocol, configs, again=again)):
            found.append(result)
    plain = [index for index, c in enumerate(candidates) if block_of(c.config) == "plain"]
    plain = plain[:finalists]
    if plain:
        first = protocols[0]
        protocol = Protocol(
            1, first.prompt_tokens, first.new_tokens, first.repeats, dtype=QUANTIZED
        )
        measured = speed.measure(
            [shapes[index] for index in plain],
            protocol,
            [configs[index] for index in plain],
            llamacpp_once,
            "llama.cpp",
            again,
        )
        for index, result in zip(plain, measured):
            results[index].append(result)
    return results


def llamacpp_once(shape: Shape, config: Any, protocol: Protocol) -> Timing:
    """Time one greedy generation of the shape with random weights, quantised to ``protocol.dtype``,
    by llama.cpp."""
    from tinylm.export.gguf import export
    from tinylm.export.llamacpp import Llama

    quiet_transformers()
    with tempfile.TemporaryDirectory() as folder:
        model = speed.timed_model(
            shape, config, Protocol(dtype="float32", new_tokens=protocol.new_tokens)
        )
        save_model(model, folder)
        byte_tokenizer(shape.vocab_size).save_pretrained(folder)
        del model
        file = Path(folder) / "model.gguf"
        export(folder, file, protocol.dtype, pre_tokenizer="gpt-2")
        prompt = list(range(protocol.prompt_tokens))
        memory = speed.PeakMemory("cpu")
        with Llama(
            file,
            context=protocol.prompt_tokens + protocol.new_tokens,
            threads=torch.get_num_threads(),
        ) as llama:
            llama.decode(prompt, last_only=True)  # warm up: the file's pages, the threads
            llama.reset()
            start = time.perf_counter()
            token = int(llama.decode(prompt, last_only=True)[0].argmax())
            first = time.perf_counter()
            for _ in range(protocol.new_tokens - 1):
                token = int(llama.decode([token], last_only=True)[0].argmax())
            return Timing(first - start, time.perf_counter() - first, memory.peak())


def byte_tokenizer(vocab_size: int) -> Any:
    """A byte-level tokenizer of ``vocab_size`` tokens with one merge: a GGUF needs one, timing does
    not care."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size <= len(alphabet):
        raise InputError(
            f"llama.cpp is timed with a byte-level tokenizer: vocabulary {vocab_size} must be"
            " above 256"
        )
    words = [
        *alphabet,
        "th",
        *(f"unused{index}" for index in range(vocab_size - len(alphabet) - 1)),
    ]
    tokenizer = Tokenizer(
        models.BPE({word: index for index, word in enumerate(words)}, [("t", "h")])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=words[-1])


def measure_quality(
    candidates: Sequence[Candidate],
    data: Path,
    tokens: int,
    teacher: str | None,
    *,
    seed: int = 0,
    compile_layers: bool = True,
) -> list[dict[str, Any]]:
    """Train every candidate on the same ``tokens`` in the same order; bits per byte on held-out
    text.

    Args:
        data: a folder with the token stores ``train`` and ``valid`` (`tinylm corpus pack`, or the
            pipeline's).
        teacher: cut every candidate out of this model if its vocabulary is the stores'; otherwise,
            and with None, random weights.
    """
    from tinylm.corpus.store import open_store
    from tinylm.models.teacher import load_config
    from tinylm.train.config import TrainConfig
    from tinylm.train.loop import train

    stores = open_store(data / "train"), open_store(data / "valid")
    steps = max(1, round(tokens / (TRAINING_SEQUENCE * TRAINING_BATCH)))
    config = TrainConfig(
        TRAINING_SEQUENCE,
        TRAINING_BATCH,
        steps=steps,
        seed=seed,
        checkpoint_every=0,
        compile=compile_layers,
        rounds=1,
        base_lr=1e-3,
        never_worse=False,
    )
    results = []
    if teacher and load_config(teacher).vocab_size != candidates[0].shape.vocab_size:
        console.print(
            "[yellow]the teacher has another vocabulary: the candidates start from random"
            " weights[/]"
        )
        teacher = None
    students = _cuts(candidates, teacher, stores[0]) if teacher else _fresh(candidates, seed)
    for number, model in enumerate(students, start=1):
        console.print(f"training candidate {number} of {len(candidates)}")
        with tempfile.TemporaryDirectory() as folder:
            result = train(model, stores[0], config, Path(folder) / "run", valid_store=stores[1])
        # dynamo compiles a function for so many shapes only, then runs it uncompiled
        torch.compiler.reset()
        results.append({**result, "start": "teacher" if teacher else "random", "seed": seed})
    return results


def _fresh(candidates: Sequence[Candidate], seed: int) -> Iterator[Any]:
    """A model with random weights for each candidate."""
    from transformers import LlamaConfig

    for candidate in candidates:
        config = candidate.shape.to_config(
            candidate.config if candidate.config is not None else LlamaConfig()
        )
        config.max_position_embeddings = max(TRAINING_SEQUENCE, config.max_position_embeddings)
        yield random_model(config, seed)


def _cuts(candidates: Sequence[Candidate], teacher: str, store: Any) -> Iterator[Any]:
    """A model cut out of ``teacher`` for each candidate; the teacher's units are scored once for
    all of them."""
    from tinylm.inherit.inheritance import inherit
    from tinylm.inherit.score import score
    from tinylm.models.teacher import load_model

    source = load_model(teacher, fast_dtype(torch.device("cpu")))
    chunks = min(CALIBRATION_CHUNKS, store.num_sequences(TRAINING_SEQUENCE))
    calibration = torch.from_numpy(store.windows(range(chunks), TRAINING_SEQUENCE)[:, :-1])
    shallowest = min(
        (candidate.shape for candidate in candidates), key=lambda shape: shape.num_layers
    )
    # layers in the order of their removal serve every depth
    scores = score(source, calibration, target=shallowest)
    for candidate in candidates:
        model = inherit(source, candidate.shape, calibration, scores=scores).model.float()
        yield apply(block_of(candidate.config), model)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (speed, loss) that no other point beats: none is as fast with less
    loss, or faster with as little. Sorted by speed."""
    front = [
        index
        for index, (fast, loss) in enumerate(points)
        if not any(f >= fast and q <= loss and (f, q) != (fast, loss) for f, q in points)
    ]
    return sorted(front, key=lambda index: points[index])


def print_measurements(candidates: Sequence[Candidate], extra: Sequence[dict[str, Any]]) -> None:
    """Table of measured medians (low - high); one row for each candidate and protocol."""
    rows = []
    for candidate, measured in zip(candidates, extra):
        name = f"{candidate.shape.num_layers}x{candidate.shape.hidden_size}"
        quality = measured.get("quality", {}).get("valid_bits_per_byte")
        bits = f"{quality:.4f}" if quality else "-"
        for result in measured.get("speed", []):
            spread, peak = result["decode_tokens_per_second"], result["peak_bytes"]
            rows.append(
                (
                    name,
                    f"{result['backend']} {result['dtype']}",
                    result["batch"],
                    f"{spread['median']:,.0f}",
                    f"{spread['low']:,.0f}-{spread['high']:,.0f}",
                    f"{result['first_token_seconds']['median'] * 1000:,.0f}",
                    f"{peak / 2**20:,.0f}" if peak else "-",
                    bits,
                )
            )
        if not measured.get("speed"):
            rows.append((name, "-", "-", "-", "-", "-", "-", bits))
    columns = ("shape", "by", "batch", "tok/s", "range", "first ms", "MiB", "bits/byte")
    print_table(
        "Measured: decoding speed (median and range), first token, peak memory", columns, rows
    )


def draw(candidates: Sequence[Candidate], extra: Sequence[dict[str, Any]], out: Path) -> None:
    """pareto.svg: decode speed against bits per byte (or against depth, when no quality was
    measured).

    With quality, a ring marks the shapes on the Pareto front of each way of running them.
    """
    from matplotlib.ticker import ScalarFormatter

    from tinylm.render.figures import PALETTE, figure, to_svg

    with figure() as (fig, axes):
        for number, (backend, batch) in enumerate(_protocols(extra)):
            found = [_decode_speed(measured, backend, batch) for measured in extra]
            points = [
                (
                    rate["median"],
                    measured.get("quality", {}).get("valid_bits_per_byte", c.shape.num_layers),
                    rate,
                    c,
                )
                for c, measured, rate in zip(candidates, extra, found)
                if rate is not None
            ]
            points.sort(key=lambda point: point[3].shape.num_layers)
            color = PALETTE[number % len(PALETTE)]
            xs, ys = [p[0] for p in points], [p[1] for p in points]
            low, high = [p[0] - p[2]["low"] for p in points], [p[2]["high"] - p[0] for p in points]
            if points and "quality" in extra[0]:
                front = pareto_front(list(zip(xs, ys)))
                label = "on the Pareto front" if number == 0 else None
                fx, fy = [xs[i] for i in front], [ys[i] for i in front]
                axes.plot(fx, fy, "o", ms=13, mfc="none", mec="black", label=label)
            axes.errorbar(
                xs,
                ys,
                xerr=[low, high],
                fmt="o-",
                color=color,
                label=f"{backend}, batch {batch}",
                capsize=2,
            )
            for x, y, _, c in points:
                axes.annotate(
                    f"{c.shape.num_layers}x{c.shape.hidden_size}",
                    (x, y),
                    (4, 4),
                    textcoords="offset points",
                )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(ScalarFormatter())
        axes.set_xlabel("decode speed (tokens/s, log scale)")
        axes.set_ylabel("bits per byte, held out" if "quality" in extra[0] else "layers")
        axes.legend()
        write_text(out, to_svg(fig))


def _protocols(extra: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    return list(
        dict.fromkeys(
            (result["backend"], result["batch"]) for m in extra for result in m.get("speed", [])
        )
    )


def _decode_speed(measured: dict[str, Any], backend: str, batch: int) -> dict[str, float] | None:
    for result in measured.get("speed", []):
        if (result["backend"], result["batch"]) == (backend, batch):
            return result["decode_tokens_per_second"]
    return None
