"""Whether the prompts of tasks fit a model's context, asked without the model."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.models.utils import resolve_max_length

from tinylm.evaluate.adapter import TinyLM
from tinylm.evaluate.forward import prefix_token
from tinylm.evaluate.tasks.run import load_tasks, run_tasks


def check_lengths(config: Any, tokenizer: Any, tasks: Sequence[str], data: str, limit: int) -> None:
    """InputError when ``limit`` items of the ``tasks`` (files in ``data``) do not fit the context
    of a model of ``config``."""
    run_tasks(_Lengths(config, tokenizer), load_tasks(tasks, Path(data)), limit)


class _Lengths(TinyLM):
    """Reads every prompt of the tasks, and refuses those that do not fit, without a model."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        super(TinyLM, self).__init__()  # not TinyLM's own, which takes the model apart
        self.tokenizer, self.truncated = tokenizer, Counter()
        self.max_length = resolve_max_length(config, tokenizer)
        self._prefix = prefix_token(tokenizer)

    def _loglikelihood_tokens(self, requests: list, **_: Any) -> list:
        return [(0.0, False)] * len(requests)

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list:
        return [0.0] * len(requests)

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list:
        return [""] * len(requests)
