"""TrainConfig: every setting of a training run, in plain types, each with its meaning beside it."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from tinylm.errors import InputError
from tinylm.train.distillation import Distillation
from tinylm.train.optimizers import Optimizer
from tinylm.train.rounds import Granularity, LossSource, Strategy, weighs
from tinylm.train.schedule import RoundSchedule
from tinylm.train.trackers import TrackerName

_HOLDS: dict[type, Callable[[Any, Any], bool]] = {
    Ge: lambda value, bound: value >= bound.ge,
    Gt: lambda value, bound: value > bound.gt,
    Le: lambda value, bound: value <= bound.le,
    Lt: lambda value, bound: value < bound.lt,
}
Count = Annotated[int, Ge(0)]
AtLeastOne = Annotated[int, Ge(1)]
Share = Annotated[float, Ge(0), Le(1)]
Positive = Annotated[float, Gt(0)]
Auto = Literal["auto"]  # measured or derived when the run begins


@dataclass(frozen=True)
class LengthSettings:
    """What is read, and for how long."""

    sequence_length: Annotated[int, Ge(2)] = 512  # tokens a sequence
    batch_size: AtLeastOne = 8  # sequences an optimiser step, over all processes
    # sequences a process runs at once; 0: the whole of its batch (less memory when smaller)
    micro_batch_size: Count = 0
    steps: Count = 0  # optimiser steps over all rounds; 0: each round reads its data once
    # training tokens a parameter, instead of steps: 20 is the usual least, the paper has 50
    tokens_per_parameter: Annotated[float, Ge(0)] = 0.0
    # of training on this machine, instead of steps: some steps are timed when it begins
    hours: Annotated[float, Ge(0)] = 0.0
    # share of each source of the store, in the order of the corpus' paths; empty: as they come
    mixture: tuple[float, ...] = ()
    document_mask: bool = False  # attention and positions do not cross document boundaries
    seed: Count = 0  # of the order of the data, the draws and dropout


@dataclass(frozen=True)
class RoundSettings:
    """Formula 4 of the paper: passes over the data, and what the later ones see."""

    # passes over the data, later ones over what the strategy draws; auto: one while there is fresh
    # text for all steps
    rounds: AtLeastOne | Auto = "auto"
    # share of round 0's data that each later round trains on
    sampling_rate: Annotated[float, Gt(0), Le(1)] = 0.5
    # which data stay: probability ~ exp(loss / temperature), and its comparators; auto: uniform
    # where rounds = "auto" finds the text used up, exp-loss (the paper) where rounds are a number
    strategy: Strategy | Auto = "auto"
    # what is drawn: whole batches (the paper) or single sequences
    granularity: Granularity = "batch"
    # of exp-loss and excess-loss: higher is closer to uniform
    temperature: Positive = 1.0
    # instead of a temperature: the share of the units that count, 1 / (n * sum of p^2); 0: as the
    # temperature makes it
    effective_sample: Annotated[float, Ge(0), Lt(1)] = 0.0
    # losses from a pass of the frozen model, or those seen while training (free)
    loss_source: LossSource = "pass"
    # learning rate: one cosine over all rounds, or one for each
    round_schedule: RoundSchedule = "one-cosine"


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimiser and its learning rate."""

    optimizer: Optimizer = "adamw"  # muon moves the matrices inside the layers, adamw the rest
    # lr = (tokens per batch / base_batch_tokens) ** lr_exponent * base_lr
    # auto: measured by short runs from the first weights
    base_lr: Positive | Auto = "auto"
    base_batch_tokens: AtLeastOne = 4096  # tokens a batch at which the rate is base_lr
    lr_exponent: Annotated[float, Ge(0)] = 0.5  # how the rate grows with the batch
    min_lr_ratio: Share = 0.1  # last learning rate over the highest
    warmup: Share = 0.03  # share of the steps in which the rate rises
    # such steps at least, a third of the run at most: Adam's moments need some 20 to mean anything
    warmup_steps: Count = 20
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9  # memory of the mean gradient
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.95  # memory of the squared gradient
    epsilon: Positive = 1e-8  # added to the root of the squared gradient
    weight_decay: Annotated[float, Ge(0)] = 0.1  # of matrices; gains and biases have none
    clip: Annotated[float, Ge(0)] = 1.0  # largest gradient norm; 0: no limit
    z_loss: Annotated[float, Ge(0)] = 0.0  # weight of log(Z)^2, keeps logits small


@dataclass(frozen=True)
class DistillationSettings:
    """Learning from a teacher's logits."""

    # where teacher logits come from: the teacher beside us, or a stored top-k table
    distillation: Distillation = "none"
    # share of the teacher's target in the loss, next-token loss has the rest
    distillation_weight: Share = 0.5
    distillation_temperature: Positive = 1.0  # of a live teacher; a stored one has 1
    stored_top_k: AtLeastOne = 32  # tokens kept a position by distillation = "stored"


@dataclass(frozen=True)
class SpeedSettings:
    """How fast it runs, and in how much memory."""

    bf16: bool = True  # compute in bfloat16, weights kept in float32 too; false: all float32
    compile: bool = True  # compile each decoder layer; the first step is some seconds slower
    loss_chunk: AtLeastOne = 1024  # positions whose logits exist at the same time
    gradient_checkpointing: bool = False  # layers run again in the backward pass: less memory
    # with torchrun: 1 spreads the model over all processes, more keeps so many whole copies
    model_copies: AtLeastOne = 1


@dataclass(frozen=True)
class GuardSettings:
    """What a run does when it goes wrong."""

    # skip a step whose loss is this many standard deviations above the recent mean; 0: never
    spike_sigmas: Annotated[float, Ge(0)] = 6.0
    max_skips: Count = 20  # skipped steps before the run stops
    # publish the best state by held-out loss, go back to it when the run diverges
    never_worse: bool = True
    watch_every: Count = 0  # steps between looks at the held-out loss; 0: ten in all


@dataclass(frozen=True)
class KeepingSettings:
    """What is written on the way."""

    checkpoint_every: Count = 200  # steps; 0: only when stopped
    keep_checkpoints: AtLeastOne = 2  # the newest; older ones are removed
    # steps between Hugging Face directories OUT/models/step-N; 0: only the last, OUT/model
    export_every: Count = 0
    log_every: AtLeastOne = 1  # steps between lines of metrics.jsonl
    evaluate_every: Count = 0  # steps between losses on the validation store; 0: only at the end
    forgetting: bool = False  # after each round, the loss of every batch in the order it was seen
    trackers: tuple[TrackerName, ...] = ()  # repeat metrics.jsonl to these


# the bases stand from the last to the first: a dataclass lists its fields in that order
@dataclass(frozen=True)
class TrainConfig(
    KeepingSettings,
    GuardSettings,
    SpeedSettings,
    DistillationSettings,
    OptimizerSettings,
    RoundSettings,
    LengthSettings,
):
    """Settings of one training run.

    Same config, data, model and machine: bitwise the same weights, on a CPU. On a GPU the backward
    pass of fused attention adds in no fixed order.
    """

    @property
    def tokens_per_batch(self) -> int:
        return self.batch_size * self.sequence_length

    @property
    def learning_rate(self) -> float:
        """The highest learning rate, by the rule lr = (bs / bs0)^r * lr0 of the paper; ``base_lr``
        must be known."""
        assert self.base_lr != "auto"
        return (self.tokens_per_batch / self.base_batch_tokens) ** self.lr_exponent * self.base_lr

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def settle_length(self, parameters: int) -> "TrainConfig":
        """``tokens_per_parameter`` as steps, for a model of so many parameters."""
        if not self.tokens_per_parameter:
            return self
        steps = max(1, round(self.tokens_per_parameter * parameters / self.tokens_per_batch))
        return dataclasses.replace(self, steps=steps, tokens_per_parameter=0.0)

    def validate(self) -> "TrainConfig":
        """Self, or an InputError naming the key, its value and what is allowed."""
        for key, hint in get_type_hints(TrainConfig, include_extras=True).items():
            value = getattr(self, key)
            kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
            words = [allowed for kind in kinds if (allowed := _refused(value, kind))]
            if len(words) == len(kinds):
                self._refuse(key, " or ".join(words))
        lengths = [key for key in ("steps", "tokens_per_parameter", "hours") if getattr(self, key)]
        if len(lengths) > 1:
            self._refuse(lengths[1], f"0 beside train.{lengths[0]}: give one of the two")
        if self.mixture and not lengths:
            self._refuse("mixture", "given with steps, tokens_per_parameter or hours")
        if self.effective_sample and not weighs(self):
            self._refuse("effective_sample", f"0 with train.strategy = {self.strategy!r}")
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            self._refuse("micro_batch_size", f"a divisor of batch_size ({self.batch_size})")
        return self

    def _refuse(self, key: str, allowed: str) -> None:
        raise InputError(f"train.{key} = {getattr(self, key)!r}: must be {allowed}")


def _refused(value: Any, kind: Any) -> str:
    """What ``kind`` allows, in words, when ``value`` is something else; "" when it is fine."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal and value not in arguments:
        return "one of " + ", ".join(arguments) if len(arguments) > 1 else f'"{arguments[0]}"'
    if origin is Annotated and not _is_within(value, *arguments):
        return _range(*arguments[1:])
    if origin is tuple and arguments[0] is float:
        fine = all(_is_within(share, float, Ge(0)) for share in value)
        return "" if fine and (not value or sum(value) > 0) else "numbers of 0 or more, not all 0"
    if origin is tuple and not set(value) <= set(known := get_args(arguments[0])):
        return "of " + ", ".join(known)
    return ""


def _is_within(value: Any, kind: type, *bounds: Any) -> bool:
    types = (int,) if kind is int else (int, float)
    if not isinstance(value, types) or isinstance(value, bool) or value != value:
        return False
    return all(_HOLDS[type(bound)](value, bound) for bound in bounds)


def _range(low: Any, high: Any = None) -> str:
    """In words: "a number of 1 or more", "a number from 0 to 1"."""
    least = getattr(low, "ge", None)
    if high is None:
        return f"a number above {low.gt}" if least is None else f"a number of {least} or more"
    start = f"above {low.gt}" if least is None else f"from {least}"
    return f"a number {start} to " + (f"{high.le}" if isinstance(high, Le) else f"below {high.lt}")
