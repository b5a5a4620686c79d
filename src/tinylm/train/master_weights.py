"""Weights kept in float32 behind a model that computes in bfloat16, and their gradients."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tinylm.train.parallel import full_tensor


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
    def update_model(self) -> None:
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


def clip_gradients(weights: Iterable[Tensor], limit: float) -> Tensor:
    """Scale gradients to a norm of at most ``limit`` (0: leave them); returns the norm before."""
    return full_tensor(torch.nn.utils.clip_grad_norm_(weights, limit or math.inf))
