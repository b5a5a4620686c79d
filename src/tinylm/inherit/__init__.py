"""Formula 3, parameter inheritance: a student of an exact shape that starts from a teacher's
weights. ``tinylm.inherit(...)`` is :func:`tinylm.inherit.inheritance.inherit`."""

from tinylm import make_callable

make_callable(__name__)
