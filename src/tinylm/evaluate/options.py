"""What a person may choose about an evaluation."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EvaluateOptions:
    """Settings of ``tinylm evaluate``."""

    # folder of the benchmark files (layout: docs/evaluation.md); without it they come from the hub
    task_data: str | Path | None = None
    # items of each task, spread over its subjects; all by default. Small limits: large errors
    limit: int | None = None
    # counts.npz of the first model's tokenizer: --text also by how frequent its tokens are
    counts: Path | None = None
    # solved examples before each item; by default 5 for MMLU, C-Eval and CMMLU, 0 for the rest
    num_fewshot: int | None = None
    batch_size: int | str = "auto"  # tokens per forward pass, or auto
    # tokens a model sees at once; by default 512 for --text, and all the model has for tasks
    context: int | None = None
    # bfloat16, float16, float32, or auto: bfloat16 where the processor is fast at it, else float32
    dtype: str = "auto"
    device: str = "auto"  # cpu, cuda, or auto (a GPU where there is one)
