"""The rule that orders a plan: a cost for every shape, 0 where it is all that one could wish.

The cost is the sum of ``weight x ln(value / wish)^2`` over the axes. A logarithm because halving
and doubling should weigh the same; a square because two moderate departures are better than one
extreme one. The weights are judgements; `docs/architecture.md` holds the measurements behind them.

From scratch the wishes are the paper's (PanGu-pi Pro, arXiv 2402.02791): depth first, 20 layers
(below that quality falls, above it decoding slows), FFN expansion 2.77, one key-value head per
query head, an untied head, embedding and head at most the 18 % of the parameters that its compact
vocabulary left (tied where that cannot be). The same 20 layers are wished for at every budget: the
paper gives 20 at 1B and 22 at 1.5B, too flat a line to extrapolate.

From a teacher the wishes are the teacher's own sizes, because what is cut is lost: hidden width is
by far the dearest axis (every matrix of every layer loses rows or columns), then heads, then
layers, then FFN neurons, the cheapest.
"""

from math import e

from tinylm.models.parameters import vocabulary_share
from tinylm.models.shape import Shape

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


def scratch_terms(shape: Shape) -> list[tuple[str, float, float]]:
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


def teacher_terms(shape: Shape, teacher: Shape) -> list[tuple[str, float, float]]:
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
