"""TrainConfig: every setting of a training run, in plain types, each with its meaning beside it."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tinylm.errors import InputError

Strategy = Literal["exp-loss", "uniform", "top-loss", "loss-change", "all"]
Granularity = Literal["batch", "sequence"]
LossSource = Literal["pass", "training"]
Optimizer = Literal["adamw", "muon"]
RoundSchedule = Literal["one-cosine", "restart"]
Distillation = Literal["none", "live", "stored"]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run.

    Same config, data, model and machine: bitwise the same weights, on a CPU. On a GPU the backward
    pass of fused attention adds in no fixed order.
    """

    # Data and length
    sequence_length: int = 512  # tokens a sequence
    batch_size: int = 8  # sequences an optimiser step, over all processes
    # sequences a process runs at once; 0: the whole of its batch (less memory when smaller)
    micro_batch_size: int = 0
    steps: int = 0  # optimiser steps over all rounds; 0: each round reads its data once
    document_mask: bool = False  # attention and positions do not cross document boundaries
    seed: int = 0

    # Rounds (formula 4 of the paper)
    rounds: int = 1
    sampling_rate: float = 0.5  # share of round 0's data that each later round trains on
    # which data stay: probability ~ exp(loss / temperature), and its comparators
    strategy: Strategy = "exp-loss"
    # what is drawn: whole batches (the paper) or single sequences
    granularity: Granularity = "batch"
    temperature: float = 1.0  # of exp-loss: higher is closer to uniform
    # losses from a pass of the frozen model, or those seen while training (free)
    loss_source: LossSource = "pass"
    # learning rate: one cosine over all rounds, or one for each
    round_schedule: RoundSchedule = "one-cosine"

    # Optimiser
    optimizer: Optimizer = "adamw"
    base_lr: float = 1e-3  # lr = (tokens per batch / base_batch_tokens) ** lr_exponent * base_lr
    base_batch_tokens: int = 4096
    lr_exponent: float = 0.5
    min_lr_ratio: float = 0.1  # last learning rate over the highest
    warmup: float = 0.03  # share of the steps
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1  # of matrices; gains and biases have none
    clip: float = 1.0  # largest gradient norm; 0: no limit
    z_loss: float = 0.0  # weight of log(Z)^2, keeps logits small

    # Distillation
    distillation: Distillation = (
        "none"  # where teacher logits come from: the teacher beside us, or a stored top-k table
    )
    # share of the teacher's target in the loss, next-token loss has the rest
    distillation_weight: float = 0.5
    distillation_temperature: float = 1.0  # of a live teacher; a stored one has 1
    stored_top_k: int = 32  # tokens kept a position by distillation = "stored"

    # Speed and memory
    bf16: bool = True  # compute in bfloat16, weights kept in float32 too; false: all float32
    compile: bool = True  # compile each decoder layer; the first step is some seconds slower
    loss_chunk: int = 1024  # positions whose logits exist at the same time
    gradient_checkpointing: bool = False
    # with torchrun: 1 spreads the model over all processes, more keeps so many whole copies
    model_copies: int = 1

    # Guards
    # skip a step whose loss is this many standard deviations above the recent mean; 0: never
    spike_sigmas: float = 6.0
    max_skips: int = 20  # skipped steps before the run stops

    # Keeping
    checkpoint_every: int = 200  # steps; 0: only when stopped
    keep_checkpoints: int = 2
    # steps between Hugging Face directories OUT/models/step-N; 0: only the last, OUT/model
    export_every: int = 0
    log_every: int = 1  # steps between lines of metrics.jsonl
    evaluate_every: int = 0  # steps between losses on the validation store; 0: only at the end
    forgetting: bool = False  # after each round, the loss of every batch in the order it was seen
    trackers: tuple[str, ...] = ()  # of wandb, trackio, tensorboard

    @property
    def tokens_per_batch(self) -> int:
        return self.batch_size * self.sequence_length

    @property
    def learning_rate(self) -> float:
        """The highest learning rate, by the rule lr = (bs / bs0)^r * lr0 of the paper."""
        return (self.tokens_per_batch / self.base_batch_tokens) ** self.lr_exponent * self.base_lr

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def validate(self) -> "TrainConfig":
        """Self, or an InputError naming the key, its value and what is allowed."""
        choices = {
            "strategy": Strategy,
            "granularity": Granularity,
            "loss_source": LossSource,
            "optimizer": Optimizer,
            "round_schedule": RoundSchedule,
            "distillation": Distillation,
        }
        for key, allowed in choices.items():
            if getattr(self, key) not in get_args(allowed):
                self._refuse(key, "one of " + ", ".join(get_args(allowed)))
        for key, least in _LEAST.items():
            if not self._is_number(key) or getattr(self, key) < least:
                self._refuse(key, f"a number of {least} or more")
        for key in _ABOVE_ZERO:
            if not self._is_number(key) or not getattr(self, key) > 0:
                self._refuse(key, "a number above 0")
        for key in (
            "sampling_rate",
            "min_lr_ratio",
            "warmup",
            "distillation_weight",
            "beta1",
            "beta2",
        ):
            if not self._is_number(key) or not 0 <= getattr(self, key) <= 1:
                self._refuse(key, "a number from 0 to 1")
        for key in ("beta1", "beta2"):
            if getattr(self, key) == 1:
                self._refuse(key, "below 1")
        if self.sampling_rate == 0:
            self._refuse("sampling_rate", "above 0")
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            self._refuse("micro_batch_size", f"a divisor of batch_size ({self.batch_size})")
        for tracker in self.trackers:
            if tracker not in ("wandb", "trackio", "tensorboard"):
                self._refuse("trackers", "of wandb, trackio, tensorboard")
        return self

    def _is_number(self, key: str) -> bool:
        value = getattr(self, key)
        whole = isinstance(getattr(TrainConfig, key), int)
        return (
            isinstance(value, int if whole else (int, float))
            and not isinstance(value, bool)
            and value == value
        )

    def _refuse(self, key: str, allowed: str) -> None:
        raise InputError(f"train.{key} = {getattr(self, key)!r}: must be {allowed}")


_LEAST = {
    "sequence_length": 2,
    "batch_size": 1,
    "micro_batch_size": 0,
    "steps": 0,
    "seed": 0,
    "rounds": 1,
    "base_batch_tokens": 1,
    "weight_decay": 0,
    "clip": 0,
    "z_loss": 0,
    "loss_chunk": 1,
    "model_copies": 1,
    "spike_sigmas": 0,
    "max_skips": 0,
    "checkpoint_every": 0,
    "keep_checkpoints": 1,
    "export_every": 0,
    "log_every": 1,
    "evaluate_every": 0,
    "lr_exponent": 0,
    "stored_top_k": 1,
}
_ABOVE_ZERO = ("temperature", "base_lr", "epsilon", "distillation_temperature")
