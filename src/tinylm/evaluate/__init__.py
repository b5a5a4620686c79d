"""Bits per byte and benchmark tasks, with errors. ``tinylm.evaluate(...)`` is
:func:`tinylm.evaluate.models.evaluate`."""

from tinylm import make_callable

make_callable(__name__)
