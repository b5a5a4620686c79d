"""Where a teacher's word on a batch comes from: nowhere, the teacher beside us, or a stored
table."""

import dataclasses
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from tinylm.train.rounds import uses_teacher

if TYPE_CHECKING:
    from tinylm.train.batches import MicroBatch
    from tinylm.train.config import TrainConfig
    from tinylm.train.loss import TeacherTargets
    from tinylm.train.run import Run

# of a micro-batch; None: there is no teacher
Targets = Callable[["MicroBatch"], "TeacherTargets | None"]


def _none(run: "Run", teacher: Any) -> Targets:
    return lambda piece: None


def _live(run: "Run", teacher: Any) -> Targets:
    """The teacher runs on every micro-batch."""
    from tinylm.train.loss import TeacherTargets

    student = as_student(run, teacher)
    config = run.config

    def targets(piece: "MicroBatch") -> "TeacherTargets":
        hidden_TD = student.hidden(piece.ids, piece.positions)
        return TeacherTargets(
            config.distillation_weight,
            config.distillation_temperature,
            hidden=hidden_TD,
            head=student.head,
        )

    return targets


def _stored(run: "Run", teacher: Any) -> Targets:
    """The teacher's best tokens on the whole pool are beside the store, or are computed now."""
    from tinylm.train.loss import TeacherTargets

    student = as_student(run, teacher)
    table = _teacher_table(run, student)
    student.model.to("cpu")  # the caller may hold it: a GPU's memory is for the student

    def targets(piece: "MicroBatch") -> "TeacherTargets":
        log_probs, ids = table.lookup(piece.sequences, run.device)
        return TeacherTargets(run.config.distillation_weight, top_log_probs=log_probs, top_ids=ids)

    return targets


DISTILLATIONS: dict[str, Callable[["Run", Any], Targets]] = {
    "none": _none,
    "live": _live,
    "stored": _stored,
}
if TYPE_CHECKING:
    Distillation = str
else:
    Distillation = Literal[tuple(DISTILLATIONS)]


def needs_teacher(config: "TrainConfig") -> bool:
    """Whether a teacher must be loaded: to learn from, or to draw data by."""
    return DISTILLATIONS[config.distillation] is not _none or uses_teacher(config)


def as_student(run: "Run", teacher: Any, config: "TrainConfig | None" = None) -> Any:
    """The teacher, frozen and on the run's device, called as the student is."""
    from tinylm.train.student import Student, set_parameter_dtype

    set_parameter_dtype(teacher, run.dtype)
    teacher = teacher.to(run.device).eval().requires_grad_(False)
    return Student(teacher, config or run.config, run.device, run.dtype)


def _teacher_table(run: "Run", teacher: Any) -> Any:
    import numpy as np
    import torch

    from tinylm.artifact import hash_of
    from tinylm.train.batches import micro_batches
    from tinylm.train.teacher_table import make_or_open

    config, store = run.config, run.store

    def hidden(sequences: np.ndarray) -> torch.Tensor:
        one_piece = dataclasses.replace(config, micro_batch_size=0)
        (piece,) = micro_batches(store, one_piece, sequences, run.device)
        return teacher.hidden(piece.ids, piece.positions)

    sample = torch.cat([w.flatten()[:64].float().cpu() for w in teacher.model.parameters()])
    metadata = {
        "store": store.fingerprint,
        "teacher": hash_of(sample.tolist()),
        "length": config.sequence_length,
        "top_k": config.stored_top_k,
        "document_mask": config.document_mask,
    }
    beside = store.path if os.access(store.path, os.W_OK) else run.out
    length = config.sequence_length
    return make_or_open(
        beside / f"teacher-{hash_of(metadata)}",
        metadata,
        np.sort(run.plan.pool.reshape(-1)),
        (store.num_sequences(length), length, config.stored_top_k),
        hidden,
        teacher.head,
        config.micro_batch_size or config.batch_size,
        run.world,
    )
