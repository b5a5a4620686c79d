"""Cut a teacher to an exact shape: index_select along named axes, for any family that has a table.

Nothing is chosen here: :class:`Kept` says which units stay. Weights are read one tensor at a time,
from a model or straight from safetensors shards, so a large teacher is never in memory whole.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tinylm.errors import InputError
from tinylm.models import families
from tinylm.models.initialise import hollow_model
from tinylm.models.shape import Shape
from tinylm.models.token_ids import cut_config

# Of a generation_config.json that contradicts itself these are kept: what ends an answer, and how
# long it may be.
GENERATION = ("bos_token_id", "eos_token_id", "pad_token_id", "max_length", "max_new_tokens")


@dataclass(frozen=True)
class Kept:
    """Which teacher units stay, ascending. Per-layer lists run over the student's layers (heads in
    head counts)."""

    layers: list[int]
    hidden: Tensor  # int64 [hidden_size]
    ffn: list[Tensor]  # int64 [intermediate_size] each
    q_heads: list[Tensor]  # int64 [num_attention_heads] each, grouped by key-value head
    kv_heads: list[Tensor]  # int64 [num_key_value_heads] each
    vocab: Tensor | None = None  # int64 [vocab_size]; None: all

    def rows(self, axis: str, layer: int | None, head_dim: int) -> Tensor | None:
        """Teacher rows of ``axis`` that the student's ``layer`` keeps; None when all of them
        stay."""
        if axis == families.HIDDEN:
            return self.hidden
        if axis == families.VOCAB:
            return self.vocab
        if axis in families.NEVER_CUT:
            return None
        assert layer is not None, f"axis {axis} outside a layer"
        if axis == families.FFN:
            return self.ffn[layer]
        heads = (self.q_heads if axis == families.Q_HEADS else self.kv_heads)[layer]
        return (heads[:, None] * head_dim + torch.arange(head_dim)).flatten()

    def tensors(self) -> dict[str, Tensor]:
        """As named tensors, to be saved."""
        named = {
            "kept.layers": torch.tensor(self.layers),
            "kept.hidden": self.hidden,
            "kept.ffn": torch.stack(self.ffn),
            "kept.q_heads": torch.stack(self.q_heads),
            "kept.kv_heads": torch.stack(self.kv_heads),
        }
        return named if self.vocab is None else {**named, "kept.vocab": self.vocab}


def model_weights(model: Any) -> dict[str, Tensor]:
    """The parameters of a model in memory; a tied head is left out, as in a saved checkpoint."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def check_target(teacher: Shape, target: Shape, vocab: Tensor | None = None) -> None:
    """InputError when ``target`` cannot be cut from ``teacher``. ``vocab`` int64
    [target.vocab_size]: ids kept."""
    for field in (
        "num_layers",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
    ):
        have, want = getattr(teacher, field), getattr(target, field)
        if want > have:
            raise InputError(
                f"target {field} = {want} is larger than the teacher's {have}: choose {have} or"
                " less"
            )
    if (
        len(vocab) != target.vocab_size
        if vocab is not None
        else target.vocab_size != teacher.vocab_size
    ):
        raise InputError(
            f"target vocab_size = {target.vocab_size}, the teacher's is {teacher.vocab_size}, ids"
            f" to keep: {'none' if vocab is None else len(vocab)}: run `tinylm tokenizer compress`"
            " first, or give that many ids"
        )
    if vocab is not None and (vocab.diff() <= 0).any() | (vocab[0] < 0) | (
        vocab[-1] >= teacher.vocab_size
    ):
        raise InputError(
            f"kept ids must ascend from 0 or more to at most {teacher.vocab_size - 1}, each once"
        )
    if target.head_dim != teacher.head_dim:
        raise InputError(
            f"target head_dim = {target.head_dim}, the teacher's is {teacher.head_dim}: heads are"
            " kept or dropped whole"
        )
    if target.heads_per_group > teacher.heads_per_group:
        raise InputError(
            f"target has {target.heads_per_group} query heads a key-value head, the teacher"
            f" {teacher.heads_per_group}: a group can only shrink; keep more key-value heads"
        )
    if target.tie_word_embeddings and not teacher.tie_word_embeddings:
        raise InputError(
            "target ties the embeddings but the teacher's head is a matrix of its own: set"
            " tie_word_embeddings = false"
        )


def cut(
    weights: Mapping[str, Tensor], config: Any, target: Shape, kept: Kept
) -> Iterator[tuple[str, Tensor]]:
    """The student's weights by name, one at a time: each teacher tensor with its kept rows and
    columns.

    ``config`` is the teacher's. What is kept whole is the teacher's own tensor, not a copy.
    """
    family, teacher = families.family_of(config), Shape.from_config(config)
    student_layer = {old: new for new, old in enumerate(kept.layers)}
    for name in weights:
        old_layer = families.layer_of(name)
        if old_layer is not None and old_layer not in student_layer:
            continue
        layer = None if old_layer is None else student_layer[old_layer]
        dimensions = family.axes(name)
        assert dimensions is not None, name
        tensor = weights[name]
        if not torch.isfinite(tensor).all():
            raise InputError(
                f"{name} of the teacher holds NaN or infinity: the checkpoint is damaged"
            )
        for dimension, blocks in enumerate(dimensions):
            rows = dimension_rows(blocks, kept, layer, teacher)
            if rows is not None:
                tensor = tensor.index_select(dimension, rows.to(tensor.device))
        new_name = name if layer is None else families.in_layer(name, layer)
        assert tuple(tensor.shape) == families.expected_size(dimensions, target, config), (
            name,
            tensor.shape,
        )
        if name != "lm_head.weight" or not target.tie_word_embeddings:
            yield new_name, tensor
        if (
            name == "model.embed_tokens.weight"
            and not target.tie_word_embeddings
            and "lm_head.weight" not in weights
        ):
            yield "lm_head.weight", tensor  # a tied teacher, an untied student


def dimension_rows(
    blocks: Sequence[str], kept: Kept, layer: int | None, teacher: Shape
) -> Tensor | None:
    """Rows of a dimension made of ``blocks``, each offset by the teacher's size of those before it;
    None: all rows."""
    if len(blocks) == 1:
        return kept.rows(blocks[0], layer, teacher.head_dim)
    sizes = families.axis_sizes(teacher)
    parts, offset, whole = [], 0, True
    for axis in blocks:
        rows = kept.rows(axis, layer, teacher.head_dim)
        whole = whole and rows is None
        parts.append(offset + (torch.arange(sizes[axis]) if rows is None else rows))
        offset += sizes[axis]
    return None if whole else torch.cat(parts)


def student_config(
    config: Any,
    target: Shape,
    kept_layers: Sequence[int] | None = None,
    vocab: Tensor | None = None,
):
    """The `transformers` config of a student of ``target`` shape; ``config`` is the teacher's.

    InputError when the family's own rules refuse the shape (a reload would too).
    """
    settings = target.to_config(config, kept_layers)
    try:
        if vocab is None:
            type(settings).from_dict(settings.to_dict())
            return settings
        # ids of bos, eos, pad... by the new numbers
        plain = json.loads(settings.to_json_string(use_diff=False))
        return type(settings).from_dict(cut_config(plain, _new_ids(vocab), config.vocab_size))
    # transformers raises classes of huggingface_hub here, and they change
    except Exception as error:
        reason = " ".join(str(error).split())[-200:]
        raise InputError(
            f"target shape is refused by transformers' {config.model_type} config ({reason})"
        ) from error


def _new_ids(vocab: Tensor) -> dict[int, int]:
    return {old: new for new, old in enumerate(vocab.tolist())}


def build(
    weights: Iterable[tuple[str, Tensor]],
    config: Any,
    target: Shape,
    kept: Kept,
    dtype: torch.dtype,
    generation: Any = None,
) -> Any:
    """The student as a `transformers` model in eval mode, holding ``weights`` (of :func:`cut`).

    ``config`` and ``generation`` are the teacher's; the second holds stop ids that stand nowhere
    else (Gemma 2, Phi-3).
    """
    settings = student_config(config, target, kept.layers, kept.vocab)
    settings.dtype = dtype
    model = hollow_model(settings, dtype)
    if generation is not None:
        plain = generation.to_dict()
        plain = (
            plain
            if kept.vocab is None
            else cut_config(plain, _new_ids(kept.vocab), config.vocab_size)
        )
        model.generation_config = type(generation).from_dict(plain)
        try:
            model.generation_config.validate(strict=True)
        # a temperature without do_sample, say: what loads with a warning cannot be saved
        except ValueError:
            told = {
                name: plain.get(name) for name in GENERATION if plain.get(name) not in (None, -1)
            }
            model.generation_config = type(generation).from_dict(told)
    # copies: what is kept whole is the teacher's own
    own = {
        name: tensor.to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)
        for name, tensor in weights
    }
    needed = {name for name, _ in model.named_parameters()}  # a tied head is not among them
    assert own.keys() == needed, own.keys() ^ needed
    model.load_state_dict(own, strict=False, assign=True)
    model.tie_weights()
    return model.requires_grad_(True).eval()
