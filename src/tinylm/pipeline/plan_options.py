"""What a person may choose about a plan and its measurements."""

from dataclasses import dataclass
from pathlib import Path

from tinylm.models.block import Block


@dataclass(frozen=True)
class ShapeSettings:
    """Which shapes are candidates."""

    # directory, .gguf file, hub id or smollm2-135m: only shapes that can be cut from it
    teacher: str | None = None
    # numbers of layers to compare, e.g. 15,20,25,30: the best shape of each
    depths: str | None = None
    # pangu-pi counts the series activation and the shortcuts in; `inherit` then grafts them
    block: Block = "plain"
    limit: int = 10  # at most so many candidates
    # folder for plan.json (all numbers), SHAPE.toml (the best shape), pareto.svg
    out: Path | None = None


@dataclass(frozen=True)
class TimingSettings:
    """How fast they run here."""

    # time every candidate (random weights): prefill, decode, first token, peak memory
    measure: bool = False
    batches: str = "1,20"  # batch sizes to time, e.g. 1,20
    new_tokens: int = 510  # tokens generated in each timing; 510 is the paper's protocol
    repeats: int = 5  # timings of each; the table has the median and the range
    device: str = "auto"  # cpu, cuda, or auto (a GPU where there is one)
    finalists: int = 0  # also time so many of the best through llama.cpp in Q8_0
    # time anew what was timed on this machine before (timings are kept in the cache folder)
    again: bool = False


@dataclass(frozen=True)
class TrainingSettings:
    """How well they learn, and what that costs."""

    # train every candidate on so many tokens and report bits per byte (needs --data)
    train_tokens: float = 0
    # folder with the token stores train/ and valid/, packed with vocab-size tokens
    data: Path | None = None
    # also tell what training the best shape on so many tokens costs (FLOPs, device-hours)
    bill_tokens: float = 0.0
    # of one device for that bill, per second; the default is an H100 in bf16
    peak_flops: float = 989e12
    mfu: float = 0.4  # share of the peak that training is assumed to reach


# the bases stand from the last to the first: a dataclass lists its fields in that order
@dataclass(frozen=True)
class PlanOptions(TrainingSettings, TimingSettings, ShapeSettings):
    """Settings of ``tinylm plan``."""
