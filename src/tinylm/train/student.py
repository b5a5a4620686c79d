"""The model as the loop sees it: hidden states out, an output matrix beside them, parameters in the
right format."""

from typing import Any

import torch
from torch import Tensor, nn

from tinylm.errors import InputError
from tinylm.models.logits import scale_and_cap
from tinylm.train.attention import use_blocked_attention
from tinylm.train.batches import MicroBatch
from tinylm.train.config import TrainConfig
from tinylm.train.loss import Head, TeacherTargets, chunked_loss


class Student(nn.Module):
    """A `transformers` causal model as a function from a micro-batch to its loss, without its
    logits."""

    def __init__(
        self, model: Any, config: TrainConfig, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        head = find_head(model)
        self.scale, self.cap = head.scale, head.cap
        if config.gradient_checkpointing and model.training:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.attention = model.config._attn_implementation
        capped = getattr(
            model.config.get_text_config(), "attn_logit_softcapping", None
        )  # Gemma 2's own attention alone
        if dtype == torch.bfloat16 and device.type == "cpu" and not capped:
            use_blocked_attention(model)
        if config.compile:
            compile_layers(self.layers)

    @property
    def layers(self) -> nn.ModuleList:
        return self.model.get_decoder().layers

    @property
    def head(self) -> Head:
        return Head(self.model.get_output_embeddings().weight, self.scale, self.cap)

    def forward(
        self, piece: MicroBatch, teacher: TeacherTargets | None = None
    ) -> tuple[Tensor, Tensor]:
        """(training loss, plain next-token nats per token of each sequence) of one micro-batch."""
        loss, nats = chunked_loss(
            self.hidden(piece.ids, piece.positions),
            self.head,
            piece.targets.flatten(),
            teacher=teacher,
            z_loss=self.config.z_loss,
            chunk=self.config.loss_chunk,
            compiled=self.config.compile,
        )
        nats = nats.view_as(piece.targets)
        if piece.counted is None:
            return loss, nats.mean(dim=1)
        return loss, nats.sum(dim=1) / piece.counted.sum(dim=1).clamp(min=1)

    def release(self) -> Any:
        """The model as it came: its own attention, nothing compiled, in eval mode."""
        self.model.set_attn_implementation(self.attention)
        for layer in self.layers:
            layer._compiled_call_impl = None
        if self.config.gradient_checkpointing and self.model.is_gradient_checkpointing:
            self.model.gradient_checkpointing_disable()
        return self.model.eval()

    def hidden(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """Last hidden states [tokens, hidden] of ids [sequences, length], flat over all positions.

        With ``positions`` (from 0 in every document) attention stays inside documents:
        `transformers` reads from them where documents begin, and keeps the sliding windows of
        families that have them.
        """
        arguments: dict[str, Any] = {"input_ids": ids, "use_cache": False}
        if positions is not None:
            arguments["position_ids"] = positions
        return self.model.get_decoder()(**arguments).last_hidden_state.flatten(0, 1)


def find_head(model: Any) -> Head:
    """The output matrix, scale and cap of its logits; InputError for heads that a chunked loss
    cannot express."""
    embeddings = model.get_output_embeddings()
    if embeddings is None:
        raise InputError(
            f"{type(model).__name__} has no output embeddings: a causal language model is needed"
        )
    if getattr(embeddings, "bias", None) is not None:
        raise InputError(f"{type(model).__name__} has an output bias: tinylm trains models without")
    return Head(embeddings.weight, *scale_and_cap(model.config))


def set_parameter_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert parameters only: buffers such as rope frequencies must stay in float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def compile_layers(layers: nn.ModuleList) -> None:
    """Compile each decoder layer in place. All layers share one compiled program, so it is made
    once: seconds, not minutes; and names of parameters stay as they were."""
    for layer in layers:
        layer.compile(dynamic=False)
