"""The benchmark tasks: lm-eval task files (``*.yaml`` here), their readers, and :func:`evaluate`,
which runs them."""

from tinylm.evaluate.models import evaluate
from tinylm.evaluate.tasks.run import FOLDER, NAMES, choose, load_tasks

__all__ = ["FOLDER", "NAMES", "choose", "evaluate", "load_tasks"]
