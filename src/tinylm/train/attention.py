"""Causal attention for training on a CPU in bfloat16: plain matrix products over blocks of queries.

PyTorch's fused attention is good forwards on a CPU, but its backward pass took a third of a
training step here. Blocks of queries against all keys they may see keep the work in matrix
products, which AMX and AVX512-BF16 do well, skip most of what the causal mask hides, and keep
scores in the cache. Query heads that share a key head are stacked as rows, so keys are never
repeated.
"""

from typing import Any

import torch
from torch import Tensor

BLOCK = 128  # queries at a time
# Scores at a time: 2 MB of bfloat16 stay in a core's cache (docs/decisions/train.md).
SCORES = 2**20
NAME = "tinylm_blocked"


def use_blocked_attention(model: Any) -> None:
    """Let a `transformers` model use it wherever plain causal attention is asked for; other cases
    stay with SDPA."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    plain = attention_mask is None and not options.get("dropout") and query.shape[2] == key.shape[2]
    if not plain or query.shape[-1] != value.shape[-1] or options.get("sliding_window"):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    out, _ = blocked_attention(query * scale, key.contiguous(), value.contiguous())
    return out.transpose(1, 2), None


@torch.library.custom_op("tinylm::blocked_attention", mutates_args=())
def blocked_attention(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Causal attention of scaled queries [B, H, T, D] on keys and values [B, K, T, D], K a divisor
    of H.

    Returns the mix [B, H, T, D] and, for the backward pass, each block's probabilities [B * K, H /
    K * block, keys].
    """
    batch, heads, length, width = query.shape
    groups = heads // key.shape[1]
    q, k, v = (
        query.reshape(-1, groups, length, width),
        key.view(-1, length, width),
        value.view(-1, length, width),
    )
    # not empty_like: a view of one group would pass its strides on
    out, kept = q.new_empty(q.shape), []
    # added, not filled in: that takes as long as the softmax
    future = q.new_full((BLOCK, BLOCK), float("-inf")).triu(1)
    for part, start, end in _pieces(*q.shape[:3]):
        rows = end - start
        scores = torch.bmm(_rows(q[part], start, end), k[part, :end].transpose(1, 2))
        # the only part where a key may lie in the future
        scores.view(-1, groups, rows, end)[..., start:].add_(future[:rows, :rows])
        probabilities = torch.softmax(scores, dim=-1)
        mixed = torch.bmm(probabilities, v[part, :end])
        out[part, :, start:end] = mixed.view(-1, groups, rows, width)
        kept.append(probabilities)
    return out.view(batch, heads, length, width), kept


@torch.library.custom_op("tinylm::blocked_attention_backward", mutates_args=())
def _backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, kept: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    _, heads, length, width = query.shape
    groups = heads // key.shape[1]
    q, g = query.reshape(-1, groups, length, width), gradient.reshape(-1, groups, length, width)
    k, v = key.view(-1, length, width), value.view(-1, length, width)
    query_gradient, key_gradient, value_gradient = (
        q.new_empty(q.shape),
        torch.zeros_like(k),
        torch.zeros_like(v),
    )
    for (part, start, end), probabilities in zip(_pieces(*q.shape[:3]), kept, strict=True):
        q_rows, g_rows = _rows(q[part], start, end), _rows(g[part], start, end)
        # add_, not +=, which copies the sum onto itself once more
        value_gradient[part, :end].add_(torch.bmm(probabilities.transpose(1, 2), g_rows))
        towards = torch.bmm(g_rows, v[part, :end].transpose(1, 2))
        score_gradient = torch._softmax_backward_data(
            towards, probabilities, -1, probabilities.dtype
        )
        key_gradient[part, :end].add_(torch.bmm(score_gradient.transpose(1, 2), q_rows))
        query_gradient[part, :, start:end] = torch.bmm(score_gradient, k[part, :end]).view(
            -1, groups, end - start, width
        )
    return query_gradient.view_as(query), key_gradient.view_as(key), value_gradient.view_as(value)


def _pieces(groups: int, heads: int, length: int) -> list[tuple[slice, int, int]]:
    """(groups of heads, first query, end) of what is done at a time; ``heads``: of a group."""
    step = max(1, SCORES // (heads * min(BLOCK, length) * length))
    return [
        (slice(first, min(first + step, groups)), start, min(start + BLOCK, length))
        for first in range(0, groups, step)
        for start in range(0, length, BLOCK)
    ]


def _rows(x: Tensor, start: int, end: int) -> Tensor:
    """Rows start:end of every query head in a group, stacked: [groups of heads, heads in it * rows,
    width]."""
    return x[:, :, start:end].reshape(x.shape[0], -1, x.shape[-1])


@blocked_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, list[Tensor]]:
    groups = query.shape[0] * key.shape[1]
    stacked = query.shape[1] // key.shape[1]
    kept = [
        query.new_empty(part.stop - part.start, stacked * (end - start), end)
        for part, start, end in _pieces(groups, stacked, query.shape[2])
    ]
    return query.new_empty(query.shape), kept


@_backward.register_fake
def _(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, kept: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _remember(
    ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, list[Tensor]]
) -> None:
    ctx.save_for_backward(*inputs, *output[1])


def _differentiate(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value, *kept = ctx.saved_tensors
    return _backward(gradient.contiguous(), query, key, value, kept)


blocked_attention.register_autograd(_differentiate, setup_context=_remember)
