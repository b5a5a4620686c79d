"""tinylm: turn a large open language model and a corpus into the best tiny one for a budget.

Import the room you need: ``tinylm.tokenizer``, ``tinylm.architecture``, ``tinylm.inherit``,
``tinylm.train`` are the four formulas of PanGu-pi Pro (arXiv 2402.02791) and do not depend on one
another; ``tinylm.pipeline.run`` joins them.
"""

__version__ = "0.1.0"
