"""The benchmark tasks: lm-eval task files (``*.yaml`` here), their readers, and :func:`evaluate`, which runs them."""

from pathlib import Path

FOLDER = Path(__file__).parent  # for `lm_eval --include_path`
PREFIX = "tinylm_"  # task names inside lm-eval, so that its own tasks of that name stay reachable
