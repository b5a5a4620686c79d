"""Is this GGUF the model? Its contents against the directory it came from, and real llama.cpp
against `transformers`.

Four comparisons, from exact to measured:
1. every setting, token, merge and packed weight in the file is what exporting again would write;
2. llama.cpp tokenizes hard text as the tokenizer does;
3. llama.cpp's next-token distributions are the model's (mean KL divergence), and in the float
   formats greedy decoding gives the same tokens;
4. bits per byte on a text, llama.cpp's over the model's, within a bound stated per quantisation.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, GGUFValueType

from tinylm.artifact import atomic_file
from tinylm.errors import InputError, WorkError
from tinylm.export import graph, hard_text, quantization
from tinylm.export.check_tokens import compare_ends, compare_tokens
from tinylm.export.gguf import (
    IMPORTANCE_ENTRIES,
    export,
    metadata,
    read_finite,
    refuse_existing,
)
from tinylm.export.importance import Importance
from tinylm.export.llamacpp import Llama, require_llamacpp
from tinylm.models.gguf_header import check_header
from tinylm.models.shards import Shards
from tinylm.models.teacher import load_config, load_model, load_tokenizer
from tinylm.models.tokenizer import prompt_ids, start_ids

# quantisation -> (mean KL in nats per token, bits per byte relative to the model's): measured in
# docs/export.md, bounds are some times the largest value seen
BOUNDS: dict[str, tuple[float, float]] = {
    "F32": (0.0005, 0.001),
    "F16": (0.0005, 0.001),
    "BF16": (0.01, 0.01),
    "Q8_0": (0.05, 0.02),
    "Q6_K": (0.10, 0.04),
    "Q5_K_M": (0.20, 0.08),
    "Q5_K_S": (0.20, 0.08),
    "Q5_1": (0.20, 0.08),
    "Q5_0": (0.20, 0.08),
    "Q4_K_M": (0.60, 0.25),
    "Q4_K_S": (0.60, 0.25),
    "Q4_1": (0.60, 0.25),
    "Q4_0": (0.60, 0.25),
    "INT8": (0.05, 0.02),  # MLX
    "INT4": (0.60, 0.25),  # ONNX, MLX
}
GREEDY_TOKENS = 64
_WINDOW = 256  # tokens scored at once: logits are float32[256, vocab_size]
# nats between the two best tokens: closer (or within 4 times the error seen) either may win
_TIE = 0.1


def check(
    model_dir: str | Path,
    gguf_path: str | Path,
    *,
    texts: Sequence[str] = (),
    pre_tokenizer: str | None = None,
    threads: int = 1,
    importance: Importance | None = None,
) -> dict[str, Any]:
    """Compare the GGUF file with the `transformers` directory it was made from.

    ``texts`` are scored in bits per byte beside the built-in hard text (the first 4096 tokens of
    them). Returns {"tokens": {...}, "kl", "max_dlogp", "greedy_equal", "bits_per_byte":
    {"transformers", "llama.cpp"}, ...}. Raises WorkError that says what differs.
    """
    model_dir, gguf_path = Path(model_dir), Path(gguf_path)
    if not gguf_path.is_file():
        raise InputError(f"{gguf_path} does not exist: make it with `tinylm export`")
    quantize = compare_contents(model_dir, gguf_path, pre_tokenizer, importance)
    tokenizer = load_tokenizer(model_dir)
    with Llama(gguf_path, context=2 * _WINDOW, threads=threads) as llama:
        facts: dict[str, Any] = {"quantize": quantize, "tokens": compare_tokens(llama, tokenizer)}
        facts["tokens"]["known_differences"] += compare_ends(llama, model_dir, tokenizer)
        model = load_model(model_dir, torch.float32)
        facts |= compare_logits(llama, model, tokenizer, quantize, texts)
        facts |= compare_greedy(
            llama, model, tokenizer, quantize, tie=max(_TIE, 4 * facts["max_dlogp"])
        )
    return facts


def export_checked(
    model_dir: str | Path,
    out: str | Path,
    quantize: str = "F16",
    *,
    texts: Sequence[str] = (),
    pre_tokenizer: str | None = None,
    overwrite: bool = False,
    threads: int = 1,
    importance: Importance | None = None,
) -> dict[str, Any]:
    """Export, then check; ``out`` appears only when the check held. The export's report with the
    check's as "check"."""
    out = Path(out)
    refuse_existing(out, overwrite)
    require_llamacpp()
    with atomic_file(out) as scratch:
        how: dict[str, Any] = {"pre_tokenizer": pre_tokenizer, "importance": importance}
        report = export(model_dir, scratch, quantize, **how)
        report["check"] = check(model_dir, scratch, texts=texts, threads=threads, **how)
    return {**report, "file": str(out)}


def compare_contents(
    model_dir: Path,
    gguf_path: Path,
    pre_tokenizer: str | None = None,
    importance: Importance | None = None,
) -> str:
    """Every setting and weight of the file against the directory; returns the file's
    quantisation."""
    check_header(gguf_path)
    try:
        reader = GGUFReader(gguf_path)
    except (ValueError, IndexError, KeyError) as error:
        raise WorkError(f"{gguf_path} is not a whole GGUF file: {error}") from error
    config, tokenizer = load_config(model_dir).get_text_config(), load_tokenizer(model_dir)
    family = graph.graph_of(config)
    quantize = _quantization_of(reader, gguf_path)
    for key, (value, kind) in metadata(
        model_dir, config, family, tokenizer, quantize, pre_tokenizer
    ).items():
        if key == "general.name":  # the folder's name: a copy of the model is the model
            continue
        found = reader.fields[key].contents() if key in reader.fields else None
        if not _same(value, found, kind):
            raise WorkError(
                f"{gguf_path} and {model_dir} differ in {key}: {_difference(value, found)}"
            )
    if (IMPORTANCE_ENTRIES in reader.fields) != bool(importance):
        with_it = "with" if IMPORTANCE_ENTRIES in reader.fields else "without"
        raise InputError(
            f"{gguf_path} was packed {with_it} an importance matrix: verify it {with_it} the same"
            " --importance texts"
        )
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    weights = Shards(model_dir, bool(config.tie_word_embeddings))
    names = graph.hf_names(config, weights.sizes(), family)
    expected = set(names) | set(graph.rope_tensors(config, family))
    if expected != set(tensors):
        raise WorkError(
            f"{gguf_path} and {model_dir} do not hold the same tensors:"
            f" {sorted(expected ^ set(tensors))[:4]}"
        )
    for name, factors in graph.rope_tensors(config, family).items():
        if not np.array_equal(
            np.asarray(tensors[name].data).reshape(-1), np.asarray(factors).reshape(-1)
        ):
            raise WorkError(f"{gguf_path} and {model_dir} differ in {name}")
    for name, hf_name in names.items():
        weight = graph.to_llamacpp(hf_name, read_finite(weights, hf_name), config, family)
        weighed = (importance or {}).get(hf_name)
        packed = quantization.pack(weight, tensors[name].tensor_type, weighed)
        data = np.asarray(tensors[name].data)
        if packed.nbytes != data.nbytes or not np.array_equal(
            packed.reshape(-1).view(np.uint8), data.reshape(-1).view(np.uint8)
        ):
            raise WorkError(
                f"{gguf_path} and {model_dir} differ in the weights of {name} ({hf_name})"
            )
    return quantize


def compare_logits(
    llama: Llama | Any, model: Any, tokenizer: Any, quantize: str, texts: Sequence[str]
) -> dict[str, Any]:
    """Next-token distributions and bits per byte over windows of the hard text and of ``texts``."""
    kl_limit, bits_limit = BOUNDS[quantize]
    kl, worst, positions, bits, length = 0.0, 0.0, 0, np.zeros(2), 0
    for ids, size in _windows(tokenizer, texts):
        ours = _log_softmax(model_logits(model, ids))
        theirs = _log_softmax(torch.from_numpy(llama.logits(ids)))
        kl += float((ours.exp() * (ours - theirs)).sum())
        positions += len(ids)
        targets = torch.tensor(ids[1:])[:, None]
        seen = [logp[:-1].gather(1, targets).double() for logp in (ours, theirs)]
        worst = max(worst, float((seen[0] - seen[1]).abs().max()))
        bits -= [float(logp.sum()) / math.log(2) for logp in seen]
        length += size
    kl /= positions
    ours_bpb, theirs_bpb = bits / length
    change = theirs_bpb / ours_bpb - 1
    facts = {
        "positions": positions,
        "kl": kl,
        "kl_bound": kl_limit,
        "max_dlogp": worst,
        "bits_per_byte": {"transformers": float(ours_bpb), llama.runtime: float(theirs_bpb)},
        "bits_per_byte_bound": bits_limit,
        "bytes": length,
    }
    if not kl <= kl_limit:  # also catches NaN
        raise WorkError(
            f"{llama.runtime}'s next-token distributions are not the model's: mean KL {kl:.4f}"
            f" nats, the bound at {quantize} is {kl_limit}{_advice(quantize)}"
        )
    if not abs(change) <= bits_limit:
        raise WorkError(
            f"bits per byte {theirs_bpb:.4f} in {llama.runtime}, {ours_bpb:.4f} in transformers:"
            f" {100 * change:+.1f} %, the bound at {quantize} is {100 * bits_limit:.1f}"
            f" %{_advice(quantize)}"
        )
    return facts


def compare_greedy(
    llama: Llama | Any, model: Any, tokenizer: Any, quantize: str, tie: float = _TIE
) -> dict[str, Any]:
    """The first 64 greedy tokens. In F32, F16 and BF16 they must be equal up to a ``tie`` (nats) of
    the two best."""
    from tinylm.models.generate import Speed, generate

    prompt = prompt_ids(tokenizer, hard_text.PROMPT)
    theirs = llama.greedy(prompt, GREEDY_TOKENS)
    made = Speed()
    for _ in generate(model, tokenizer, prompt, GREEDY_TOKENS, speed=made):
        pass
    ours = made.ids
    equal = next(
        (index for index, (a, b) in enumerate(zip(ours, theirs)) if a != b),
        min(len(ours), len(theirs)),
    )
    facts = {
        "greedy_equal": equal,
        "greedy_tokens": len(theirs),
        "greedy_text": tokenizer.decode(theirs),
    }
    if equal < min(len(ours), len(theirs)):
        best = _log_softmax(model_logits(model, prompt + ours[:equal]))[-1].topk(2).values
        # nats between transformers' two best where the texts part
        facts["greedy_gap"] = gap = float(best[0] - best[1])
        if quantization.is_float(quantize) and gap > tie:
            raise WorkError(
                f"greedy text parts at token {equal}:"
                f" {tokenizer.decode(theirs[equal : equal + 4])!r} in {llama.runtime},"
                f" {tokenizer.decode(ours[equal : equal + 4])!r} in transformers, which is"
                f" {gap:.2f} nats ahead there"
            )
    return facts


@torch.inference_mode()
def model_logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """transformers' logits float32[T, vocab_size] of one sequence."""
    return model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].float()


def _windows(tokenizer: Any, texts: Sequence[str]):
    """(token ids, bytes they spell after the first) of the text in windows of 256 tokens: 4096
    tokens at most."""
    taken = 0
    begin = start_ids(tokenizer)
    for text in [hard_text.PROSE, *texts]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        for start in range(0, len(ids) - 1, _WINDOW):
            window = begin + ids[start : start + _WINDOW]
            if len(window) > 1 and taken < 4096:
                taken += len(window)
                yield window, len(tokenizer.decode(window[1:]).encode())


def _log_softmax(logits: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(logits.float(), dim=-1)


def _quantization_of(reader: GGUFReader, path: Path) -> str:
    number = (
        reader.fields["general.file_type"].contents()
        if "general.file_type" in reader.fields
        else None
    )
    for name in quantization.BASE:
        if number == int(quantization.file_type(name)):
            return name
    raise WorkError(
        f"{path} does not say which of {', '.join(quantization.BASE)} it is (general.file_type ="
        f" {number})"
    )


def _same(value: Any, found: Any, kind: GGUFValueType) -> bool:
    if kind == GGUFValueType.FLOAT32:
        return found is not None and bool(np.float32(value) == np.float32(found))
    if isinstance(value, list) and value and isinstance(value[0], float):
        return found is not None and np.array_equal(
            np.array(value, np.float32), np.array(found, np.float32)
        )
    return value == found


def _difference(value: Any, found: Any) -> str:
    if isinstance(value, list) and isinstance(found, list):
        if len(value) != len(found):
            return f"{len(found)} entries in the file, {len(value)} in the directory"
        at = next(index for index, (a, b) in enumerate(zip(value, found)) if a != b)
        return f"entry {at} is {found[at]!r} in the file, {value[at]!r} in the directory"
    return f"{found!r:.60} in the file, {value!r:.60} in the directory"


def _advice(quantize: str) -> str:
    if quantization.is_float(quantize):
        return ""
    return "; choose a wider format, or --no-check to keep it all the same"
