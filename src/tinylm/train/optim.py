"""Weights kept in float32, the optimiser's groups, and the learning-rate schedule."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tinylm.train.batches import Plan
from tinylm.train.config import TrainConfig
from tinylm.train.parallel import whole


class MasterWeights:
    """Float32 weights that the optimiser moves, behind a model that computes in ``dtype``.

    Adding a small update to a bfloat16 weight rounds it away (8 bits of mantissa); adding it to a
    float32 copy does not. Where the model computes in float32 the weights are the model's own.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.names, self.model_weights = zip(*unique_parameters(model), strict=True)
        self.weights: list[nn.Parameter] = [
            weight if dtype == torch.float32 else nn.Parameter(weight.detach().clone())
            for weight in self.model_weights
        ]
        for weight in self.model_weights:
            weight.data = weight.data.to(dtype)
        frozen = {
            name: weight for name, weight in model.named_parameters() if not weight.requires_grad
        }
        self.frozen = {name: weight.data for name, weight in frozen.items()}  # as they came
        for weight in frozen.values():
            weight.data = weight.data.to(dtype)
        self._frozen = [(weight, self.frozen[name]) for name, weight in frozen.items()]
        self._copied = [
            (weight, master)
            for weight, master in zip(self.model_weights, self.weights)
            if weight is not master
        ]

    @torch.no_grad()
    def collect_gradients(self) -> None:
        """Add the model's gradients to those of the float32 weights, once after every backward."""
        for weight, master in self._copied:
            if weight.grad is not None:
                master.grad = (
                    weight.grad.float() if master.grad is None else master.grad.add_(weight.grad)
                )
                weight.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Round the float32 weights into the model."""
        if self._copied:
            torch._foreach_copy_(
                [w.data for w, _ in self._copied], [m.data for _, m in self._copied]
            )

    def restore_model(self, dtype: torch.dtype) -> None:
        """Give the model back its weights in ``dtype``, taken from the float32 ones."""
        for weight, master in zip(self.model_weights, self.weights):
            weight.data = master.data.to(dtype)
        for weight, value in self._frozen:
            weight.data = value

    def clear_gradients(self) -> None:
        for weight in (*self.model_weights, *self.weights):
            weight.grad = None


def unique_parameters(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    """(name, parameter) of everything trainable; a tied weight comes once, under its first name."""
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]


def make_optimizers(config: TrainConfig, masters: MasterWeights) -> list[torch.optim.Optimizer]:
    """Fused AdamW; matrices decay, gains and biases do not. With ``muon``, it moves the matrices
    inside the layers.

    Muon makes each update orthogonal; its step is scaled to the size AdamW's would have (Moonlight,
    arXiv 2502.16982), so one learning rate serves both. Embedding and output matrix stay with
    AdamW.
    """
    named = list(zip(masters.names, masters.weights))
    inner = [
        w for name, w in named if config.optimizer == "muon" and w.ndim == 2 and ".layers." in name
    ]
    chosen = {id(weight) for weight in inner}
    matrices = [
        weight for weight in masters.weights if weight.ndim >= 2 and id(weight) not in chosen
    ]
    others = [weight for weight in masters.weights if weight.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )
    if not inner:
        return [adamw]
    muon = torch.optim.Muon(
        inner,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return [adamw, muon]


def learning_rate(config: TrainConfig, plan: Plan, step: int) -> float:
    """Of a step of the whole run: linear warm-up, then cosine down to ``min_lr_ratio``; over all
    rounds or in each."""
    start, length = 0, plan.total_steps
    if config.round_schedule == "restart":
        round_number, inside = plan.locate(step)
        start, length = step - inside, plan.steps[round_number]
    warmup = math.ceil(config.warmup * length)
    inside = step - start
    if inside < warmup:
        return config.learning_rate * (inside + 1) / warmup
    progress = (inside - warmup) / max(1, length - 1 - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.learning_rate * (config.min_lr_ratio + (1 - config.min_lr_ratio) * cosine)


def clip_gradients(weights: Iterable[Tensor], limit: float) -> Tensor:
    """Scale gradients to a norm of at most ``limit`` (0: leave them); returns the norm before."""
    return whole(torch.nn.utils.clip_grad_norm_(weights, limit or math.inf))
