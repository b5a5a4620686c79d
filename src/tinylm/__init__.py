"""tinylm: turn a large open language model and a corpus into the best tiny one for a budget.

The public API, loaded on first use so that ``import tinylm`` is instant:

* the whole pipeline: `tinylm.pipeline.run.run`, `tinylm.pipeline.recipe.read_recipe`
* formula 1, compact tokenizer: `tinylm.tokenizer.count.count`,
  `tinylm.tokenizer.compress.compress`
* formula 2, architecture: `tinylm.architecture.plan.plan`
* formula 3, inheritance: `tinylm.inherit.inheritance.inherit`
* formula 4, training: `tinylm.corpus.pack.pack`, `tinylm.corpus.store.open_store`,
  `tinylm.train.config.TrainConfig`, `tinylm.train.loop.train`
* a finished model: `tinylm.models.teacher.load_model`, `tinylm.models.teacher.load_tokenizer`,
  `tinylm.models.generate.generate`, `tinylm.evaluate.models.evaluate`,
  `tinylm.export.run.export`

Each is ``tinylm.NAME`` too, e.g. ``tinylm.run("demo", "runs/demo")``. ``inherit``, ``train``,
``evaluate`` and ``export`` are packages that can be called.
"""

import importlib
import inspect
import sys
import types
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULE_OF = {  # public name -> the module that defines it
    "count": "tinylm.tokenizer.count",
    "compress": "tinylm.tokenizer.compress",
    "plan": "tinylm.architecture.plan",
    "inherit": "tinylm.inherit.inheritance",
    "pack": "tinylm.corpus.pack",
    "open_store": "tinylm.corpus.store",
    "train": "tinylm.train.loop",
    "TrainConfig": "tinylm.train.config",
    "evaluate": "tinylm.evaluate.models",
    "generate": "tinylm.models.generate",
    "load_model": "tinylm.models.teacher",
    "load_tokenizer": "tinylm.models.teacher",
    "export": "tinylm.export.run",
    "run": "tinylm.pipeline.run",
    "read_recipe": "tinylm.pipeline.recipe",
}
_PACKAGES = ("inherit", "train", "evaluate", "export")  # names that are folders of code as well

if TYPE_CHECKING:
    from tinylm.architecture.plan import plan
    from tinylm.corpus.pack import pack
    from tinylm.corpus.store import open_store
    from tinylm.evaluate.models import evaluate
    from tinylm.export.run import export
    from tinylm.inherit.inheritance import inherit
    from tinylm.models.generate import generate
    from tinylm.models.teacher import load_model, load_tokenizer
    from tinylm.pipeline.recipe import read_recipe
    from tinylm.pipeline.run import run
    from tinylm.tokenizer.compress import compress
    from tinylm.tokenizer.count import count
    from tinylm.train.config import TrainConfig
    from tinylm.train.loop import train


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"tinylm.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'tinylm' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_MODULE_OF]


class _CallablePackage(types.ModuleType):
    """A package that passes calls on to the public function of its own name."""

    @property
    def function(self) -> Any:
        name = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module(_MODULE_OF[name]), name)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def make_callable(package: str) -> None:
    """Let the package of that name be called; every package in ``_PACKAGES`` does it once."""
    sys.modules[package].__class__ = _CallablePackage
