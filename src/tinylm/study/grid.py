"""Variations of a recipe: a grid (all combinations), a list, or a ladder (each step adds to the one
before).

A change is a flat dictionary of dotted recipe keys, {"train.rounds": 2}; tables are the nested form
TOML reads.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tinylm.errors import InputError


@dataclass(frozen=True)
class Variation:
    """One column of a study: its name and what it changes in the base recipe (for a ladder: all
    rungs up to it)."""

    name: str
    changes: dict[str, Any]
    reference: str | None  # the variation it is compared with; None for the baseline
    tuned_as: str = ""  # the variation whose best values it takes; "": it has trials of its own


def flatten(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"rounds": 2}} -> {"train.rounds": 2}; keys that are dotted already stay."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= (
            flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def variations(
    kind: str, table: dict[str, Any], baseline: str, where: str
) -> tuple[Variation, ...]:
    """The variations of a study file, in order. ``table`` holds [grid], or [[variation]]
    entries."""
    if kind == "grid":
        entries = [
            Variation(name, change, None) for name, change in _grid(table.get("grid"), where)
        ]
    else:
        entries = _list(table.get("variation"), where)
    names = [entry.name for entry in entries]
    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError(
            f"{where}: a study needs two or more variations with different names, got {names}"
        )
    if kind == "ladder":
        if baseline:
            raise InputError(
                f"{where}: a ladder compares each rung with the one before; remove baseline ="
                f" {baseline!r}"
            )
        total = itertools.accumulate(
            (entry.changes for entry in entries), lambda below, more: below | more
        )
        return tuple(
            replace(entry, changes=changes, reference=entry.reference or before)
            for entry, changes, before in zip(entries, total, [None, *names[:-1]], strict=True)
        )
    baseline = baseline or names[0]
    if baseline not in names:
        raise InputError(
            f"{where}: baseline = {baseline!r} is not one of the variations {', '.join(names)}"
        )
    if any(entry.reference for entry in entries if entry.name == baseline):
        raise InputError(f"{where}: {baseline} is the baseline: remove its against")
    return tuple(
        replace(entry, reference=None if entry.name == baseline else entry.reference or baseline)
        for entry in entries
    )


def _grid(axes: Any, where: str) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(axes, dict) or not axes:
        raise InputError(
            f"{where}: kind = 'grid' needs a [grid] table such as train.rounds = [1, 2, 3]"
        )
    return combinations(lists_of_values(axes, where, "grid"))


def lists_of_values(table: dict[str, Any], where: str, name: str) -> dict[str, list[Any]]:
    """The dotted keys of ``table``, each with its list of values."""
    flat = flatten(table)
    for key, values in flat.items():
        if not isinstance(values, list) or not values:
            raise InputError(f"{where}: {name}.{key} = {values!r} must be a list of values")
    return flat


def combinations(axes: dict[str, list[Any]]) -> list[tuple[str, dict[str, Any]]]:
    """(name, changes) of every combination of the values in ``axes``."""
    found = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    return [
        (", ".join(f"{_label(key)} {_show(v)}" for key, v in changes.items()), changes)
        for changes in found
    ]


def _list(entries: Any, where: str) -> list[Variation]:
    """The entries as they stand there: a reference is what one is ``against``."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{where}: write each variation as [[variation]] with name and set")
    found: list[Variation] = []
    for entry in entries:
        unknown = set(entry) - {"name", "set", "against", "tuned_as"}
        if (
            unknown
            or not isinstance(entry.get("name"), str)
            or not isinstance(entry.get("set", {}), dict)
        ):
            raise InputError(
                f"{where}: a [[variation]] has name = '...' and set = {{...}}, got {entry}"
            )
        above = {other.name: other for other in found}
        for key in ("against", "tuned_as"):
            if entry.get(key, "") not in ("", *above):
                raise InputError(
                    f"{where}: {entry['name']}: {key} = {entry[key]!r} is not a variation above it"
                    f" ({', '.join(above) or 'none'})"
                )
        tuned_as = entry.get("tuned_as", "")
        found.append(
            Variation(
                entry["name"],
                flatten(entry.get("set", {})),
                entry.get("against") or None,
                above[tuned_as].tuned_as or tuned_as if tuned_as else "",
            )
        )
    return found


def _label(key: str) -> str:
    return key.rpartition(".")[2].replace("_", " ")


def _show(value: Any) -> str:
    values: Sequence[Any] = value if isinstance(value, list) else [value]
    return "+".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)
