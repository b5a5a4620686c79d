"""Speed, measured: how fast a shape reads a prompt and writes tokens on this machine.

Weights are random (their values do not change the time), generation is greedy with a key-value
cache, and the clock starts after a warm-up. Shapes take turns within every round, so that a slow
minute of the machine hits all of them. Results are cached by shape, protocol and machine.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tinylm.artifact import hash_of, read_json, write_json
from tinylm.errors import InputError
from tinylm.machine import PeakMemory, fast_dtype, machine
from tinylm.models.initialise import new_model
from tinylm.models.shape import Shape
from tinylm.models.teacher import cache_dir
from tinylm.terminal import progress_bar


@dataclass(frozen=True)
class Protocol:
    """What is timed. The paper's: batch 20 and 510 new tokens, fp16 on one V100."""

    batch: int = 1
    prompt_tokens: int = 64
    new_tokens: int = 510
    repeats: int = 5
    dtype: str = ""  # bfloat16, float16 or float32; "": bfloat16 where it is fast on the device
    device: str = "cpu"

    def __post_init__(self) -> None:
        if min(self.batch, self.prompt_tokens, self.repeats) < 1 or self.new_tokens < 2:
            raise InputError(f"speed: {self} needs positive numbers and at least 2 new tokens")
        if not self.dtype:
            fast = str(fast_dtype(torch.device(self.device))).removeprefix("torch.")
            object.__setattr__(self, "dtype", fast)


@dataclass(frozen=True)
class Timing:
    """One timed generation."""

    first_token_seconds: float  # the prompt and the first new token
    decode_seconds: float  # all further new tokens
    # memory that weights, cache and activations took; None where it cannot be read
    peak_bytes: int | None


Runner = Callable[[Shape, Any, Protocol], Timing]  # (shape, config or None, protocol)


def measure(
    shapes: Sequence[Shape],
    protocol: Protocol,
    configs: Sequence[Any] | None = None,
    run: Runner | None = None,
    backend: str = "transformers",
    again: bool = False,
) -> list[dict[str, Any]]:
    """Median and spread of each shape's speed, in the order of ``shapes``.

    Args:
        configs: the family of each shape (None: Llama).
        again: time anew what was timed on this machine before.
        run: times one generation; by default through `transformers`. ``backend`` names it in
            results and cache.

    Returns one dictionary a shape: ``prefill_tokens_per_second``, ``decode_tokens_per_second``,
    ``first_token_seconds`` as {"median", "low", "high"} over the repeats, ``peak_bytes``, protocol
    and machine.
    """
    run = run or generate_once
    configs = configs or [None] * len(shapes)
    files = [
        _cache_file(shape, config, protocol, backend) for shape, config in zip(shapes, configs)
    ]
    pending = [index for index, file in enumerate(files) if again or not file.exists()]
    timings: dict[int, list[Timing]] = {index: [] for index in pending}
    with progress_bar(
        f"speed, {backend}, batch {protocol.batch}", len(pending) * protocol.repeats, "runs"
    ) as bar:
        for _ in range(protocol.repeats):
            for index in pending:
                timings[index].append(run(shapes[index], configs[index], protocol))
                bar.advance()
    for index in pending:
        write_json(files[index], _summary(timings[index], protocol, backend))
    return [read_json(file) for file in files]


def generate_once(shape: Shape, config: Any, protocol: Protocol) -> Timing:
    """Time one greedy generation by `transformers`, eager, on ``protocol.device``."""
    memory = PeakMemory(protocol.device)
    model = timed_model(shape, config, protocol)
    prompt = torch.randint(
        0, shape.vocab_size, (protocol.batch, protocol.prompt_tokens), device=protocol.device
    )
    _generate(model, prompt, 4, protocol.device)
    first, decode = _generate(model, prompt, protocol.new_tokens, protocol.device)
    return Timing(first, decode, memory.peak())


@torch.inference_mode()
def _generate(
    model: Any, prompt: torch.Tensor, new_tokens: int, device: str
) -> tuple[float, float]:
    """Seconds until the first token and for the rest. ``prompt``: int64[batch, tokens]."""
    synchronize = (
        partial(torch.cuda.synchronize, device) if device.startswith("cuda") else lambda: None
    )
    synchronize()
    start = time.perf_counter()
    out = model(prompt, use_cache=True, logits_to_keep=1)
    token = out.logits[:, -1:].argmax(-1)
    synchronize()
    first = time.perf_counter()
    for _ in range(new_tokens - 1):
        out = model(token, past_key_values=out.past_key_values, use_cache=True)
        token = out.logits[:, -1:].argmax(-1)
    synchronize()
    return first - start, time.perf_counter() - first


def timed_model(shape: Shape, config: Any, protocol: Protocol) -> Any:
    """A model of ``shape`` that fits the protocol's tokens."""
    from transformers import LlamaConfig

    longest = protocol.prompt_tokens + protocol.new_tokens
    config = shape.to_config(config if config is not None else LlamaConfig())
    config.max_position_embeddings = max(
        longest, getattr(config, "max_position_embeddings", 0) or 0
    )
    config.pad_token_id = None
    return new_model(config, protocol.dtype, protocol.device).eval()


def llamacpp_version() -> str:
    """Of the package that runs llama.cpp; InputError without it."""
    try:
        return version("xllamacpp")
    except PackageNotFoundError as error:
        raise InputError(
            "llama.cpp is not installed: pip install 'tinylm[device]', or leave --finalists out"
        ) from error


def _cache_file(shape: Shape, config: Any, protocol: Protocol, backend: str) -> Path:
    switches = (
        "model_type",
        "shortcut_size",
        "series_terms",
        "attention_bias",
        "mlp_bias",
        "use_qk_norm",
    )
    family = {} if config is None else {name: getattr(config, name, None) for name in switches}
    runtime = {"llama.cpp": llamacpp_version()} if backend == "llama.cpp" else {}
    key = {"shape": shape.to_dict(), **family, **asdict(protocol), "backend": backend, **runtime}
    key |= machine(protocol.device)
    return cache_dir() / "speed" / f"{hash_of(key)}.json"


def _summary(timings: Sequence[Timing], protocol: Protocol, backend: str) -> dict[str, Any]:
    def spread(values: Sequence[float]) -> dict[str, float]:
        return {"median": median(values), "low": min(values), "high": max(values)}

    prompt, decoded = (
        protocol.batch * protocol.prompt_tokens,
        protocol.batch * (protocol.new_tokens - 1),
    )
    peaks = [timing.peak_bytes for timing in timings if timing.peak_bytes is not None]
    return {
        "backend": backend,
        **asdict(protocol),
        "machine": machine(protocol.device),
        "prefill_tokens_per_second": spread(
            [prompt / timing.first_token_seconds for timing in timings]
        ),
        "decode_tokens_per_second": spread([decoded / timing.decode_seconds for timing in timings]),
        "first_token_seconds": spread([timing.first_token_seconds for timing in timings]),
        # the first run also holds newly imported modules
        "peak_bytes": int(median(peaks)) if peaks else None,
    }
