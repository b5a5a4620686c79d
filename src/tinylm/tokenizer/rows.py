"""Cut the embedding and the head of a model to the kept tokens, by **old id**.

Rows and tokens need not agree (Gemma-3 has 262,208 rows for 262,145 tokens), so the length of a
tokenizer never decides anything here; the id of a token does.
"""

from pathlib import Path

import numpy as np
import torch

from tinylm.artifact import optional_json, read_object, write_json
from tinylm.errors import InputError
from tinylm.models.save import with_old_keys
from tinylm.models.shards import weight_files
from tinylm.models.token_ids import IdMap, cut_config


def has_weights(folder: Path) -> bool:
    """Whether there is a model to cut beside the tokenizer. InputError for weights of a kind that
    is not read, and for weights without a config.json."""
    found = weight_files(folder)
    if found and not (folder / "config.json").exists():
        raise InputError(f"{folder} holds {found[0].name} but no config.json: add it")
    return bool(found)


def rows_of(folder: Path) -> int:
    """Number of rows of the input embedding of the model in ``folder``, from its config."""
    from tinylm.models.teacher import load_config

    return load_config(folder).get_text_config().vocab_size


def slice_rows(model, kept: np.ndarray) -> None:
    """Cut every table of ``model`` with one row per token id to the rows ``kept`` (int[K], old
    ids), in place.

    Tied tables stay tied, head biases are cut along.
    """
    rows = vocabulary_rows(model)
    index = torch.as_tensor(kept, dtype=torch.long)
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is model.get_input_embeddings().weight
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings == rows:
            module.weight = torch.nn.Parameter(
                module.weight.detach()[index].clone(), requires_grad=False
            )
            module.num_embeddings = len(kept)
            if module.padding_idx is not None:
                found = np.flatnonzero(kept == module.padding_idx)
                module.padding_idx = int(found[0]) if len(found) else None
    if head is not None:
        weight = (
            model.get_input_embeddings().weight
            if tied
            else torch.nn.Parameter(head.weight.detach()[index].clone())
        )
        head.weight, head.out_features = weight, len(kept)
        if getattr(head, "bias", None) is not None:
            head.bias = torch.nn.Parameter(head.bias.detach()[index].clone())
    for name, buffer in list(model.named_buffers()):
        # a bias that encoder-decoder models keep beside the head
        if name.endswith("final_logits_bias"):
            buffer.data = buffer.data[..., index].clone()


def vocabulary_rows(model) -> int:
    """Number of rows of the input embedding."""
    return model.get_input_embeddings().weight.shape[0]


def require_rows(model, kept: np.ndarray) -> None:
    """Raise InputError when a kept id has no row."""
    if int(kept.max()) >= vocabulary_rows(model):
        raise InputError(
            f"the tokenizer has id {int(kept.max())} but the model only {vocabulary_rows(model)}"
            " embedding rows: they do not belong together"
        )


def write_model(model, parent: Path, mapping: IdMap, rows: int, folder: Path) -> None:
    """Save the cut ``model`` with the parent's configs carried over: same settings, new ids and
    size.

    ``rows`` is the parent's number of embedding rows. The configs are cut as files, not through
    `transformers` objects, so that nothing is added to them or lost.
    """
    settings = cut_config(read_object(parent / "config.json"), mapping, rows)
    text = settings["text_config"] if isinstance(settings.get("text_config"), dict) else settings
    # also where the parent leaves it at its family's default (Gemma 3 4B)
    text["vocab_size"] = len(mapping)
    model.config.get_text_config().vocab_size = len(mapping)
    if getattr(model, "generation_config", None) is not None:
        # old ids would not pass its checks; written below
        model.generation_config = type(model.generation_config)()
    model.save_pretrained(folder)
    write_json(folder / "config.json", with_old_keys(settings))
    generation = optional_json(parent / "generation_config.json")
    (folder / "generation_config.json").unlink(missing_ok=True)
    if generation:
        write_json(folder / "generation_config.json", cut_config(generation, mapping, rows))
