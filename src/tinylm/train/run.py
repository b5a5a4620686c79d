"""A training run: everything that lives from its first step to its last."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tinylm.corpus.store import TokenStore
from tinylm.machine import can_compile, choose_device, fast_dtype, keep_freed_memory
from tinylm.models.cost import training_flops_of_model
from tinylm.terminal import console
from tinylm.train.batches import Prefetch, make_plan
from tinylm.train.checkpoint import Checkpoints
from tinylm.train.config import TrainConfig
from tinylm.train.distillation import DISTILLATIONS
from tinylm.train.guards import Guard
from tinylm.train.inputs import check_inputs, weights_hash
from tinylm.train.master_weights import MasterWeights
from tinylm.train.metrics import Metrics
from tinylm.train.optimizers import OPTIMIZERS
from tinylm.train.parallel import World, shard
from tinylm.train.rounds import uses_teacher
from tinylm.train.step import read_batch
from tinylm.train.student import Student, set_parameter_dtype
from tinylm.train.watch import watch_text

LARGE_BATCH = 4_000_000  # tokens; above it the paper's learning-rate rule no longer holds


class Run:
    """Model, optimiser, data plan, losses of the data, guard, and the number of steps done.

    What is done with it: :mod:`~tinylm.train.step`, :mod:`~tinylm.train.resampling`,
    :mod:`~tinylm.train.evaluation`, :mod:`~tinylm.train.resume`, :mod:`~tinylm.train.output`.
    """

    metrics: Metrics  # of the first process; opened by resume

    def __init__(
        self,
        model: Any,
        store: TokenStore,
        config: TrainConfig,
        out: Path,
        teacher: Any = None,
        order_from: Path | None = None,
        valid_store: TokenStore | None = None,
    ) -> None:
        check_inputs(model, store, config, teacher)
        keep_freed_memory()
        self.device = choose_device()
        self.world = World(self.device)
        if config.compile and not can_compile(self.device):
            self.log(
                "[yellow]no C++ compiler with Python's headers here: layers are not compiled,"
                " training is slower[/]"
            )
            config = dataclasses.replace(config, compile=False)
        self.config, self.store, self.out, self.order_from = config, store, out, order_from
        self.dtype = fast_dtype(self.device) if config.bf16 else torch.float32
        self.plan = make_plan(config, store)
        self.final_dtype = next(model.parameters()).dtype
        self.start = {"first weights": weights_hash(model), "teacher": weights_hash(teacher)}
        set_parameter_dtype(model.to(self.device), torch.float32)
        self.student = Student(model.train(), config, self.device, self.dtype)
        if self.world.size > 1:
            shard(self.student, self.student.layers, self.world, self.dtype, config.model_copies)
        self.masters = MasterWeights(model, self.dtype if self.world.size == 1 else torch.float32)
        self.teacher = teacher if uses_teacher(config) else None  # of the draws
        self.teacher_targets = DISTILLATIONS[config.distillation](self, teacher)
        self.optimizers = OPTIMIZERS[config.optimizer](config, self.masters)
        self.guard = Guard(config)
        self.watch = watch_text(self, valid_store)
        self.prefetch = Prefetch(lambda *step: read_batch(self, *step), self.plan.steps)
        self.checkpoints = Checkpoints(out / "checkpoints", config.keep_checkpoints, self.world)
        self.step, self.seconds, self.note = 0, 0.0, ""
        self.chosen: np.ndarray | None = None  # units of the present round; None: all
        # nats per token of every sequence of the pool, float[pool.size]: after the round before
        # this one, and when it was last trained on
        self.losses = np.full(self.plan.pool.size, np.nan)
        self.seen = np.full(self.plan.pool.size, np.nan)
        self.valid: dict[str, float] = {}
        self.evaluated_at = -1  # step
        self.measured_rate: dict[str, Any] = {}  # how base_lr = "auto" was found
        self.flops_per_token = training_flops_of_model(model, config.sequence_length)
        if config.tokens_per_batch > LARGE_BATCH:
            self.log(
                f"[yellow]{config.tokens_per_batch:,} tokens a batch: above 4M the rule for lr"
                " fails[/]"
            )

    def log(self, message: str) -> None:
        """A line for the person, once whatever the number of processes."""
        if self.world.is_main:
            console.print(message)
