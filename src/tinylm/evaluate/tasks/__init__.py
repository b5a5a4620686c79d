"""The benchmark tasks: lm-eval task files (``*.yaml`` here) and their readers."""
