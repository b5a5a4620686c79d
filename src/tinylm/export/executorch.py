"""A folder for ExecuTorch, PyTorch's runtime of phones: model.pte with a key-value cache, its
tokenizer, the same checks as GGUF.

`torch.export` takes the graph, ExecuTorch's XNNPACK backend computes it. The program is called as
ExecuTorch's LLM runner calls one: ``forward(input_ids int64[1, T], cache_position int64[T])`` gives
logits float32[1, T, vocab_size].
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import embedding
from transformers import AttentionInterface

from tinylm.errors import WorkError
from tinylm.export.folder import check_choice, export_folder
from tinylm.models.config import first_line
from tinylm.models.generate import stops_of
from tinylm.models.teacher import load_model, load_tokenizer

# INT4: the linear layers' weights, in groups of 32 with a scale; embedding and head have 8 bits
# (int4 of a tied embedding costs most, docs/export.md); activations are rounded to 8 bits as they
# come, which is what XNNPACK's integer kernels multiply
QUANTIZATIONS = ("F32", "INT8", "INT4")
GROUP = 32  # weights that share a scale
CONTEXT = 2048  # tokens that the cache holds; less where the model knows fewer
_HIDDEN = -1e9  # added to the attention score of a place that is not seen
_ATTENTION = "tinylm-executorch"  # what `transformers` knows our attention by


def export_executorch(
    model_dir: str | Path, out: str | Path, quantize: str = "F32", **how: Any
) -> dict[str, Any]:
    """Write the folder ``out``: model.pte and the tokenizer. ``quantize``: F32, INT8 or INT4.
    ``how`` and the report: see :func:`~tinylm.export.folder.export_folder`.

    Raises InputError when ExecuTorch is missing or there is no such precision, WorkError when it
    cannot build this family or computes something else.
    """
    model_dir, packages = Path(model_dir), ("executorch", "torchao")
    quantize = check_choice("ExecuTorch", quantize, QUANTIZATIONS, packages, "executorch")

    def write(folder: Path) -> dict[str, str]:
        return _write(model_dir, folder, quantize)

    return export_folder(model_dir, Path(out), quantize, write, ExecutorchModel, **how)


class ExecutorchModel:
    """A folder run by ExecuTorch, with the few methods the checks call."""

    runtime = "ExecuTorch"

    def __init__(self, folder: Path) -> None:
        with _quiet():
            from executorch.runtime import Runtime

            self._program = Runtime.get().load_program(folder / "model.pte")
            self._forward = self._program.load_method("forward")
            self._ends = set(self._program.load_method("get_eos_ids").execute([]))
        self._tokenizer = load_tokenizer(folder)

    def tokenize(self, text: str, *, add_special: bool = False) -> list[int]:
        return self._tokenizer(text, add_special_tokens=add_special)["input_ids"]

    def logits(self, ids: Sequence[int], start: int = 0) -> np.ndarray:
        """Logits float32[T, vocab_size] of tokens that stand from ``start`` on; 0: a fresh
        sequence."""
        places = torch.arange(start, start + len(ids))
        made = self._forward.execute([torch.tensor([list(ids)]), places])[0]
        return made[0].numpy().copy()  # the runtime uses its memory again

    def greedy(self, ids: Sequence[int], new_tokens: int) -> list[int]:
        """The likeliest continuation; the end-of-text token that stops it is not among it."""
        made: list[int] = []
        rows = self.logits(ids)
        while len(made) < new_tokens and int(rows[-1].argmax()) not in self._ends:
            made.append(int(rows[-1].argmax()))
            rows = self.logits(made[-1:], len(ids) + len(made) - 1)
        return made


class CachedStep(nn.Module):
    """A model that reads ``input_ids`` at ``cache_position`` after what it read before, which its
    own buffers hold: the form that a static graph can have."""

    places: torch.Tensor  # int64[context]

    def __init__(self, model: Any, context: int) -> None:
        super().__init__()
        config = model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        self.model, self.layers, self.context = model, config.num_hidden_layers, context
        self.window = getattr(config, "sliding_window", None)
        self.kinds = set(getattr(config, "layer_types", None) or ())
        for layer in range(self.layers):
            for name in ("keys", "values"):
                empty = torch.zeros(1, context, heads, width)
                self.register_buffer(f"{name}_{layer}", empty, persistent=False)
        self.register_buffer("places", torch.arange(context), persistent=False)
        AttentionInterface.register(_ATTENTION, self._attend)
        model.set_attn_implementation(_ATTENTION)

    def forward(self, input_ids: torch.Tensor, cache_position: torch.Tensor) -> torch.Tensor:
        """int64[1, T], int64[T] -> logits float32[1, T, vocab_size]."""
        self.start: Any = cache_position[0].item()  # the kernels want a number
        torch._check(self.start >= 0)
        torch._check(self.start + input_ids.shape[1] <= self.context)
        return self.model(
            input_ids=input_ids,
            attention_mask=self._masks(cache_position),
            position_ids=cache_position[None],
            past_key_values=self,
            use_cache=True,
        ).logits

    def _masks(self, position_T: torch.Tensor) -> Any:
        """What is added to the scores, [1, 1, T, context]; by kind of layer where there are two.
        The kernel itself hides what comes later; this is for layers that see a window alone."""
        distance = position_T[:, None] - self.places[None]
        near = (distance >= 0) & (distance < (self.window or self.context))
        mask = torch.where(near, 0.0, _HIDDEN)[None, None]
        if len(self.kinds) > 1:
            return {"full_attention": mask, "sliding_attention": mask}
        return mask

    # what `transformers` asks of a cache

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: Any, **__: Any) -> Any:
        """[1, heads, T, width] into the buffers, which are [1, context, heads, width]."""
        buffers = [getattr(self, f"{name}_{layer}") for name in ("keys", "values")]
        for new, buffer in zip((key, value), buffers):
            torch.ops.llama.update_cache(new.transpose(1, 2), buffer, self.start)
        return buffers

    def get_seq_length(self, *_: Any) -> int:
        return 0

    def _attend(
        self,
        _: nn.Module,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        **__: Any,
    ) -> tuple[torch.Tensor, None]:
        """ExecuTorch's own kernel, which reads the cache where it lies: [1, T, heads, width]."""
        if softcap is not None:
            raise WorkError("its attention kernel has no cap on scores, which this family needs")
        causal = sliding_window is None
        seen = None if causal else mask[0, 0]
        query_1THW = query.transpose(1, 2)
        out = torch.ops.llama.custom_sdpa(
            query_1THW, keys, values, self.start, seen, 0.0, causal, scaling
        )
        return out, None


class _Rows8(nn.Module):
    """An embedding in 8 bits, a scale for each row: in operations that every runtime has."""

    rows: torch.Tensor  # int8[vocab_size, hidden]
    scale: torch.Tensor  # float32[vocab_size, 1]

    def __init__(self, of: nn.Embedding) -> None:
        super().__init__()
        scale = of.weight.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
        self.register_buffer("rows", (of.weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        # Gemma multiplies what it looks up
        self.factor = float(getattr(of, "embed_scale", 1.0))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return embedding(ids, self.rows).float() * embedding(ids, self.scale) * self.factor


def _write(model_dir: Path, folder: Path, quantize: str) -> dict[str, str]:
    """The folder; returns which matrices are not in the format asked for, and why."""
    import executorch.extension.llm.custom_ops.custom_ops  # noqa: F401
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
        XnnpackDynamicallyQuantizedPartitioner,
        XnnpackPartitioner,
    )
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    tokenizer = load_tokenizer(model_dir)
    model = load_model(model_dir, torch.float32).eval()
    config = model.config.get_text_config()
    context = min(CONTEXT, getattr(config, "max_position_embeddings", None) or CONTEXT)
    facts = {
        "get_max_seq_len": context,
        "get_max_context_len": context,
        "get_vocab_size": config.vocab_size,
        "get_bos_id": tokenizer.bos_token_id if tokenizer.bos_token_id is not None else -1,
        "get_eos_ids": sorted(stops_of(model_dir, tokenizer)),
        "use_kv_cache": True,
        "enable_dynamic_shape": True,
    }
    tokens = torch.export.Dim("tokens", min=1, max=context - 1)
    try:
        with torch.no_grad(), _quiet():
            fallbacks = {} if quantize == "F32" else _quantize(model, quantize)
            graph = torch.export.export(
                CachedStep(model, context),
                (torch.zeros((1, 7), dtype=torch.long), torch.arange(7)),
                dynamic_shapes=({1: tokens}, {0: tokens}),
                strict=False,
            )
            first = [XnnpackDynamicallyQuantizedPartitioner()] if quantize != "F32" else []
            program = to_edge_transform_and_lower(
                graph,
                partitioner=[*first, XnnpackPartitioner()],
                compile_config=EdgeCompileConfig(_check_ir_validity=False),
                constant_methods=facts,
            ).to_executorch()
    # what its compiler raises over a family is of no one kind
    except Exception as error:
        raise WorkError(
            f"ExecuTorch cannot build {config.model_type!r}: {first_line(error)}"
        ) from error
    with (folder / "model.pte").open("wb") as file:
        program.write_to_file(file)
    tokenizer.save_pretrained(folder)
    return fallbacks


def _quantize(model: Any, quantize: str) -> dict[str, str]:
    """Matrices of the layers to ``quantize``, embedding and head to 8 bits, in place."""
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup

    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone())  # a tied one is another format
    model.set_input_embeddings(_Rows8(table))
    matrices = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    small = {
        name
        for name, part in matrices.items()
        if quantize == "INT4" and part is not head and part.in_features % GROUP == 0
    }
    kinds: Any = (
        (torch.int4, PerGroup(GROUP), small),  # type: ignore[attr-defined]
        (torch.int8, PerAxis(0), set(matrices) - small),
    )
    for dtype, grain, names in kinds:
        settings = Int8DynamicActivationIntxWeightConfig(
            weight_dtype=dtype, weight_granularity=grain
        )
        quantize_(model, settings, lambda _, name, names=names: name in names)
    return {
        name: f"INT8 instead of {quantize}"
        for name, part in matrices.items()
        if quantize == "INT4" and part is not head and name not in small
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what its compiler and its runtime say of themselves."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
