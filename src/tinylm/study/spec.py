"""A study file: base recipe, variations, seeds and measures, at a scale; read into plain
dataclasses.

The keys of [scale.NAME] replace those at the top (``recipe`` tables are merged), so one file serves
a laptop and a cluster. The base recipe of a scale is ``bases/SCALE.toml`` beside the packaged
studies unless the file names another.
"""

import re
import shlex
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from tinylm.artifact import hash_of
from tinylm.errors import InputError
from tinylm.pipeline.recipe import Recipe, from_table, packaged_recipes
from tinylm.pipeline.settings import as_words, overlay
from tinylm.study.grid import Variation, flatten, lists_of_values, variations

Scale = Literal["nano", "cpu", "gpu", "full"]
SCALES = get_args(Scale)
KEYS: dict[str, type] = {
    **dict.fromkeys(
        ("title", "claim", "question", "kind", "baseline", "axis", "series", "base"), str
    ),
    **dict.fromkeys(("notes", "variation", "measure"), list),
    **dict.fromkeys(("recipe", "grid", "tune"), dict),
    **dict.fromkeys(("seeds", "noise_seeds"), object),  # see _seeds
}
NOISE_SEED_SHIFT = 1000  # the noise floor repeats the baseline with these other seeds


@dataclass(frozen=True)
class Measure:
    """One number of a run's results.json. ``error`` is the key of its standard error, if the run
    has one."""

    key: str
    label: str
    better: Literal["lower", "higher"] = "lower"
    unit: str = ""
    error: str = ""


BITS_PER_BYTE = Measure(
    "bits_per_byte.student", "bits per byte", "lower", "bits", "bits_per_byte_stderr.student"
)


@dataclass(frozen=True)
class Run:
    """One recipe to run. Runs of one study with equal recipes share an id and are computed once."""

    id: str
    variation: str
    seed: int
    noise: bool  # part of the noise floor: the baseline again, with another seed
    recipe: Recipe


@dataclass(frozen=True)
class Study:
    """A study at one scale.

    ``axis`` is a dotted recipe key whose values stand on the x axis of the figure, ``series`` one
    that gives each line its own value; without an axis the names of the variations stand there.
    """

    name: str
    scale: str
    title: str
    claim: str  # what the paper says
    kind: Literal["grid", "list", "ladder"]
    variations: tuple[Variation, ...]
    base: dict[str, Any]
    seeds: tuple[int, ...]
    noise_seeds: tuple[int, ...]
    measures: tuple[Measure, ...]
    axis: str = ""
    series: str = ""
    question: str = ""
    notes: tuple[str, ...] = ()
    repeat: str = ""  # the command line that runs this study
    # dotted keys and the values of which each variation takes its best, see :mod:`study.tune`
    tune: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def baseline(self) -> Variation:
        return next(variation for variation in self.variations if variation.reference is None)

    def recipe(self, variation: Variation, seed: int) -> Recipe:
        """The recipe of one run; training draws from the same seed as everything else."""
        name = slug(f"{self.name}-{variation.name}-s{seed}")
        table = overlay(
            self.base, {**variation.changes, "name": name, "seed": seed, "train.seed": seed}
        )
        recipe = from_table(Recipe, table, f"study {self.name}, {variation.name}")
        recipe.validate()
        return recipe

    def runs(self) -> list[Run]:
        """Every run, one seed after the other, so that a half-finished study compares all
        variations."""
        found: list[Run] = []
        ids: dict[str, str] = {}
        for seed in (*self.seeds, *self.noise_seeds):
            noise = seed not in self.seeds
            for variation in [self.baseline] if noise else self.variations:
                recipe = self.recipe(variation, seed)
                key = recipe_hash(recipe)
                ids.setdefault(key, recipe.name)
                found.append(Run(ids[key], variation.name, seed, noise, recipe))
        return found


def read_study(
    path: str | Path,
    scale: str = "cpu",
    settings: dict[str, Any] | None = None,
    seeds: Sequence[int] = (),
    noise_seeds: Sequence[int] = (),
) -> Study:
    """The study in a TOML file, or the packaged one of that name, at ``scale``.

    Args:
        settings: dotted recipe keys laid over the base recipe, e.g. {"teacher": "my/model"};
            variations still vary.
        seeds, noise_seeds: instead of the file's.

    Raises:
        InputError: not there, not TOML, an unknown key, a recipe that is not valid.
    """
    settings = settings or {}
    path, asked = _find(path), path
    top = _read_toml(path)
    scales = top.pop("scale", {})
    for where, part in (
        ("", top),
        *((f"scale.{name}: ", part) for name, part in _tables(scales, path).items()),
    ):
        _check_keys(part, f"study {path}: {where}")
    if scale not in SCALES or (scales and scale not in scales):
        raise InputError(f"study {path}: no scale {scale!r}; it has {', '.join(scales or SCALES)}")
    table = {**top, **scales.get(scale, {})}
    recipe_changes = flatten(top.get("recipe", {})) | flatten(
        scales.get(scale, {}).get("recipe", {})
    )
    kind = table.get("kind", "grid")
    if kind not in ("grid", "list", "ladder"):
        raise InputError(f"study {path}: kind = {kind!r} is not grid, list or ladder")
    base = _base_recipe(table.get("base", ""), path, scale)
    table |= {
        key: list(given) for key, given in (("seeds", seeds), ("noise_seeds", noise_seeds)) if given
    }
    every_seed = _seeds(table.get("seeds", [0, 1, 2]), path, required=True)
    other_seeds = _seeds(
        table.get("noise_seeds", [seed + NOISE_SEED_SHIFT for seed in every_seed]), path
    )
    study = Study(
        name=slug(path.stem),
        scale=scale,
        title=table.get("title", path.stem),
        claim=table.get("claim", ""),
        question=table.get("question", ""),
        notes=tuple(table.get("notes", ())),
        kind=kind,
        variations=variations(kind, table, table.get("baseline", ""), str(path)),
        base=overlay(overlay(base, recipe_changes), settings),
        seeds=every_seed,
        noise_seeds=other_seeds,
        measures=tuple(_measure(entry, path) for entry in table.get("measure", []))
        or (BITS_PER_BYTE,),
        axis=table.get("axis", ""),
        series=table.get("series", ""),
        repeat=_command(asked, scale, settings, seeds, noise_seeds),
        tune=lists_of_values(table.get("tune", {}), f"study {path}", "tune"),
    )
    if set(study.seeds) & set(study.noise_seeds):
        raise InputError(f"study {path}: noise_seeds must be other seeds than seeds")
    names = [slug(variation.name) for variation in study.variations]
    if len(set(names)) < len(names):
        raise InputError(
            f"study {path}: names of variations must differ in letters or digits, got"
            f" {', '.join(names)}"
        )
    study.runs()  # every recipe is checked before anything starts
    return study


def recipe_hash(recipe: Recipe) -> str:
    """Names what a recipe sets. Its own name does not count, nor do settings left at their
    defaults, so that runs stay finished when a later tinylm has more settings."""
    defaults = flatten(Recipe().to_dict())
    settings = flatten({**recipe.to_dict(), "name": defaults["name"]})
    return hash_of({key: value for key, value in settings.items() if value != defaults.get(key)})


def _tables(scales: Any, path: Path) -> dict[str, dict[str, Any]]:
    if not isinstance(scales, dict) or not all(isinstance(part, dict) for part in scales.values()):
        raise InputError(f"study {path}: scale must hold tables: write [scale.cpu] above its keys")
    return scales


def _check_keys(table: dict[str, Any], where: str) -> None:
    for key, value in table.items():
        if key not in KEYS:
            raise InputError(f"{where}unknown key {key}; known: {', '.join(KEYS)}")
        if not isinstance(value, KEYS[key]):
            wanted = "a text" if KEYS[key] is str else "a list" if KEYS[key] is list else "a table"
            raise InputError(f"{where}{key} = {value!r} must be {wanted}")
    for key in ("notes", "variation", "measure"):
        kind = str if key == "notes" else dict
        if not all(isinstance(item, kind) for item in table.get(key, [])):
            raise InputError(
                f"{where}{key} must be a list of"
                f" {'texts' if kind is str else f'tables: write [[{key}]]'}"
            )


def packaged_studies() -> dict[str, Path]:
    """Name -> file of every study that comes with tinylm."""
    return {file.stem: file for file in sorted(_folder().glob("*.toml"))}


def _command(
    asked: str | Path,
    scale: str,
    settings: dict[str, Any],
    seeds: Sequence[int],
    noise_seeds: Sequence[int],
) -> str:
    """The command line that runs a study again."""
    words = ["tinylm", "study", "run", str(asked), "--scale", scale]
    for flag, given in (("--seeds", seeds), ("--noise-seeds", noise_seeds)):
        words += [flag, *map(str, given)] if given else []
    return shlex.join([*words, *as_words(settings)])


def slug(text: str) -> str:
    """``text`` as a file name."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "x"


def _folder() -> Path:
    return Path(str(resources.files("tinylm") / "studies"))


def _find(path: str | Path) -> Path:
    known = packaged_studies()
    if Path(path).is_file():
        return Path(path)
    if str(path) in known:
        return known[str(path)]
    raise InputError(f"study {path} does not exist: give a .toml file or one of {', '.join(known)}")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"study {path} cannot be read as TOML: {error}") from error


def _base_recipe(base: str, study: Path, scale: str) -> dict[str, Any]:
    """The table of the base recipe: a file beside the study, a packaged recipe's name, or the
    scale's own base."""
    if not base:
        return _read_toml(_folder() / "bases" / f"{scale}.toml")
    beside = study.parent / base
    if beside.is_file():
        return _read_toml(beside)
    if base in packaged_recipes():
        return _read_toml(packaged_recipes()[base])
    raise InputError(
        f"study {study}: base = {base!r} is neither a file beside it nor a packaged recipe"
    )


def _measure(entry: dict[str, Any], path: Path) -> Measure:
    if "key" not in entry:
        raise InputError(
            f"study {path}: a [[measure]] lacks its key, a number in a run's results.json"
        )
    return from_table(Measure, {"label": entry["key"], **entry}, f"study {path}: measure")


def _seeds(value: Any, path: Path, required: bool = False) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(seed) is int and seed >= 0 for seed in value):
        raise InputError(
            f"study {path}: seeds = {value!r} must be a list of whole numbers of 0 or more"
        )
    if required and not value:
        raise InputError(f"study {path}: seeds is empty: give one or more")
    if len(set(value)) < len(value):
        raise InputError(f"study {path}: seeds = {value!r} must differ")
    return tuple(value)
