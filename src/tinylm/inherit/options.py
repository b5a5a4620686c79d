"""What a person may choose about an inheritance."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tinylm.inherit.criteria import Criterion
from tinylm.inherit.layers import LayerRule
from tinylm.inherit.repair import Repair

Streaming = Literal["auto", "always", "never"]


@dataclass(frozen=True)
class CutSettings:
    """What stays of the teacher, and what is mended."""

    # which units inside a layer stay: taylor by gradients, obs by what a refit cannot make up for,
    # l1 and l2 by weights, learned by masks
    criterion: Criterion = "taylor"
    # which layers stay: skip-loss skips each once; greedy measures again after each that goes,
    # three times as long
    layers: LayerRule = "skip-loss"
    # text the teacher is scored and the student repaired on: what `corpus pack` reads
    calibration: list[str] = field(default_factory=list)
    chunks: int = 160  # calibration chunks; text is packed, nothing is padded
    length: int = 512  # tokens a chunk
    # after the cut: norms rescales gains after a hidden cut, refit(-all) solves 2 (7) matrices
    repair: tuple[Repair, ...] = ("norms", "refit")
    # scores of an earlier run (its OUT/scores): a second shape then takes seconds
    scores: Path | None = None
    # id_map.npy naming the teacher's ids that stay, when the target's vocabulary is smaller
    kept_ids: Path | None = None
    seed: int = 0  # of criterion random


@dataclass(frozen=True)
class DeviceSettings:
    """Where it is computed, and in how much memory."""

    # of the teacher at work and of the student; auto: bfloat16 where it is fast here, else float32
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    device: str = "auto"  # cpu, cuda, cuda:1; auto takes a GPU where there is one
    # whether the teacher's layers stay on disk and are read one at a time: auto does so where the
    # whole would not fit in memory
    stream: Streaming = "auto"


# the bases stand from the last to the first: a dataclass lists its fields in that order
@dataclass(frozen=True)
class InheritOptions(DeviceSettings, CutSettings):
    """Settings of ``tinylm inherit``."""
