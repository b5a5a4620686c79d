"""The benchmark tasks: lm-eval task files (``*.yaml`` here) and their readers."""

from tinylm.evaluate.tasks.run import FOLDER, NAMES, choose, load_tasks

__all__ = ["FOLDER", "NAMES", "choose", "load_tasks"]
