"""What a person may choose about an export."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class FileSettings:
    """What is written."""

    # F32, F16 (default), BF16, Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q5_1, Q5_0, Q4_K_M, Q4_K_S, Q4_1, Q4_0;
    # of mlx F32, F16 (default), BF16, INT8 or INT4; of executorch F32 (default), INT8 or INT4; of
    # onnx F32 (default) or INT4
    quantize: str | None = None
    # of gguf below 8 bits: texts of the kind the model is for; what they bring to each matrix
    # weighs the errors of packing (an importance matrix)
    importance: list[Path] = field(default_factory=list)
    overwrite: bool = False  # replace --out when it exists
    # of gguf: llama.cpp's name of the rules that split text, when they cannot be recognised
    pre_tokenizer: str | None = None
    modelfile: bool = False  # of gguf: also write OUT's .Modelfile, for `ollama create`
    # of card: JSON files it is made from: results.json of a run, reports of exports, the device
    # table
    facts: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class CheckSettings:
    """How it is proved to be the same model."""

    # run the file in its own runtime and compare tokens, distributions, greedy text and bits per
    # byte with transformers; nothing is written when they differ
    check: bool = True
    # corpus files to measure bits per byte on, besides the built-in text (first few thousand
    # tokens)
    text: list[Path] = field(default_factory=list)
    verify: Path | None = None  # instead of writing, check this GGUF file against --model
    threads: int = 1  # of llama.cpp during the check


@dataclass(frozen=True)
class HubSettings:
    """Sending it to the hub."""

    # repository of the hub, USER/NAME, that the model with its card goes to, and --out if given
    push: str | None = None
    # more files that go with --push: GGUFs made before
    also: list[Path] = field(default_factory=list)
    private: bool = False  # a repository that --push makes is seen by you alone
    dry_run: bool = False  # of --push: write nothing, list what would go


# the bases stand from the last to the first: a dataclass lists its fields in that order
@dataclass(frozen=True)
class ExportOptions(HubSettings, CheckSettings, FileSettings):
    """Settings of ``tinylm export``."""
