"""The model as the loop sees it: hidden states out, an output matrix beside them, parameters in the right format."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from tinylm.errors import InputError
from tinylm.train.attention import use_blocked_attention
from tinylm.train.config import TrainConfig
from tinylm.train.loss import Head


class Student:
    """A `transformers` causal model split into its body (ids -> last hidden states) and its head."""

    def __init__(self, model: Any, config: TrainConfig) -> None:
        self.model = model
        self.body: nn.Module = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
        self.head = find_head(model)
        self.config = config
        if config.gradient_checkpointing and model.training:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.attention = model.config._attn_implementation
        if next(model.parameters()).dtype == torch.bfloat16 and next(model.parameters()).device.type == "cpu":
            use_blocked_attention(model)
        if config.compile:
            compile_layers(self.body)

    def restore_attention(self) -> None:
        """Give the model back the attention it came with."""
        self.model.set_attn_implementation(self.attention)

    def hidden(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """Last hidden states [tokens, hidden] of ids [sequences, length], flat over all positions.

        With ``positions`` (from 0 in every document) attention stays inside documents.
        """
        arguments: dict[str, Any] = {"input_ids": ids, "use_cache": False}
        if positions is not None:
            arguments |= {"position_ids": positions, "attention_mask": document_mask(positions)}
        return self.body(**arguments).last_hidden_state.flatten(0, 1)


def document_mask(positions: Tensor) -> Tensor:
    """Which key each query may see, bool[sequences, 1, length, length]: earlier ones of the same document."""
    length = positions.shape[1]
    document = (positions == 0).cumsum(dim=1)
    causal = torch.ones(length, length, dtype=torch.bool, device=positions.device).tril()
    return ((document[:, :, None] == document[:, None, :]) & causal).unsqueeze(1)


def find_head(model: Any) -> Head:
    """The output matrix and the scale of its logits; InputError for heads that a chunked loss cannot express."""
    embeddings = model.get_output_embeddings()
    config = model.config.get_text_config()
    if embeddings is None:
        raise InputError(f"{type(model).__name__} has no output embeddings: a causal language model is needed")
    if getattr(embeddings, "bias", None) is not None or getattr(config, "final_logit_softcapping", None):
        raise InputError(
            f"{type(model).__name__} has an output bias or soft-capped logits: tinylm trains models whose logits are "
            "a multiple of hidden @ matrix"
        )
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
    return Head(embeddings.weight, float(scale))


def set_parameter_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert parameters only: buffers such as rope frequencies must stay in float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def compile_layers(body: nn.Module) -> None:
    """Compile each decoder layer in place. All layers share one compiled program, so it is made once: seconds, not
    minutes; and names of parameters stay as they were."""
    for layer in cast(nn.ModuleList, body.layers):
        layer.compile(dynamic=False)
