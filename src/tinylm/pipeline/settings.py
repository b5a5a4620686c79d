"""KEY=VALUE words of the command line, put into a recipe's table."""

import json
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date, time
from typing import Any

from tinylm.errors import InputError


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """["train.steps=20", "teacher='dir'"] -> {"train.steps": 20, "teacher": "dir"}; bare words are
    strings."""
    values = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"--set {setting}: write KEY=VALUE, such as train.steps=100")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
            values[key.strip()] = text.strip() if isinstance(value, (date, time)) else value
        except tomllib.TOMLDecodeError:
            values[key.strip()] = text.strip()
    return values


def overlay(table: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the nested ``table`` with the dotted ``changes`` put in."""
    result = {
        key: dict(value) if isinstance(value, dict) else value for key, value in table.items()
    }
    for dotted, value in changes.items():
        first, _, rest = dotted.partition(".")
        inner = result.get(first, {})
        if rest and not isinstance(inner, dict):
            raise InputError(f"{dotted} cannot be set: {first} = {inner!r} is not a table")
        result[first] = overlay(inner, {rest: value}) if rest else value
    return result


def as_words(changes: Mapping[str, Any]) -> list[str]:
    """The words of a command line that :func:`parse_settings` reads back to ``changes``."""
    words = [f"{key}={toml_value(value)}" for key, value in changes.items()]
    return ["--set", *words] if words else []


def toml_value(value: Any) -> str:
    """``value`` as TOML spells it on one line."""
    if isinstance(value, dict):
        return (
            "{ " + ", ".join(f"{key} = {toml_value(item)}" for key, item in value.items()) + " }"
            if value
            else "{}"
        )
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, float):
        return repr(value)  # TOML reads what Python writes: 1.0, 1e-05, inf, nan
    # strings, numbers and booleans are spelt alike in JSON and TOML; DEL is bare in JSON alone
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
