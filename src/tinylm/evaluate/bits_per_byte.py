"""Bits per byte: how many bits a model needs for each byte of a text. The one number that compares
across tokenizers.

    bits per byte = sum over tokens of -log2 p(token | tokens before it) / bytes of the original
    UTF-8 text

What is conditioned on what, so that the number means the same for every model:

- A document is scored by itself. Before its first token stands one prefix token, which is
  conditioned on and not scored: what stands before a document in packed training text (the BOS that
  the tokenizer itself puts there, else the separator of documents). The end of the document is not
  scored either.
- A document longer than ``context`` tokens is scored in chunks. With ``stride = context`` (default)
  chunks do not overlap and each starts from the last token of the one before; with a smaller stride
  the window slides, and every token after the first window sees at least ``context - stride``
  tokens before it. Every token is scored once.
- Markers such as ``<|endoftext|>`` inside a text are text: they are split into ordinary tokens and
  paid for.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinylm.corpus.pack import find_separator, find_start
from tinylm.corpus.read import Document, documents, expand
from tinylm.errors import InputError, WorkError
from tinylm.evaluate.forward import Scorer, check_context, check_vocabulary, scoring
from tinylm.terminal import progress_bar

Float = np.ndarray


@dataclass(frozen=True)
class Scores:
    """One row a document: bits needed, UTF-8 bytes, tokens, and the file it is from. Of a
    conversation only what counts in training is in them."""

    bits: Float  # float64 [documents]
    bytes: Float  # int64 [documents]
    tokens: Float  # int64 [documents]
    sources: list[str]
    unknown_tokens: int  # tokens the tokenizer had no spelling for: their bytes were never paid for


COLUMNS = ("bits", "bytes", "tokens")  # of Scores, one number a document


@dataclass(frozen=True)
class Window:
    document: int
    first: int  # number of the first target in the document
    inputs: np.ndarray  # int64 [length]
    targets: np.ndarray  # int64 [scored]: what follows the last `scored` inputs


def bits_per_byte(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[Document],
    context: int = 512,
    *,
    stride: int | None = None,
    batch_tokens: int = 8192,
    dtype: torch.dtype | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Bits per byte of ``documents`` under ``model``, with a bootstrap error over documents, whole
    and by source.

    Args:
        model: any `transformers` causal model; it is not changed.
        tokenizer: the model's own.
        documents: each is scored by itself; empty texts are skipped.
        context: tokens the model sees at once.
        stride: tokens a window moves by, 1 to ``context``; None means ``context`` (chunks that do
            not overlap).
        batch_tokens: tokens per forward pass. Memory grows with it, the result does not change.
        dtype: precision of the weights while scoring (log-softmax is always fp32). None: the
            model's own.
        resamples: bootstrap resamples of documents behind ``stderr``; it is None for a single
            document.

    Returns:
        ``bits_per_byte``, ``stderr``, ``bytes``, ``documents``, ``tokens``, ``unknown_tokens``,
        ``context``, ``stride``, and ``by_source`` {source: {bits_per_byte, stderr, bytes,
        documents}}.

    Raises:
        InputError: no text, a context that does not fit, a tokenizer with neither BOS nor EOS.
    """
    scores = score_documents(
        model, tokenizer, documents, context, stride=stride, batch_tokens=batch_tokens, dtype=dtype
    )
    return {**report(scores, context, resamples, seed), "stride": stride or context}


def report(scores: Scores, context: int, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """What :func:`bits_per_byte` returns, from scores made with ``context``."""
    by_source = {}
    for source in sorted(set(scores.sources)):
        chosen = np.array([name == source for name in scores.sources])
        by_source[source] = summarise(scores.bits[chosen], scores.bytes[chosen], resamples, seed)
    return {
        **summarise(scores.bits, scores.bytes, resamples, seed),
        "tokens": int(scores.tokens.sum()),
        "unknown_tokens": scores.unknown_tokens,
        "context": context,
        "by_source": by_source,
    }


def interleave(parts: Sequence[Scores]) -> Scores:
    """The scores of a list of documents from those of its parts: part i holds documents i, i + n,
    ..."""
    total = sum(len(part.sources) for part in parts)
    sources = [""] * total
    columns = {name: np.zeros(total, dtype=getattr(parts[0], name).dtype) for name in COLUMNS}
    for number, part in enumerate(parts):
        sources[number :: len(parts)] = part.sources
        for name, column in columns.items():
            column[number :: len(parts)] = getattr(part, name)
    unknown = sum(part.unknown_tokens for part in parts)
    return Scores(**columns, sources=sources, unknown_tokens=unknown)


def score_documents(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[Document],
    context: int = 512,
    *,
    stride: int | None = None,
    batch_tokens: int = 8192,
    dtype: torch.dtype | None = None,
) -> Scores:
    """Bits and bytes of each document; see :func:`bits_per_byte`. Keep these to compare two models
    document by document with :func:`paired_difference`."""
    kept = [document for document in documents if document.text]
    if not kept:
        raise InputError("there is no text to score")
    tokens, counted = tokenize_documents(tokenizer, kept)
    bits = token_bits(
        model, tokenizer, tokens, context, stride=stride, batch_tokens=batch_tokens, dtype=dtype
    )
    unknown = tokenizer.unk_token_id
    for document, row in zip(kept, bits):
        if not np.isfinite(row).all():
            raise WorkError(
                f"the model gives NaN or infinity on a text of {document.source}: its weights are"
                " damaged, or float16 is too small for it (choose bfloat16 or float32)"
            )
    return Scores(
        bits=np.array([float(row[counts].sum()) for row, counts in zip(bits, counted)]),
        bytes=np.array([counted_bytes(document) for document in kept]),
        tokens=np.array([int(counts.sum()) for counts in counted]),
        sources=[document.source for document in kept],
        unknown_tokens=0 if unknown is None else int(sum((ids == unknown).sum() for ids in tokens)),
    )


def token_bits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tokens: Sequence[np.ndarray],
    context: int,
    *,
    stride: int | None = None,
    batch_tokens: int = 8192,
    dtype: torch.dtype | None = None,
) -> list[Float]:
    """Bits of every token of every document (``tokens`` [documents][tokens]), float64; see
    :func:`bits_per_byte`."""
    stride = stride or context
    if not 1 <= stride <= context:
        raise InputError(f"stride {stride} must be 1 to {context} tokens (the context)")
    check_context(model, context)
    check_vocabulary(model, max(int(ids.max(initial=0)) for ids in tokens))
    start = find_start(tokenizer)
    prefix = find_separator(tokenizer) if start is None else start
    windows = [
        window
        for index, ids in enumerate(tokens)
        for window in split_windows(index, ids, prefix, context, stride, start_token=start)
    ]
    bits = [np.zeros(len(ids)) for ids in tokens]
    with scoring(model), progress_bar("bits per byte", sum(map(len, tokens)), "tokens") as bar:
        scorer = Scorer(model, dtype)
        for batch in batches(windows, batch_tokens):
            for window, nats in zip(batch, window_nats(scorer, batch)):
                bits[window.document][window.first : window.first + len(nats)] = nats / np.log(2)
            bar.advance(sum(len(w.targets) for w in batch))
    return bits


def held_out(paths: Sequence[str | Path], per_source: int | None = None) -> list[Document]:
    """The documents of ``paths``, of each file only the first ``per_source`` unless that is
    None."""
    if per_source is not None and per_source < 1:
        raise InputError(f"--documents {per_source} must be 1 or more")
    files = expand(paths) if paths else []
    names = Counter(file.name for file in files)
    found = [
        document if names[file.name] == 1 else replace(document, source=str(file))
        for file in files
        for document in islice(documents([file]), per_source)
    ]
    if files and not found:
        raise InputError(f"there is no text in {', '.join(map(str, files[:3]))}")
    return found


def tokenize_documents(
    tokenizer: PreTrainedTokenizerBase, documents: Sequence[Document]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Token ids of each document, and which of them count, bool: :func:`tokenize` of its text, of
    which all do; but the markers of a conversation are what they are in training, single tokens,
    and what counts in training does (what the assistant says)."""
    plain = iter(tokenize(tokenizer, [one.text for one in documents if not one.taught]))
    ids, counted = [], []
    for document in documents:
        if document.taught:
            pieces = document.pieces()
            rows = tokenizer([text for text, _ in pieces], add_special_tokens=False)["input_ids"]
            ids.append(np.concatenate([np.asarray(row, dtype=np.int64) for row in rows]))
            counted.append(np.repeat([counts for _, counts in pieces], [len(row) for row in rows]))
        else:
            ids.append(next(plain))
            counted.append(np.ones(len(ids[-1]), dtype=bool))
    return ids, counted


def counted_bytes(document: Document) -> int:
    """UTF-8 bytes of what counts of a document."""
    counted = [text for text, counts in document.pieces() if counts]
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in counted)


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[np.ndarray]:
    """Token ids of each text, int64, nothing added and no special token recognised inside the
    text."""
    ids = []
    # blocks: Python lists of a whole corpus would take 36 bytes a token
    for start in range(0, len(texts), 256):
        block = tokenizer(
            list(texts[start : start + 256]),
            add_special_tokens=False,
            split_special_tokens=True,
            verbose=False,
        )
        ids += [np.asarray(row, dtype=np.int64) for row in block["input_ids"]]
    return ids


def split_windows(
    document: int,
    ids: np.ndarray,
    prefix: int,
    context: int,
    stride: int | None = None,
    *,
    full: bool = False,
    start_token: int | None = None,
) -> Iterator[Window]:
    """Windows of at most ``context`` inputs in which every token of ``ids`` is a target exactly
    once.

    ``stride`` None: ``context``. ``full``: the last window is as long as the others.
    ``start_token`` takes the first place of every window: models that were trained with BOS at the
    front of all they read (Gemma) fail without it.
    """
    stride = stride or context
    sequence = np.concatenate([[prefix], ids])
    done = 0  # tokens scored so far
    while done < len(ids):
        end = min(len(ids), done + (stride if done else context))
        start = max(0, end - context if full else done - (context - stride))
        inputs = sequence[start:end]
        if start and start_token is not None:
            inputs = np.concatenate([[start_token], inputs[1:]])
        yield Window(document, done, inputs, ids[done:end])
        done = end


def batches(windows: Sequence[Window], batch_tokens: int) -> Iterator[list[Window]]:
    """Windows of like length together, at most ``batch_tokens`` with padding; the longest first, so
    that a batch that does not fit in memory fails at once."""
    batch: list[Window] = []
    for window in sorted(windows, key=lambda w: -len(w.inputs)):
        if batch and (len(batch) + 1) * len(batch[0].inputs) > batch_tokens:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def window_nats(scorer: Scorer, batch: Sequence[Window]) -> list[Float]:
    """-log p of each window's targets, float64. Padding is on the right, where a causal model
    cannot see it."""
    length = len(batch[0].inputs)
    inputs = np.zeros((len(batch), length), dtype=np.int64)
    scored = np.zeros((len(batch), length), dtype=bool)
    for row, window in enumerate(batch):
        inputs[row, : len(window.inputs)] = window.inputs
        scored[row, len(window.inputs) - len(window.targets) : len(window.inputs)] = True
    features = scorer.features(torch.from_numpy(inputs).to(scorer.device), use_cache=False)
    targets = torch.from_numpy(np.concatenate([window.targets for window in batch])).to(
        scorer.device
    )
    logprob = scorer.score(features[torch.from_numpy(scored).to(scorer.device)], targets).logprob
    return [
        -part.double().cpu().numpy()
        for part in logprob.split([len(window.targets) for window in batch])
    ]


def summarise(
    bits: Float, byte_counts: Float, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Ratio of sums with its bootstrap standard error over documents (None when there is one
    document only)."""
    ratios = _resampled_ratio(bits, byte_counts, resamples, seed) if len(bits) > 1 else None
    return {
        "bits_per_byte": float(bits.sum() / byte_counts.sum()),
        "stderr": None if ratios is None else float(ratios.std(ddof=1)),
        "bytes": int(byte_counts.sum()),
        "documents": len(bits),
    }


def paired_difference(
    ours: Scores, base: Scores, resamples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Bits per byte of ``ours`` minus ``base`` on the same documents, with a 95 % bootstrap
    interval.

    The same documents are drawn for both, so what makes a document hard for every model cancels.
    """
    if not np.array_equal(ours.bytes, base.bytes):
        raise InputError(
            "the two models were scored on different documents: a paired difference needs the same"
            " ones"
        )
    delta = ours.bits - base.bits
    draws = _resampled_ratio(delta, ours.bytes, resamples, seed)
    low, high = np.quantile(draws, [0.025, 0.975])
    return {
        "difference": float(delta.sum() / ours.bytes.sum()),
        "low": float(low),
        "high": float(high),
    }


def _resampled_ratio(numerator: Float, denominator: Float, resamples: int, seed: int) -> Float:
    """Bootstrap draws of sum(numerator) / sum(denominator), documents drawn with replacement."""
    generator = np.random.default_rng(seed)
    count = len(numerator)
    draws = np.empty(resamples)
    for index in range(resamples):
        chosen = generator.integers(count, size=count)
        draws[index] = numerator[chosen].sum() / denominator[chosen].sum()
    return draws
