"""From scores to the units that stay: the best of each axis, heads by whole key-value groups."""

import torch
from torch import Tensor

from tinylm.inherit.cut import Kept, check_target
from tinylm.inherit.scores import Scores
from tinylm.models.shape import Shape


def select(scores: Scores, teacher: Shape, target: Shape, vocab: Tensor | None = None) -> Kept:
    """The highest-scored units that fill ``target`` exactly. ``vocab`` int64 [target.vocab_size]:
    teacher ids kept."""
    check_target(teacher, target, vocab)
    layers = best(scores.layers, target.num_layers).tolist()
    heads = [best_heads(scores.q_heads[layer], teacher, target) for layer in layers]
    return Kept(
        layers=layers,
        hidden=best(scores.hidden, target.hidden_size),
        ffn=[best(scores.ffn[layer], target.intermediate_size) for layer in layers],
        q_heads=[q_heads for q_heads, _ in heads],
        kv_heads=[kv_heads for _, kv_heads in heads],
        vocab=vocab,
    )


def best(scores: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` highest scores, ascending; of equal scores the lower index stays.
    int64 [count]."""
    return torch.sort(torch.argsort(scores, descending=True, stable=True)[:count]).values


def best_heads(scores: Tensor, teacher: Shape, target: Shape) -> tuple[Tensor, Tensor]:
    """Query heads and key-value heads of one layer that stay.

    ``scores`` float [num_attention_heads] of the query heads. A group of query heads shares one
    key-value head: in each group the best heads_per_group stay, and of the groups those whose best
    heads are worth most together.
    """
    by_group = scores.view(teacher.num_key_value_heads, teacher.heads_per_group)
    groups = best(
        by_group.topk(target.heads_per_group, dim=1).values.sum(1), target.num_key_value_heads
    )
    size = target.heads_per_group
    heads = [
        group * teacher.heads_per_group + best(by_group[group], size) for group in groups.tolist()
    ]
    return torch.cat(heads), groups
