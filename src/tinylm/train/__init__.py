"""Formula 4, multiple-round training. ``tinylm.train(...)`` is :func:`tinylm.train.loop.train`."""

from tinylm import make_callable

make_callable(__name__)
