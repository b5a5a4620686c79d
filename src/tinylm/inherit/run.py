"""From files to files: load the teacher, pack calibration text, inherit, write, reload."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinylm.artifact import atomic_directory, refuse_filled
from tinylm.corpus.pack import find_separator, find_start
from tinylm.corpus.read import documents
from tinylm.errors import InputError
from tinylm.inherit import criteria, depth
from tinylm.inherit.cut import build, check_target, cut
from tinylm.inherit.inheritance import Inherited, inherit, save
from tinylm.inherit.memory import memory_line
from tinylm.inherit.repair import embedding_scale
from tinylm.inherit.scores import Scores
from tinylm.inherit.select import select
from tinylm.models import families
from tinylm.models.pangu import from_llama, pangu_config
from tinylm.models.shape import Shape, read_block, read_shape
from tinylm.models.shards import Shards
from tinylm.models.teacher import load_config, load_model, load_tokenizer, resolve
from tinylm.terminal import console


def inherit_files(
    teacher: str,
    shape: Path,
    out: Path,
    *,
    criterion: str,
    layers: str,
    calibration: Sequence[str] = (),
    chunks: int = 64,
    length: int = 512,
    repair: Sequence[str] = (),
    scores: Path | None = None,
    kept_ids: Path | None = None,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
) -> Inherited:
    """The work of ``tinylm inherit``; arguments as there. Writes the folder ``out`` and returns
    what is in it."""
    if min(chunks, length) < 1:
        raise InputError(f"--chunks {chunks} and --length {length} must be 1 or more")
    folder, target = resolve(teacher), read_shape(shape)
    refuse_filled(out)
    config = load_config(folder)
    # names what no table explains, before anything is loaded
    if config.model_type not in families.FAMILIES:
        families.check_weights(Shards(folder, tied=False).sizes(), config)
    if read_block(shape) == "pangu-pi":
        # an InputError now and not after the scoring, when the teacher is no Llama
        pangu_config(config)
    tokenizer = load_tokenizer(folder) if (folder / "tokenizer.json").exists() else None
    ids = None
    if calibration:
        if tokenizer is None:
            raise InputError(
                f"teacher {teacher} has no tokenizer.json: calibration text cannot be read"
            )
        ids = calibration_chunks(calibration, tokenizer, chunks, length)
    vocab, known = (
        _kept_ids(kept_ids) if kept_ids else None,
        (Scores.load(scores) if scores else None),
    )
    if not repair and (known or (criterion in ("random", "l1", "l2") and layers == "first-last")):
        result = inherit_streamed(folder, target, criterion, vocab, dtype, seed, known)
        return _write(
            _with_block(result, shape, seed),
            teacher,
            target,
            out,
            tokenizer if kept_ids is None else None,
        )
    shapes = Shape.from_config(config), target
    refitted = chunks * length if {"refit", "refit-all"} & set(repair) else 0
    console.print(
        memory_line(*shapes, dtype, length, torch.device("cpu"), refitted), highlight=False
    )
    result = inherit(
        load_model(folder, dtype),
        target,
        ids,
        criterion,
        layers,
        repair=repair,
        scores=known,
        vocab=vocab,
        seed=seed,
    )
    return _write(
        _with_block(result, shape, seed),
        teacher,
        target,
        out,
        tokenizer if kept_ids is None else None,
    )


def _with_block(result: Inherited, shape: Path, seed: int) -> Inherited:
    """The student with the block that the plan asks for."""
    if read_block(shape) != "pangu-pi":
        return result
    return replace(result, model=from_llama(result.model, seed=seed))


def inherit_streamed(
    folder: Path,
    target: Shape,
    criterion: str,
    vocab: Tensor | None,
    dtype: torch.dtype,
    seed: int = 0,
    scores: Scores | None = None,
) -> Inherited:
    """Weight norms (or ``scores`` of an earlier run) and the cut straight from the shards of
    ``folder``: one teacher tensor in memory at a time."""
    from transformers import GenerationConfig

    started = time.perf_counter()
    config = load_config(folder)
    weights, teacher = Shards(folder, bool(config.tie_word_embeddings)), Shape.from_config(config)
    check_target(teacher, target, vocab)
    families.check_weights(weights.sizes(), config)
    weights.check_names(config)
    if scores is None:
        if criterion == "random":
            units = criteria.random(teacher, seed)
        else:
            units = criteria.weight_norm(weights, config, int(criterion[1]))
        about = {
            "criterion": criterion,
            "layers": "first-last",
            "calibration_tokens": 0,
            "teacher": teacher.to_dict(),
        }
        layers = depth.first_last(teacher.num_layers)
        scores = Scores(
            units[families.FFN], units[families.Q_HEADS], units[families.HIDDEN], layers, about
        )
    scores.check(teacher, target)
    kept = select(scores, teacher, target, vocab)
    stops = (
        GenerationConfig.from_pretrained(folder)
        if (folder / "generation_config.json").exists()
        else None
    )
    student = build(cut(weights, config, target, kept), config, target, kept, dtype, stops)
    embedding_scale(student, teacher.hidden_size)
    return Inherited(student, scores, kept, {"score and cut": time.perf_counter() - started})


def _write(result: Inherited, teacher: str, target: Shape, out: Path, tokenizer: Any) -> Inherited:
    with atomic_directory(out) as scratch:
        save(result, scratch, tokenizer)
        about = {
            "seconds": result.seconds,
            "kept_layers": result.kept.layers,
            "shape": target.to_dict(),
        }
        about["repair_losses"] = result.repair_losses
        (scratch / "inherit.json").write_text(
            json.dumps({"teacher": teacher, **about}, indent=2) + "\n"
        )
    return result


def calibration_chunks(paths: Sequence[str], tokenizer, chunks: int, length: int) -> Tensor:
    """int64 [chunks, length] of packed text, no padding. A document gives at most a 16th of it
    where that will do."""
    separator, start, needed = find_separator(tokenizer), find_start(tokenizer), chunks * length
    most, clipped = max(length, needed // 16), True
    while clipped and most < 4 * needed:
        ids: list[int] = []
        clipped = False
        for document in documents(list(paths)):
            # a token is rarely longer; spares tokenizing whole books
            text = document.text[: most * 16]
            found = tokenizer.encode(text, add_special_tokens=False)
            clipped = clipped or len(found) > most or len(text) < len(document.text)
            ids += [*found[:most], separator]
            if len(ids) >= needed:
                packed = torch.tensor(ids[:needed]).view(chunks, length)
                if start is not None:
                    packed[:, 0] = start
                return packed
        most *= 4  # a few books: take more of each
    raise InputError(
        f"calibration is too short: {len(ids)} tokens, {chunks} chunks of {length} need {needed}; "
        "give more text or fewer --chunks"
    )


def _kept_ids(path: Path) -> Tensor:
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False).astype(np.int64))
    except (OSError, ValueError, AttributeError) as error:  # Attribute: an .npz
        raise InputError(
            f"kept ids {path} cannot be read ({error}): give the id_map.npy of a compact tokenizer"
        ) from error
