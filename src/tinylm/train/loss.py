"""Next-token loss and distillation in chunks: the logits of the whole batch never stand in memory.

With 4096 positions and a vocabulary of 48k the logits alone would be 0.8 GB in float32, and as much
again for their gradient. Here one chunk of positions is projected, turned into its loss and its
gradient, and dropped. Gradients are made in the forward pass (as in Liger and Cut Cross-Entropy),
so backward only scales them.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

IGNORE = -100  # a target that counts for nothing


@dataclass(frozen=True)
class Head:
    """The output projection of a causal model: logits = scale * hidden @ weight.T, and cap *
    tanh(that / cap) where there is a cap (Gemma 2)."""

    weight: nn.Parameter
    scale: float = 1.0
    cap: float = 0.0

    def logits(self, hidden: Tensor) -> Tensor:
        logits = (
            (hidden @ self.weight.T).mul_(self.scale) if self.scale != 1 else hidden @ self.weight.T
        )
        return logits.div_(self.cap).tanh_().mul_(self.cap) if self.cap else logits


class LogitRule(NamedTuple):
    """What becomes of logits on their way to the loss."""

    scale: float  # see Head
    cap: float
    z_loss: float  # weight of log(Z)^2


@dataclass(frozen=True)
class TeacherTargets:
    """The teacher's word on n positions: its last hidden states and head (live), or its k best
    tokens (stored)."""

    weight: float  # share of the teacher in the loss; next-token loss has the rest
    temperature: float = 1.0
    hidden: Tensor | None = None  # [n, the teacher's hidden size]
    head: Head | None = None
    top_log_probs: Tensor | None = None  # [n, k]
    top_ids: Tensor | None = None  # int64[n, k]

    def chunk_arguments(self, part: slice) -> dict[str, Any]:
        """Arguments of :func:`loss_and_gradient` for a chunk."""
        if self.hidden is not None and self.head is not None:
            answer: dict[str, Any] = {"teacher_logits": self.head.logits(self.hidden[part])}
        else:
            assert self.top_log_probs is not None and self.top_ids is not None
            answer = {"top_log_probs": self.top_log_probs[part], "top_ids": self.top_ids[part]}
        return answer | {"weight": self.weight, "temperature": self.temperature}


def chunked_loss(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    *,
    teacher: TeacherTargets | None = None,
    z_loss: float = 0.0,
    chunk: int = 1024,
    compiled: bool = False,
) -> tuple[Tensor, Tensor]:
    """(mean training loss, plain next-token nats of every position) without ever holding all
    logits.

    Args:
        hidden: last hidden states [n, d], after the final norm.
        targets: next tokens int64[n]; ``IGNORE`` where there is none.
        z_loss: weight of log(Z)^2, which keeps logits small.
        chunk: positions projected at once.
        compiled: fuse what is done to a chunk's logits; three times as fast on a CPU, seconds to
            compile.
    """
    rule = LogitRule(head.scale, head.cap, z_loss)
    return _ChunkedLoss.apply(hidden, head.weight, targets, rule, teacher, chunk, compiled)


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        rule: LogitRule,
        teacher: TeacherTargets | None,
        chunk: int,
        compiled: bool,
    ) -> tuple[Tensor, Tensor]:
        differentiate = _compiled() if compiled else loss_and_gradient
        needed = ctx.needs_input_grad[0]
        counted = targets != IGNORE
        share = counted / counted.sum().clamp(min=1)
        nats = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        losses = torch.empty_like(nats)
        hidden_gradient = torch.empty_like(hidden) if needed else hidden
        weight_gradient = (
            torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
            if needed
            else weight
        )
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            logits = hidden[part] @ weight.T
            word = teacher.chunk_arguments(part) if teacher is not None else {}
            gradient, losses[part], nats[part] = differentiate(
                logits,
                targets[part].clamp(min=0),
                share[part],
                rule,
                **word,
            )
            if needed:
                hidden_gradient[part] = gradient @ weight
                weight_gradient += gradient.T @ hidden[part]
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.mark_non_differentiable(nats)
        return (losses * share).sum(), nats.masked_fill_(~counted, 0.0)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        loss_gradient = upstream[0]
        return (
            hidden_gradient * loss_gradient.to(hidden_gradient.dtype),
            (weight_gradient * loss_gradient).to(hidden_gradient.dtype),
            *[None] * 5,
        )


def loss_and_gradient(
    logits: Tensor,
    targets: Tensor,
    share: Tensor,
    rule: LogitRule,
    *,
    weight: float = 0.0,
    temperature: float = 1.0,
    teacher_logits: Tensor | None = None,
    top_log_probs: Tensor | None = None,
    top_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """For one chunk of c positions: (d loss / d logits [c, V], loss that is trained [c], next-token
    nats [c]).

    Args:
        logits: [c, V] before scale and cap, see :class:`Head`.
        share: what each position counts in the mean, [c]; the gradient includes it.
        weight, temperature: of the teacher's part, weight * T^2 * KL(teacher || student) at
            temperature T.
    """
    scale, cap, z_loss = rule
    scores, targets, share = (
        logits.float() * scale,
        targets.unsqueeze(1),
        share.unsqueeze(1) * scale,
    )
    slope = None
    if cap:
        bent = torch.tanh(scores / cap)
        scores, slope = cap * bent, 1 - bent**2
    log_z = scores.logsumexp(dim=1, keepdim=True)
    nats = log_z - scores.gather(1, targets)
    probabilities = torch.exp(scores - log_z)
    loss = nats * (1 - weight) + z_loss * log_z**2
    own = 1 - weight + 2 * z_loss * log_z  # what is not the teacher's part counts so
    # at the target p - 1, in float32: near p = 1 the difference of two bfloat16 numbers is rounding
    gradient, at_target = probabilities * own, torch.exp(-nats) * own + (weight - 1)
    if teacher_logits is not None:
        student = torch.log_softmax(scores / temperature, dim=1)
        wanted = torch.log_softmax(teacher_logits.float() / temperature, dim=1)
        loss = loss + weight * temperature**2 * (wanted.exp() * (wanted - student)).sum(
            1, keepdim=True
        )
        apart = weight * temperature * (student.exp() - wanted.exp())
        gradient, at_target = gradient + apart, at_target + apart.gather(1, targets)
    elif top_ids is not None and top_log_probs is not None:
        # KL over the k tokens and one bucket for all others: sum q log(q / p) + r log(r / p_rest).
        # Its gradient is p - q at a token of the k, and p - r * p / p_rest = p * (1 - r / p_rest)
        # at any other.
        student, wanted = (scores - log_z).gather(1, top_ids), top_log_probs.float()
        rest = (1 - wanted.exp().sum(1, keepdim=True)).clamp(min=1e-6)
        student_rest = (1 - student.exp().sum(1, keepdim=True)).clamp(min=1e-6)
        bucket = rest * (rest.log() - student_rest.log())
        loss = loss + weight * ((wanted.exp() * (wanted - student)).sum(1, keepdim=True) + bucket)
        outside = probabilities * (1 - rest / student_rest)
        apart = weight * outside.scatter(1, top_ids, student.exp() - wanted.exp())
        gradient, at_target = gradient + apart, at_target + apart.gather(1, targets)
    gradient, at_target = gradient * share, at_target * share
    if slope is not None:
        gradient, at_target = gradient * slope, at_target * slope.gather(1, targets)
    gradient = gradient.to(logits.dtype)
    gradient.scatter_(1, targets, at_target.to(logits.dtype))
    return gradient, loss.squeeze(1), nats.squeeze(1)


@functools.cache
def _compiled() -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    return torch.compile(loss_and_gradient, dynamic=False)
