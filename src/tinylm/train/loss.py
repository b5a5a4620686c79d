"""Next-token loss and distillation in chunks: the logits of the whole batch never stand in memory.

With 4096 positions and a vocabulary of 48k the logits alone would be 0.8 GB in float32, and as much again for their
gradient. Here one chunk of positions is projected, turned into its loss and its gradient, and dropped. Gradients are
made in the forward pass (as in Liger and Cut Cross-Entropy), so backward only scales them.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

IGNORE = -100  # a target that counts for nothing


@dataclass(frozen=True)
class Target:
    """What the student should predict, for n positions of hidden size d.

    ``tokens`` int64[n] are the next tokens. A teacher is given either by its last hidden states and output matrix
    (live), or by its k largest log-probabilities and their token ids (stored).
    """

    tokens: Tensor
    weight: float = 0.0  # share of the teacher
    temperature: float = 1.0
    teacher_hidden: Tensor | None = None  # [n, teacher's hidden]
    teacher_head: "Head | None" = None
    top_log_probs: Tensor | None = None  # float[n, k]
    top_ids: Tensor | None = None  # int64[n, k]


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, target: Target, z_loss: float, chunk: int, scale: float) -> Any:
        needs_gradient = hidden.requires_grad or head.requires_grad
        hidden_gradient = torch.empty_like(hidden) if needs_gradient else None
        head_gradient = torch.zeros(head.shape, dtype=torch.float32, device=head.device) if needs_gradient else None
        nats = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        counted = target.tokens != IGNORE
        share = 1.0 / counted.sum().clamp(min=1)
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            logits = (hidden[part] @ head.T).float().mul_(scale)
            gradient, loss, nats[part] = _loss_and_gradient(logits, target, part, z_loss)
            keep = counted[part]
            total += torch.where(keep, loss, 0.0).sum() * share
            if hidden_gradient is not None and head_gradient is not None:
                gradient *= (keep * share * scale).unsqueeze(1)
                gradient = gradient.to(hidden.dtype)
                torch.mm(gradient, head, out=hidden_gradient[part])
                head_gradient += gradient.T @ hidden[part]
        nats.masked_fill_(~counted, 0.0)
        if needs_gradient:
            ctx.save_for_backward(hidden_gradient, head_gradient)
            ctx.head_dtype = head.dtype
        ctx.mark_non_differentiable(nats)
        return total, nats

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        hidden_gradient, head_gradient = ctx.saved_tensors
        upstream = gradients[0]
        return (
            hidden_gradient * upstream.to(hidden_gradient.dtype),
            (head_gradient * upstream).to(ctx.head_dtype),
            None,
            None,
            None,
            None,
        )


def _loss_and_gradient(logits: Tensor, target: Target, part: slice, z_loss: float) -> tuple[Tensor, Tensor, Tensor]:
    """For one chunk [c, V]: d loss / d logits, the loss that is trained, and the plain next-token nats."""
    tokens = target.tokens[part].clamp(min=0).unsqueeze(1)
    log_z = logits.logsumexp(dim=1, keepdim=True)
    nats = (log_z - logits.gather(1, tokens)).squeeze(1)
    loss = nats * (1 - target.weight)
    probabilities = torch.exp(logits - log_z)
    gradient = probabilities * (1 - target.weight) if target.weight else probabilities
    gradient.scatter_add_(1, tokens, torch.full_like(log_z, target.weight - 1))
    if z_loss:
        loss = loss + z_loss * log_z.squeeze(1) ** 2
        gradient = gradient + torch.exp(logits - log_z) * (2 * z_loss * log_z)
    if target.weight and target.teacher_hidden is not None and target.teacher_head is not None:
        teacher_logits = (
            (target.teacher_hidden[part] @ target.teacher_head.weight.T).float().mul_(target.teacher_head.scale)
        )
        divergence = _divergence(logits, teacher_logits, target, gradient)
        loss = loss + divergence
    elif target.weight and target.top_ids is not None:
        loss = loss + _top_k_divergence(logits, log_z, target, part, gradient)
    return gradient, loss, nats


def _divergence(logits: Tensor, teacher_logits: Tensor, target: Target, gradient: Tensor) -> Tensor:
    """weight * T^2 * KL(teacher || student) at temperature T, [c]; its gradient is added to ``gradient``."""
    temperature = target.temperature
    student = torch.log_softmax(logits / temperature, dim=1)
    teacher = torch.log_softmax(teacher_logits / temperature, dim=1)
    teacher_probabilities = teacher.exp()
    divergence = (teacher_probabilities * (teacher - student)).sum(1) * (target.weight * temperature**2)
    gradient += (student.exp() - teacher_probabilities).mul_(target.weight * temperature)
    return divergence


def _top_k_divergence(logits: Tensor, log_z: Tensor, target: Target, part: slice, gradient: Tensor) -> Tensor:
    """weight * KL over k tokens and one bucket for all others, [c]; its gradient is added to ``gradient``.

    With q the teacher's k probabilities and r = 1 - sum q the rest: KL = sum q log(q / p) + r log(r / p_rest).
    The gradient at a token of the k is p - q; at another token p - r * p / p_rest.
    """
    assert target.top_ids is not None and target.top_log_probs is not None
    ids, teacher = target.top_ids[part], target.top_log_probs[part].float()
    student = (logits - log_z).gather(1, ids)
    q = teacher.exp()
    rest = (1 - q.sum(1, keepdim=True)).clamp(min=1e-6)
    student_rest = (1 - student.exp().sum(1, keepdim=True)).clamp(min=1e-6)
    divergence = (q * (teacher - student)).sum(1) + (rest * (rest.log() - student_rest.log())).squeeze(1)
    probabilities = torch.exp(logits - log_z)
    change = probabilities * (1 - rest / student_rest)
    change.scatter_(1, ids, student.exp() - q)
    gradient += change.mul_(target.weight)
    return divergence * target.weight


@dataclass(frozen=True)
class Head:
    """The output projection of a causal model: logits = scale * hidden @ weight.T."""

    weight: nn.Parameter
    scale: float = 1.0


def chunked_loss(
    hidden: Tensor, head: Head, target: Target, *, z_loss: float = 0.0, chunk: int = 512
) -> tuple[Tensor, Tensor]:
    """(mean training loss, plain next-token nats of every position) without ever holding all logits.

    Args:
        hidden: last hidden states [n, d], after the final norm.
        target: next tokens (``IGNORE`` for none) and, optionally, the teacher.
        z_loss: weight of log(Z)^2.
        chunk: positions projected at once.
    """
    return _ChunkedLoss.apply(hidden, head.weight, target, z_loss, chunk, head.scale)
