"""One small function per command: parse, call, print. No logic lives here.

Heavy imports (torch, transformers) stay inside the functions so that ``--help`` answers at once.
Annotations and docstrings are the help text (tyro reads them).
"""
