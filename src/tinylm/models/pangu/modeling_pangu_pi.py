"""The PanGu-pi block (arXiv 2312.17276) as a `transformers` causal language model.

Two changes to the Llama block, both meant to keep features from collapsing into one another with
depth:

- series activation: the FFN gate is ``sum_i act(scale_i * x + shift_i)`` with learned vectors over
  the FFN neurons;
- augmented shortcut: beside attention runs ``up(gelu(down(x)))``, a bottleneck of hidden_size / 32,
  token by token.

A fresh block has scale_1 = 1 and everything else of the two additions 0: it computes exactly what
the Llama block with the same weights computes, so weights inherited from a plain model can be
grafted without changing its function.

This file travels with every saved model, so it imports nothing but torch and `transformers`.
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaMLP,
    LlamaModel,
    LlamaPreTrainedModel,
)

from .configuration_pangu_pi import PanguPiConfig


class PanguPiTerm(nn.Module):
    """One term of the series: ``act(scale * x + shift)`` over the FFN neurons. Input and output:
    [..., FFN]."""

    def __init__(self, config: PanguPiConfig, index: int):
        super().__init__()
        self.start = 1.0 if index == 0 else 0.0
        self.scale = nn.Parameter(torch.empty(config.intermediate_size))
        self.shift = nn.Parameter(torch.empty(config.intermediate_size))
        self.act = ACT2FN[config.hidden_act]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(x * self.scale + self.shift)


class PanguPiMLP(LlamaMLP):
    """Gated FFN whose gate activation is a series. Input and output: [..., hidden_size]."""

    def __init__(self, config: PanguPiConfig):
        super().__init__(config)
        self.series = nn.ModuleList(
            PanguPiTerm(config, index) for index in range(config.series_terms)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.gate_proj(x)
        return self.down_proj(sum(term(gate) for term in self.series) * self.up_proj(x))


class PanguPiZeroLinear(nn.Linear):
    """A linear map that starts at zero; a class of its own because `transformers` initialises by
    class."""


class PanguPiShortcut(nn.Module):
    """A bottleneck beside attention: [..., hidden_size] -> shortcut_size -> GELU -> [...,
    hidden_size]."""

    def __init__(self, config: PanguPiConfig):
        super().__init__()
        size = int(config.shortcut_size or 0)
        self.down = nn.Linear(config.hidden_size, size, bias=False)
        self.up = PanguPiZeroLinear(size, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(nn.functional.gelu(self.down(x)))


class PanguPiAttention(LlamaAttention):
    """Attention plus the augmented shortcut; both read the normalised hidden state."""

    def __init__(self, config: PanguPiConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.shortcut = PanguPiShortcut(config) if config.shortcut_size else None

    def forward(self, hidden_states: torch.Tensor, *args, **kwargs):
        attended, weights = super().forward(hidden_states, *args, **kwargs)
        if self.shortcut is not None:
            attended = attended + self.shortcut(hidden_states)
        return attended, weights


class PanguPiDecoderLayer(LlamaDecoderLayer):
    def __init__(self, config: PanguPiConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.self_attn = PanguPiAttention(config, layer_idx)
        self.mlp = PanguPiMLP(config)


class PanguPiPreTrainedModel(LlamaPreTrainedModel):
    config: PanguPiConfig
    config_class = PanguPiConfig
    _no_split_modules = ["PanguPiDecoderLayer"]  # noqa: RUF012
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": PanguPiDecoderLayer,
        "attentions": PanguPiAttention,
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, PanguPiZeroLinear):
            init.zeros_(module.weight)
        elif isinstance(module, PanguPiTerm):
            init.constant_(module.scale, module.start)
            init.zeros_(module.shift)
        else:
            super()._init_weights(module)


class PanguPiModel(PanguPiPreTrainedModel, LlamaModel):
    def __init__(self, config: PanguPiConfig):
        super().__init__(config)
        self.layers = nn.ModuleList(
            PanguPiDecoderLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.post_init()


class PanguPiForCausalLM(PanguPiPreTrainedModel, LlamaForCausalLM):
    def __init__(self, config: PanguPiConfig):
        super().__init__(config)
        self.model = PanguPiModel(config)
        self.post_init()


__all__ = ["PanguPiForCausalLM", "PanguPiModel", "PanguPiPreTrainedModel"]
