"""Shape: the eight numbers that size a decoder, and how they are read from and written to a
`transformers` config."""

import copy
import dataclasses
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinylm.errors import InputError
from tinylm.models.block import block_of, kind_of

# Config fields that hold one value per layer; a depth cut must select them along with the layers.
PER_LAYER_FIELDS = ("layer_types", "no_rope_layers", "mlp_layer_types")


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder-only model. head_dim is explicit, so hidden_size and head count are free
    of each other."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "tie_word_embeddings":
                if not isinstance(value, bool):
                    raise InputError(
                        f"shape: {field.name} = {value!r} must be true or false, without quotes"
                    )
            elif not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(
                    f"shape: {field.name} = {value!r} must be a whole number of 1 or more"
                )
        if self.num_attention_heads % self.num_key_value_heads:
            raise InputError(
                f"shape: {self.num_attention_heads} attention heads do not divide into "
                f"{self.num_key_value_heads} key-value groups"
            )

    @property
    def heads_per_group(self) -> int:
        return self.num_attention_heads // self.num_key_value_heads

    @staticmethod
    def from_config(config: Any) -> "Shape":
        """The shape of a `transformers` config (its text part, for models that also see or
        hear)."""
        config = config.get_text_config()
        heads = config.num_attention_heads
        return Shape(
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_attention_heads=heads,
            num_key_value_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            vocab_size=config.vocab_size,
            tie_word_embeddings=bool(getattr(config, "tie_word_embeddings", True)),
        )

    def to_config(self, teacher_config: Any, kept_layers: Sequence[int] | None = None) -> Any:
        """A copy of ``teacher_config`` with this shape.

        ``kept_layers`` are the teacher's layers that stay, in order; per-layer settings (sliding or
        full attention, layers without rope) follow them. Without it per-layer settings are cut or
        repeated to length.
        """
        config = copy.deepcopy(teacher_config.get_text_config())
        old_layers = config.num_hidden_layers
        if kept_layers is None:
            kept_layers = [layer % old_layers for layer in range(self.num_layers)]
        for name in PER_LAYER_FIELDS:
            values = getattr(config, name, None)
            if isinstance(values, (list, tuple)) and len(values) == old_layers:
                setattr(config, name, [values[layer] for layer in kept_layers])
        if block_of(config) == "plain" and hasattr(config, "auto_map"):
            del config.auto_map  # code beside the teacher, which the student is not saved with
        config.num_hidden_layers = self.num_layers
        config.hidden_size = self.hidden_size
        config.intermediate_size = self.intermediate_size
        config.num_attention_heads = self.num_attention_heads
        config.num_key_value_heads = self.num_key_value_heads
        config.head_dim = self.head_dim
        config.vocab_size = self.vocab_size
        config.tie_word_embeddings = self.tie_word_embeddings
        return config

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any], where: str = "shape") -> "Shape":
        """Extra keys (parameters, speed, ...) are ignored; a missing one is an InputError that
        names it."""
        names = [field.name for field in dataclasses.fields(Shape)]
        missing = [name for name in names if name not in values and name != "tie_word_embeddings"]
        if missing:
            raise InputError(f"{where} lacks {', '.join(missing)}")
        return Shape(**{name: values[name] for name in names if name in values})


def read_shape(path: str | Path, vocab_size: int | None = None) -> Shape:
    """A shape from SHAPE.toml or plan.json; of a plan's candidates the first (best) one.
    ``vocab_size`` is taken where the file names none."""
    values = _read(Path(path))
    if vocab_size is not None:
        values = {"vocab_size": vocab_size, **values}
    return Shape.from_dict(values, str(path))


def _read(path: Path) -> dict[str, Any]:
    """The shape in a file, of a plan's candidates the first, as plain data."""
    values = _parsed(path)
    if isinstance(values, dict) and "candidates" in values:
        if not isinstance(values["candidates"], list) or not values["candidates"]:
            raise InputError(f"shape file {path} has no candidates")
        values = values["candidates"][0]
    if not isinstance(values, dict):
        raise InputError(f"shape file {path} holds a {type(values).__name__}, a table is needed")
    return values


def _parsed(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError as error:
        raise InputError(
            f"shape file {path} does not exist: make one with `tinylm plan`"
        ) from error
    # ValueError: both formats' own errors, and text that is no UTF-8
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"shape file {path} cannot be read: {error}") from error


def read_block(path: str | Path) -> str:
    """The block of the shape in SHAPE.toml or plan.json; ``plain`` unless the file names
    another."""
    block = _read(Path(path)).get("block", "plain")
    kind_of(block, f"shape file {path}: ")
    return block


def write_shape(path: str | Path, shape: Shape, block: str = "plain") -> None:
    """SHAPE.toml: one ``key = value`` a line."""
    lines = [f"{key} = {str(value).lower()}" for key, value in shape.to_dict().items()]
    lines += [] if block == "plain" else [f'block = "{block}"']
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
