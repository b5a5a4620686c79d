"""Recipe: everything a run depends on, as frozen dataclasses read from TOML.

Every wrong value is one clear line that names the key, the value and what is allowed.
"""

import contextlib
import dataclasses
import json
import math
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from tinylm.corpus.conversation import LossOn
from tinylm.errors import InputError
from tinylm.inherit.criteria import Criterion
from tinylm.inherit.layers import LayerRule
from tinylm.inherit.repair import Repair
from tinylm.models.block import Block
from tinylm.models.initialise import Scheme
from tinylm.models.shape import Shape
from tinylm.pipeline.settings import overlay, toml_value
from tinylm.train.config import TrainConfig


@dataclass(frozen=True)
class CorpusConfig:
    # files, folders, hub:NAME[@CONFIG][:SPLIT], embedded or embedded-chat
    paths: tuple[str, ...] = ("embedded",)
    # share of each path in training, e.g. [0.5, 0.5]; empty: as they come
    weights: tuple[float, ...] = ()
    # where a record's text is; "text": there, or else in "content"; "messages": conversations (role
    # and content), written by the teacher's chat template, and plain records beside them
    text_key: str = "text"
    # of conversations: what the model learns to say; "all": the user's part too
    loss_on: LossOn = "assistant"
    # of text read, from the start; 0: all. A hub data set can be larger than any disk
    max_bytes: int = 0
    valid_fraction: float = 0.03  # of documents, chosen by the hash of their text
    eval_bytes: int = 300_000  # held-out text scored for bits per byte
    # for the model card: codes such as "en", "zh" or "yue"
    languages: tuple[str, ...] = ()
    license: str = ""  # of the text, in words, for the model card

    def validate(self) -> None:
        _require(len(self.paths) > 0, "corpus.paths", self.paths, "at least one file or folder")
        count, known = len(self.paths), "one number of 0 or more for each path, not all 0"
        fine = len(self.weights) == count and all(0 <= w < math.inf for w in self.weights)
        fine = fine and sum(self.weights) > 0
        _require(not self.weights or fine, "corpus.weights", self.weights, known)
        _require(
            0 < self.valid_fraction < 1,
            "corpus.valid_fraction",
            self.valid_fraction,
            "between 0 and 1",
        )
        _require(self.max_bytes >= 0, "corpus.max_bytes", self.max_bytes, "0 (all) or more")
        coded = all(re.fullmatch("[a-z]{2,3}", language) for language in self.languages)
        _require(coded, "corpus.languages", self.languages, 'codes of two or three letters ("en")')
        _require(self.eval_bytes >= 1000, "corpus.eval_bytes", self.eval_bytes, "1000 or more")


@dataclass(frozen=True)
class TokenizerConfig:
    # tokens kept, specials included; 0: choose by coverage; -1: keep the teacher's tokenizer
    vocab_size: int = 0
    # share of the corpus' tokens kept (the paper's 48k vocabulary: 97.86 %)
    coverage: float = 0.9786

    def validate(self) -> None:
        _require(
            self.vocab_size >= -1,
            "tokenizer.vocab_size",
            self.vocab_size,
            "a size, 0 (by coverage) or -1 (keep)",
        )
        _require(0 < self.coverage <= 1, "tokenizer.coverage", self.coverage, "above 0, at most 1")


@dataclass(frozen=True)
class ArchitectureConfig:
    # parameters of the student, within 1 %; 0: the [architecture.shape] table says all
    budget: float = 0.0
    depths: tuple[int, ...] = ()  # only these numbers of layers; empty: the plan's rule decides
    # an exact shape, keys as in SHAPE.toml without vocab_size
    shape: dict[str, Any] = field(default_factory=dict)
    # pangu-pi: for a Llama student, which then brings its own code
    block: Block = "plain"

    def validate(self) -> None:
        has_budget = self.budget >= 1000
        _require(
            has_budget or bool(self.shape),
            "architecture.budget",
            self.budget,
            "1000 parameters or more, or a shape",
        )
        known = [key.name for key in dataclasses.fields(Shape) if key.name != "vocab_size"]
        for key, value in self.shape.items():
            why = (
                "the tokenizer's is taken"
                if key == "vocab_size"
                else f"known here: {', '.join(known)}"
            )
            _require(key in known, f"architecture.shape.{key}", value, why)
        if self.shape:
            Shape.from_dict({"vocab_size": 1, **self.shape}, "recipe: architecture.shape")


@dataclass(frozen=True)
class InheritConfig:
    init: Literal["inherit", "random"] = "inherit"  # random: a fresh model of the planned shape
    # of random weights, the control's too
    scheme: Scheme = "constant"
    criterion: Criterion = "taylor"
    layers: LayerRule = "skip-loss"
    # after the cut; empty: none
    repair: tuple[Repair, ...] = ("norms", "refit")
    calibration_chunks: int = 160
    calibration_length: int = 512  # tokens a chunk

    def validate(self) -> None:
        _require(
            self.calibration_chunks >= 1,
            "inherit.calibration_chunks",
            self.calibration_chunks,
            "1 or more",
        )
        _require(
            self.calibration_length >= 16,
            "inherit.calibration_length",
            self.calibration_length,
            "16 or more",
        )


@dataclass(frozen=True)
class ControlConfig:
    enabled: bool = True  # train the same shape from random weights on the same batches


@dataclass(frozen=True)
class EvaluateConfig:
    tasks: tuple[str, ...] = ()  # of `tinylm evaluate`; paper and all are lists of them
    task_data: str = ""  # the folder of their files; without it they come from the hub
    limit: int = 100  # items a task
    prompts: tuple[str, ...] = ("The history of",)  # continued in the report

    def validate(self) -> None:
        _require(self.limit >= 1, "evaluate.limit", self.limit, "1 or more")


@dataclass(frozen=True)
class Recipe:
    """A whole run. ``name`` names the output folder; ``seed`` seeds every random choice (beaten by
    a ``train.seed`` of other than 0)."""

    name: str = "demo"
    seed: int = 0
    teacher: str = "smollm2-135m"
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    architecture: ArchitectureConfig = field(default_factory=ArchitectureConfig)
    inherit: InheritConfig = field(default_factory=InheritConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def validate(self) -> None:
        plain = (
            self.name.replace("-", "").replace("_", "").replace(".", "").isalnum()
            and self.name[0] != "."
        )
        _require(plain, "name", self.name, "letters, digits, '-', '_' and '.'")
        _require(0 <= self.seed < 2**31, "seed", self.seed, "between 0 and 2**31 - 1")
        for section in dataclasses.fields(self):
            value = getattr(self, section.name)
            if hasattr(value, "validate"):
                value.validate()

    def has_control(self) -> bool:
        """Whether a control is trained: a student from random weights is its own."""
        return self.control.enabled and self.inherit.init != "random"

    def training(self) -> TrainConfig:
        """[train] with what other tables say about it: the seed, the mixture of the corpus."""
        mixture = self.corpus.weights or self.train.mixture
        return dataclasses.replace(self.train, seed=self.train.seed or self.seed, mixture=mixture)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def read_recipe(path: str | Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe in a TOML file, or a packaged one by its bare name (``demo``), with ``changes``
    ({"train.steps": 20}) put in."""
    if not Path(path).exists() and str(path) in packaged_recipes():
        path = packaged_recipes()[str(path)]
    try:
        text = Path(path).read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except FileNotFoundError as error:
        known = ", ".join(packaged_recipes())
        raise InputError(
            f"recipe {path} does not exist: give a .toml file or one of {known}"
        ) from error
    except IsADirectoryError as error:
        raise InputError(f"recipe {path} is a folder: give a .toml file") from error
    except OSError as error:
        raise InputError(f"recipe {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path} is not valid TOML: {error}") from error
    recipe = from_table(Recipe, overlay(table, changes or {}), str(path))
    recipe.validate()
    return recipe


def to_toml(recipe: Recipe) -> str:
    """The whole recipe, defaults included, as TOML that :func:`read_recipe` reads back to an equal
    recipe."""
    lines, tables = [], []
    for key, value in recipe.to_dict().items():
        if isinstance(value, dict):
            tables += [
                "",
                f"[{key}]",
                *(f"{name} = {toml_value(item)}" for name, item in value.items()),
            ]
        else:
            lines.append(f"{key} = {toml_value(value)}")
    return "\n".join(lines + tables) + "\n"


def packaged_recipes() -> dict[str, Path]:
    """Name -> file of every recipe that comes with tinylm."""
    folder = Path(str(resources.files("tinylm") / "recipes"))
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


def from_table(kind: type, table: dict[str, Any], where: str, prefix: str = "") -> Any:
    """Build dataclass ``kind`` from a TOML table; unknown keys and wrong types are InputErrors
    naming the key."""
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in table.items():
        if key not in hints:
            raise InputError(
                f"{where}: unknown key {prefix + key!r}; known here: {', '.join(hints)}"
            )
        values[key] = _checked(hints[key], value, where, prefix + key)
    return kind(**values)


def _checked(hint: Any, value: Any, where: str, key: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise InputError(f"{where}: {key} = {value!r} must be a table: write [{key}]")
        return from_table(typing.cast(type, hint), value, where, f"{key}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in arguments if option is not type(None)]
        for option in options:
            with contextlib.suppress(InputError):
                return _checked(option, value, where, key)
        words = " or ".join(_in_words(option) for option in options)
        raise InputError(f"{where}: {key} = {value!r} must be {words}")
    if origin is Literal:
        if value not in arguments:
            raise InputError(
                f"{where}: {key} = {value!r} is not one of {', '.join(map(str, arguments))}"
            )
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise InputError(f"{where}: {key} = {value!r} must be a list")
        return tuple(_checked(arguments[0], item, where, key) for item in value)
    expected = origin or hint
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        raise InputError(f"{where}: {key} = {value!r} must be of type {expected.__name__}")
    return value


def _in_words(hint: Any) -> str:
    """A number, or '"auto"'."""
    if typing.get_origin(hint) is Literal:
        return ", ".join(json.dumps(value) for value in typing.get_args(hint))
    return "a number" if hint in (int, float) else f"of type {hint.__name__}"


def _require(ok: bool, key: str, value: Any, allowed: str) -> None:
    if not ok:
        raise InputError(f"recipe: {key} = {value!r} is not allowed: {allowed}")
