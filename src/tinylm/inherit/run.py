"""From files to files: load the teacher, pack calibration text, inherit, write, reload."""

import hashlib
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinylm.artifact import file_hash, hash_of, refuse_filled, resumable_directory, write_json
from tinylm.errors import InputError
from tinylm.inherit import bill
from tinylm.inherit.calibration import calibration_chunks
from tinylm.inherit.cut import build, check_target, cut
from tinylm.inherit.inheritance import Inherited, inherit, save
from tinylm.inherit.norms import embedding_scale
from tinylm.inherit.options import InheritOptions, Streaming
from tinylm.inherit.progress import Progress
from tinylm.inherit.repair import check_repairs
from tinylm.inherit.score import needs_text, score_weights
from tinylm.inherit.scores import FILE, Scores
from tinylm.inherit.select import select
from tinylm.inherit.stack import Stack, checked_weights, streamed_teacher
from tinylm.machine import choose_device, fast_dtype
from tinylm.models import block, families
from tinylm.models.config import read_generation
from tinylm.models.shape import Shape, read_block, read_shape
from tinylm.models.shards import Shards
from tinylm.models.teacher import (
    fingerprint,
    generation_of,
    load_config,
    load_model,
    load_tokenizer,
    resolve,
)
from tinylm.terminal import console, quiet_transformers

PROGRESS = "progress"  # in the folder being worked in


def inherit_files(
    teacher: str,
    shape: Path,
    out: Path,
    options: InheritOptions = InheritOptions(),  # noqa: B008
) -> Inherited:
    """The work of ``tinylm inherit``; arguments as there. Writes the folder ``out`` and returns
    what is in it."""
    chunks, length = options.chunks, options.length
    if min(chunks, length) < 1:
        raise InputError(f"--chunks {chunks} and --length {length} must be 1 or more")
    refuse_filled(out)
    quiet_transformers()
    folder = resolve(teacher)
    config = load_config(folder)
    read_generation(folder)
    vocab = _kept_ids(options.kept_ids) if options.kept_ids else None
    rows = config.get_text_config().vocab_size
    target = read_shape(shape, rows if vocab is None else len(vocab))
    # names what no table explains, before anything is loaded
    if config.model_type not in families.FAMILIES:
        families.check_weights(Shards(folder, tied=False).sizes(), config)
    # an InputError now and not after the scoring, when the block does not fit the teacher
    block.config_for(read_block(shape), config)
    tokenizer = load_tokenizer(folder) if (folder / "tokenizer.json").exists() else None
    ids = None
    if options.calibration:
        if tokenizer is None:
            raise InputError(
                f"teacher {teacher} has no tokenizer.json: calibration text cannot be read"
            )
        ids = calibration_chunks(options.calibration, tokenizer, chunks, length)
    known = Scores.load(options.scores) if options.scores else None
    device = choose_device(options.device)
    dtype = fast_dtype(device) if options.dtype == "auto" else getattr(torch, options.dtype)
    check_repairs(options.repair)
    scored = file_hash(options.scores / FILE) if options.scores else None
    asked = {**vars(options), "scores": scored, "target": target}
    text = None if ids is None else hashlib.sha256(ids.numpy().tobytes()).hexdigest()
    identity = hash_of([fingerprint(folder), asked, text, str(dtype)])
    with resumable_directory(out) as scratch:
        if not options.repair and (known or not needs_text(options.criterion, options.layers)):
            result = inherit_streamed(folder, target, options, dtype, vocab, known)
        else:
            size = (0, 0) if ids is None else tuple(ids.shape)
            job = bill.Job(
                Shape.from_config(config),
                target,
                dtype,
                device,
                chunks=size[0],
                length=size[1],
                criterion=options.criterion,
                layers=options.layers,
                repair=options.repair,
                scored=known is not None,
            )
            progress = Progress(scratch / PROGRESS, identity)
            result = inherit_folder(
                folder, job, ids, options.stream, progress, known, vocab, options.seed
            )
        result.model = block.apply(read_block(shape), result.model, options.seed)
        _write(result, teacher, target, scratch, None if options.kept_ids else tokenizer)
        shutil.rmtree(scratch / PROGRESS, ignore_errors=True)
    return result


def inherit_folder(
    folder: Path,
    job: bill.Job,
    ids: Tensor | None,
    stream: Streaming = "auto",
    progress: Progress | None = None,
    scores: Scores | None = None,
    vocab: Tensor | None = None,
    seed: int = 0,
) -> Inherited:
    """What ``job`` says, of the teacher in ``folder``: in memory where it fits, else with its
    layers on disk. Tells before what that will take, and after what it took. ``progress``: what an
    earlier run of it found; the rest as in :func:`~tinylm.inherit.inheritance.inherit`."""
    progress = progress or Progress()
    # begun on disk it goes on there, with more memory free too
    begun = stream == "auto" and progress.way == _way(job, streamed=True)
    streamed = begun or bill.is_streamed(job, stream)
    progress.go(_way(job, streamed))
    console.print(bill.describe(job, streamed), highlight=False)
    if streamed:
        stack = streamed_teacher(folder, job.dtype, job.device, progress)
    else:
        stack = Stack(load_model(folder, job.dtype).to(job.device), progress=progress)
    result = inherit(
        stack,
        job.target,
        ids,
        job.criterion,
        job.layers,
        repair=job.repair,
        scores=scores,
        vocab=vocab,
        seed=seed,
    )
    console.print(f"it took {bill.compare(job, streamed, result.seconds)}", highlight=False)
    return result


def _way(job: bill.Job, streamed: bool) -> str:
    return f"{'on disk' if streamed else 'in memory'}, {job.dtype}, {job.device.type}"


def inherit_streamed(
    folder: Path,
    target: Shape,
    options: InheritOptions,
    dtype: torch.dtype = torch.float32,
    vocab: Tensor | None = None,
    scores: Scores | None = None,
) -> Inherited:
    """Scores from the weights (or ``scores`` of an earlier run) and the cut straight from the
    shards of ``folder``: one teacher tensor in memory at a time."""
    started = time.perf_counter()
    config = load_config(folder)
    weights, teacher = checked_weights(folder, config), Shape.from_config(config)
    check_target(teacher, target, vocab)
    scores = scores or score_weights(
        weights, config, options.criterion, options.layers, options.seed
    )
    scores.check(teacher, target)
    kept = select(scores, teacher, target, vocab)
    student = build(
        cut(weights, config, target, kept), config, target, kept, dtype, generation_of(folder)
    )
    embedding_scale(student, teacher.hidden_size)
    return Inherited(student, scores, kept, {"score and cut": time.perf_counter() - started})


def _write(result: Inherited, teacher: str, target: Shape, folder: Path, tokenizer: Any) -> None:
    save(result, folder, tokenizer)
    facts = {
        "teacher": teacher,
        "seconds": result.seconds,
        "kept_layers": result.kept.layers,
        "shape": target.to_dict(),
        "repair_losses": result.repair_losses,
    }
    write_json(folder / "inherit.json", facts)


def _kept_ids(path: Path) -> Tensor:
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False).astype(np.int64))
    except (OSError, ValueError, AttributeError) as error:  # Attribute: an .npz
        raise InputError(
            f"kept ids {path} cannot be read ({error}): give the id_map.npy of a compact tokenizer"
        ) from error
