"""Plan: which shapes fit a parameter budget, and which of them to try first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf, log
from pathlib import Path
from typing import Any

from tinylm.architecture.rule import (
    SCRATCH_WEIGHTS,
    SCRATCH_WISH,
    TEACHER_WEIGHTS,
    scratch_terms,
    teacher_terms,
)
from tinylm.architecture.shapes import TOLERANCE, block_config, from_scratch, from_teacher
from tinylm.artifact import atomic_file, write_json
from tinylm.errors import InputError
from tinylm.models.block import Block, facts
from tinylm.models.cost import costs, describe_bill, training_bill
from tinylm.models.parameters import parameters, parameters_by_part
from tinylm.models.shape import Shape, write_shape
from tinylm.terminal import print_table


@dataclass(frozen=True)
class Candidate:
    """One shape within the budget. ``cost``: 0 is the wish itself; ``why`` gives each axis beside
    its wish."""

    shape: Shape
    parameters: int
    cost: float
    why: str
    parts: dict[str, int]
    config: Any = field(default=None, repr=False, compare=False)  # of the family; None: plain Llama

    def to_dict(self) -> dict[str, Any]:
        """The contract's keys, the parts, and all costs of :mod:`tinylm.models.cost`."""
        return {
            **self.shape.to_dict(),
            **facts(self.config),
            "parameters": self.parameters,
            "parts": self.parts,
            "vocabulary_share": (self.parts["embedding"] + self.parts["head"]) / self.parameters,
            "cost": self.cost,
            "why": self.why,
            **costs(self.shape, config=self.config),
        }


def plan(
    budget: float,
    vocab_size: int,
    teacher: Any = None,
    depths: Sequence[int] | None = None,
    *,
    tie_word_embeddings: bool | None = None,
    block: Block = "plain",
    limit: int = 20,
) -> list[Candidate]:
    """Candidates within 1 % of ``budget`` parameters, best first by ``architecture/rule.py``.

    Args:
        budget: all parameters, embedding included.
        vocab_size: rows of the embedding.
        teacher: a `transformers` config, a directory, a .gguf file, a hub id or ``smollm2-135m``;
            then every candidate can be cut from it: no axis is larger, head_dim and tying are the
            same, and a key-value group keeps at most as many query heads.
        depths: only these numbers of layers, and the best candidate of each.
        tie_word_embeddings: only tied or only untied shapes; by default both (from a teacher: as
            the teacher).
        block: ``pangu-pi`` counts the series activation and the augmented shortcuts in, so that the
            shapes found are parameter-matched to plain ones; a teacher must then be a Llama, on
            whose cut the block is grafted.
        limit: at most so many candidates.

    Raises:
        InputError: nothing fits; the message names the nearest reachable size.
    """
    if not 1 <= budget < inf or min(vocab_size, limit) < 1:
        raise InputError(
            f"plan: budget {budget}, vocabulary size {vocab_size} and limit {limit} must be"
            " positive"
        )
    config = None if teacher is None else _config_of(teacher)
    config_at = block_config(block, config)
    if config is None:
        source = None
        shapes: Iterator[Shape] = from_scratch(
            budget, vocab_size, depths, tie_word_embeddings, config_at
        )
    else:
        source = Shape.from_config(config)
        shapes = from_teacher(
            budget, vocab_size, source, config, depths, tie_word_embeddings, config_at
        )
    sized = [(shape, parameters(shape, config_at(shape.hidden_size))) for shape in shapes]
    fitting = [shape for shape, size in sized if abs(size - budget) <= TOLERANCE * budget]
    if not fitting:
        nearest = min((size for _, size in sized), key=lambda size: abs(size - budget), default=0)
        raise InputError(
            _nothing_fits(
                budget,
                vocab_size,
                nearest,
                depths,
                "no cut of the teacher" if source else "no shape",
            )
        )
    candidates = [_candidate(shape, source, config_at(shape.hidden_size)) for shape in fitting]
    candidates.sort(key=lambda c: (c.cost, c.shape.num_layers, c.shape.hidden_size))
    if depths is not None:
        best = {c.shape.num_layers: c for c in reversed(candidates)}
        return [c for c in candidates if best[c.shape.num_layers] is c][:limit]
    return candidates[:limit]


def write_plan(
    candidates: Sequence[Candidate],
    out: Path,
    request: dict[str, Any],
    measured: Sequence[dict[str, Any]] = (),
) -> None:
    """Write plan.json ({"request", "rule", "candidates"}, best first) and SHAPE.toml (the best one)
    into ``out``.

    ``measured`` holds further keys for each candidate ({"speed": ..., "quality": ...}).
    """
    rule = (
        {"weights": TEACHER_WEIGHTS}
        if request.get("teacher")
        else {"wish": SCRATCH_WISH, "weights": SCRATCH_WEIGHTS}
    )
    extra = measured or [{}] * len(candidates)
    values = [
        {**candidate.to_dict(), **more} for candidate, more in zip(candidates, extra, strict=True)
    ]
    with atomic_file(out / "SHAPE.toml") as scratch:
        write_shape(scratch, candidates[0].shape, values[0]["block"])
    write_json(out / "plan.json", {"request": request, "rule": rule, "candidates": values})


def parse_numbers(name: str, text: str | None) -> list[int] | None:
    """``"15,20,25"`` -> [15, 20, 25]; ``name`` is the option's, for the message."""
    if text is None:
        return None
    try:
        numbers = sorted({int(word) for word in text.split(",")})
    except ValueError as error:
        raise InputError(
            f"{name} {text!r}: give whole numbers with commas between them, e.g. 15,20,25"
        ) from error
    if numbers[0] < 1:
        raise InputError(f"{name} {text!r}: every number must be 1 or more")
    return numbers


def print_plan(candidates: Sequence[Candidate]) -> None:
    """The table a person reads, and why the first row is first."""
    rows = []
    for c in candidates:
        s = c.shape
        heads = f"{s.num_attention_heads}/{s.num_key_value_heads}x{s.head_dim}"
        share = f"{(c.parts['embedding'] + c.parts['head']) / c.parameters:.1%}"
        size = f"{c.parameters / 1e6:,.1f}M"
        rows.append(
            (s.num_layers, s.hidden_size, s.intermediate_size, heads, size, share, f"{c.cost:.3f}")
        )
    columns = ("layers", "hidden", "FFN", "heads", "parameters", "vocabulary", "cost")
    print_table("Plan, best first", columns, rows)
    print(f"Best: {candidates[0].why}.")


def print_bill(
    candidate: Candidate, tokens: float, peak_flops: float, mfu: float, context: int = 2048
) -> None:
    """What training ``candidate`` would cost, before anything starts."""
    if not (tokens > 0 and peak_flops > 0 and 0 < mfu <= 1):
        raise InputError(
            f"bill: {tokens} tokens, {peak_flops} FLOP/s and mfu {mfu} must be positive, mfu at"
            " most 1"
        )
    bill = training_bill(candidate.shape, tokens, context, peak_flops, mfu, candidate.config)
    print(f"Cost of the best: {describe_bill(bill)}, sequences of {context}.")


def _config_of(teacher: Any) -> Any:
    if not isinstance(teacher, str | Path):
        return teacher.get_text_config()
    from tinylm.models.teacher import load_config

    return load_config(teacher).get_text_config()


def _candidate(shape: Shape, teacher: Shape | None, config: Any) -> Candidate:
    terms = scratch_terms(shape) if teacher is None else teacher_terms(shape, teacher)
    cost = sum(weight * log(ratio) ** 2 for _, weight, ratio in terms)
    why = "; ".join(text for text, _, _ in terms)
    parts = parameters_by_part(shape, config)
    return Candidate(shape, sum(parts.values()), round(cost, 4), why, parts, config)


def _nothing_fits(
    budget: float, vocab_size: int, nearest: int, depths: Sequence[int] | None, what: str
) -> str:
    at = f" with {', '.join(map(str, depths))} layers" if depths else ""
    if not nearest:
        return (
            f"{what} has {budget / 1e6:.4g} million parameters{at} and vocabulary {vocab_size}:"
            " take a larger budget or a smaller vocabulary"
        )
    return (
        f"{what} has {budget / 1e6:.4g} million parameters{at} and vocabulary {vocab_size}: the"
        f" nearest has {nearest / 1e6:.4g} million; take that budget or another vocabulary"
    )
