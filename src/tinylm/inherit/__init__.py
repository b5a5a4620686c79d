"""Formula 3, parameter inheritance: a student of an exact shape that starts from a teacher's
weights."""

from tinylm.inherit.inheritance import Inherited, inherit, save, score
from tinylm.inherit.scores import Scores

__all__ = ["Inherited", "Scores", "inherit", "save", "score"]
