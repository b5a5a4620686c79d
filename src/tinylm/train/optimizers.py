"""The optimisers, by name: which weights each moves, and how."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from tinylm.train.config import TrainConfig
    from tinylm.train.master_weights import MasterWeights


def _adamw(config: "TrainConfig", weights: list[Any]) -> list[Any]:
    """Fused AdamW; matrices decay, gains and biases do not."""
    import torch

    groups = [
        {"params": [w for w in weights if w.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )
    return [adamw]


def _all_adamw(config: "TrainConfig", masters: "MasterWeights") -> list[Any]:
    return _adamw(config, masters.weights)


def _muon(config: "TrainConfig", masters: "MasterWeights") -> list[Any]:
    """Muon for the matrices inside the layers, AdamW for the rest.

    Muon makes each update orthogonal; its step is scaled to the size AdamW's would have (Moonlight,
    arXiv 2502.16982), so one learning rate serves both.
    """
    import torch

    named = list(zip(masters.names, masters.weights, strict=True))
    inner = [w for name, w in named if w.ndim == 2 and ".layers." in name]
    chosen = {id(weight) for weight in inner}
    optimizers = _adamw(config, [w for w in masters.weights if id(w) not in chosen])
    if inner:
        muon = torch.optim.Muon(
            inner,
            weight_decay=config.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        optimizers.append(muon)
    return optimizers


OPTIMIZERS: dict[str, Callable[["TrainConfig", "MasterWeights"], list[Any]]] = {
    "adamw": _all_adamw,
    "muon": _muon,
}
if TYPE_CHECKING:
    Optimizer = str
else:
    Optimizer = Literal[tuple(OPTIMIZERS)]
