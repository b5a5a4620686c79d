"""Plan: which shapes fit a parameter budget, and which of them to try first.

The rule. Every candidate gets a cost, the sum of ``weight x ln(value / wish)^2`` over its axes; the
lowest cost is first. A logarithm because halving and doubling should weigh the same; a square
because two moderate departures are better than one extreme one. The weights are judgements;
`docs/architecture.md` holds the measurements behind them.

From scratch the wishes are the paper's (PanGu-pi Pro, arXiv 2402.02791): depth first, 20 layers
(below that quality falls, above it decoding slows), FFN expansion 2.77, one key-value head per
query head, an untied head, embedding and head at most the 18 % of the parameters that its compact
vocabulary left (tied where that cannot be). The same 20 layers are wished for at every budget: the
paper gives 20 at 1B and 22 at 1.5B, too flat a line to extrapolate.

From a teacher the wishes are the teacher's own sizes, because what is cut is lost: hidden width is
by far the dearest axis (every matrix of every layer loses rows or columns), then heads, then
layers, then FFN neurons, the cheapest.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cache
from math import e, inf, log
from pathlib import Path
from typing import Any, Literal

from tinylm.artifact import atomic_file, write_json
from tinylm.errors import InputError
from tinylm.models.cost import costs, describe_bill, training_bill
from tinylm.models.parameters import (
    Family,
    family_of,
    parameters,
    parameters_by_part,
    vocabulary_share,
)
from tinylm.models.shape import Shape, write_shape
from tinylm.terminal import print_table

TOLERANCE = 0.01  # how far from the budget a candidate may be
SCRATCH_WISH = {"layers": 20.0, "expansion": 2.77, "heads_per_group": 1.0, "vocabulary_share": 0.18}
SCRATCH_WEIGHTS = {
    "layers": 4.0,
    "expansion": 1.0,
    "heads_per_group": 0.25,
    "vocabulary_share": 1.0,
    "tied": 0.02,
}
TEACHER_WEIGHTS = {
    "hidden": 16.0,
    "heads": 1.0,
    "kv_heads": 1.0,
    "layers": 1.0,
    "intermediate": 0.5,
}
# the largest that meets the budget; 32 is one block of Q8_0 and Q4_0
FFN_MULTIPLES = (256, 128, 64, 32)


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
        pangu = getattr(self.config, "model_type", "") == "pangu_pi"
        block = (
            {"shortcut_size": self.config.shortcut_size, "series_terms": self.config.series_terms}
            if pangu
            else {}
        )
        return {
            **self.shape.to_dict(),
            "block": "pangu-pi" if pangu else "plain",
            **block,
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
    block: Literal["plain", "pangu-pi"] = "plain",
    limit: int = 20,
) -> list[Candidate]:
    """Candidates within 1 % of ``budget`` parameters, best first (the rule is at the top of this
    module).

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
    config_at = _block_config(block, config)
    if config is None:
        source = None
        shapes: Iterator[Shape] = _from_scratch(
            budget, vocab_size, depths, tie_word_embeddings, config_at
        )
    else:
        source = Shape.from_config(config)
        shapes = _from_teacher(
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


def _block_config(block: str, config: Any) -> Callable[[int], Any]:
    """hidden_size -> the config whose switches the arithmetic reads (a PanGu-pi shortcut grows with
    the width)."""
    if block == "plain":
        return lambda hidden: config
    if block != "pangu-pi":
        raise InputError(f"plan: block {block!r} is not known: use plain or pangu-pi")
    from transformers import LlamaConfig

    from tinylm.models.pangu import pangu_config

    @cache
    def at(hidden: int) -> Any:
        base = copy(config) if config is not None else LlamaConfig()
        base.hidden_size = hidden
        # only the switches matter; any width divides by 1
        base.num_attention_heads = base.num_key_value_heads = 1
        return pangu_config(base)

    return at


def _from_scratch(
    budget: float,
    vocab_size: int,
    depths: Sequence[int] | None,
    tied: bool | None,
    config_at: Callable[[int], Any],
) -> Iterator[Shape]:
    """Square attention (heads x head_dim = hidden), head_dim 128 from width 1024 on and 64 below,
    Llama block."""
    for layers in depths or range(4, 49):
        for hidden in _widths(16384):
            head_dim = 128 if hidden >= 1024 else 64
            heads = hidden // head_dim
            for per_group in (g for g in (1, 2, 3, 4) if heads % g == 0):
                for tie in (True, False) if tied is None else (tied,):
                    frame = (layers, hidden, heads, heads // per_group, head_dim, vocab_size, tie)
                    shape = _fit_ffn(frame, budget, largest=8 * hidden, config=config_at(hidden))
                    if shape.intermediate_size >= hidden:
                        yield shape


def _from_teacher(
    budget: float,
    vocab_size: int,
    teacher: Shape,
    config: Any,
    depths: Sequence[int] | None,
    tied: bool | None,
    config_at: Callable[[int], Any],
) -> Iterator[Shape]:
    """All cuts of ``teacher`` that meet the budget."""
    if vocab_size > teacher.vocab_size:
        raise InputError(
            f"plan: vocabulary {vocab_size} is larger than the teacher's {teacher.vocab_size}"
        )
    for layers in depths or range(1, teacher.num_layers + 1):
        if layers > teacher.num_layers:
            raise InputError(
                f"plan: depth {layers} is more than the teacher's {teacher.num_layers} layers"
            )
        for hidden in {*_widths(teacher.hidden_size), teacher.hidden_size}:
            for heads, kv_heads in _head_cuts(teacher, hidden, family_of(config)):
                tie = teacher.tie_word_embeddings if tied is None else tied
                frame = (layers, hidden, heads, kv_heads, teacher.head_dim, vocab_size, tie)
                yield _fit_ffn(
                    frame, budget, largest=teacher.intermediate_size, config=config_at(hidden)
                )


def _widths(largest: int) -> Iterator[int]:
    """Hidden sizes that matrix units like: multiples of 64 below 1024, of 128 below 4096, of 256
    above."""
    width = 64
    while width <= largest:
        yield width
        width += 64 if width < 1024 else 128 if width < 4096 else 256


def _head_cuts(teacher: Shape, hidden: int, family: Family) -> Iterator[tuple[int, int]]:
    """(query heads, key-value heads): groups are dropped whole, and every group loses equally many
    query heads."""
    for kv_heads in range(1, teacher.num_key_value_heads + 1):
        for per_group in range(1, teacher.heads_per_group + 1):
            heads = kv_heads * per_group
            if hidden % heads == 0 or not family.divisible_width:
                yield heads, kv_heads


def _fit_ffn(frame: tuple, budget: float, largest: int, config: Any) -> Shape:
    """The rest of the shape (``frame``) with the FFN size that comes closest to the budget.

    Of the sizes within 1 % of the budget the one that is a multiple of the largest power of two.
    """
    layers, hidden, heads, kv_heads, head_dim, vocab_size, tie = frame

    def shape(intermediate: int) -> Shape:
        return Shape(layers, hidden, intermediate, heads, kv_heads, head_dim, vocab_size, tie)

    without_ffn = parameters(shape(1), config)
    per_neuron = parameters(shape(2), config) - without_ffn
    wanted = (budget - without_ffn) / per_neuron + 1
    for multiple in FFN_MULTIPLES:
        intermediate = max(min(round(wanted / multiple) * multiple, largest), min(32, largest))
        if abs((intermediate - wanted) * per_neuron) <= TOLERANCE * budget:
            break
    return shape(intermediate)


def _candidate(shape: Shape, teacher: Shape | None, config: Any) -> Candidate:
    terms = _scratch_terms(shape) if teacher is None else _teacher_terms(shape, teacher)
    cost = sum(weight * log(ratio) ** 2 for _, weight, ratio in terms)
    why = "; ".join(text for text, _, _ in terms)
    parts = parameters_by_part(shape, config)
    return Candidate(shape, sum(parts.values()), round(cost, 4), why, parts, config)


def _scratch_terms(shape: Shape) -> list[tuple[str, float, float]]:
    """(explanation, weight, value / wish) for each wish of a model trained from scratch."""
    wish, weight = SCRATCH_WISH, SCRATCH_WEIGHTS
    share, expansion = vocabulary_share(shape), shape.intermediate_size / shape.hidden_size
    return [
        (
            f"{shape.num_layers} layers (wish 20)",
            weight["layers"],
            shape.num_layers / wish["layers"],
        ),
        (
            f"expansion {expansion:.2f} (wish 2.77)",
            weight["expansion"],
            expansion / wish["expansion"],
        ),
        (
            f"{shape.heads_per_group} query heads per key-value head (wish 1)",
            weight["heads_per_group"],
            shape.heads_per_group / wish["heads_per_group"],
        ),
        (
            f"vocabulary holds {share:.1%} of the parameters (wish at most 18 %)",
            weight["vocabulary_share"],
            max(1.0, share / wish["vocabulary_share"]),
        ),
        (
            "tied" if shape.tie_word_embeddings else "untied",
            weight["tied"],
            e if shape.tie_word_embeddings else 1.0,
        ),
    ]


def _teacher_terms(shape: Shape, teacher: Shape) -> list[tuple[str, float, float]]:
    """(explanation, weight, value / teacher's) for each axis of a cut."""
    axes = {
        "hidden": (teacher.hidden_size, shape.hidden_size),
        "heads": (teacher.num_attention_heads, shape.num_attention_heads),
        "kv_heads": (teacher.num_key_value_heads, shape.num_key_value_heads),
        "layers": (teacher.num_layers, shape.num_layers),
        "intermediate": (teacher.intermediate_size, shape.intermediate_size),
    }
    return [
        (
            f"{name} {old} kept" if new == old else f"{name} {old} -> {new}",
            TEACHER_WEIGHTS[name],
            new / old,
        )
        for name, (old, new) in axes.items()
    ]


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
