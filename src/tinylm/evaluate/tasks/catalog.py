"""What the task files say of themselves: titles, groups, the order of columns, the measure.

Only their ``metadata`` is read, without lm-eval. A task without a group stands in one of its own
name and last.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import yaml

from tinylm.errors import InputError

FOLDER = Path(__file__).parent  # for `lm_eval --include_path`


@dataclass(frozen=True)
class TaskFacts:
    name: str
    metric: str  # what its score is
    title: str  # of its column
    group: str  # of columns
    in_paper: bool = False  # one of the paper's ten


@cache
def tasks() -> dict[str, TaskFacts]:
    """{name: facts} of every task file, in the order of columns."""
    found = []
    for path in FOLDER.glob("*.yaml"):
        # `!function` in the rest of the file is lm-eval's; the block ends where a new key begins
        text = path.read_text(encoding="utf-8")
        block = re.search(r"^metadata:.*(\n[ \t]+.*)*", text, re.MULTILINE)
        values = (yaml.safe_load(block[0])["metadata"] if block else None) or {}
        facts = TaskFacts(
            path.stem,
            values.get("main", "acc"),
            values.get("title", path.stem),
            values.get("group", path.stem),
            values.get("paper", False),
        )
        found.append((values.get("column", 1000), path.stem, facts))
    return {name: facts for _, name, facts in sorted(found, key=lambda entry: entry[:2])}


def require_lm_eval() -> None:
    """InputError where the packages that tasks run through are not installed."""
    missing = [name for name in ("lm_eval", "datasets") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"tasks run through lm-eval, which is not installed ({', '.join(missing)}): pip install"
            " 'tinylm[eval]', or leave the tasks out"
        )


def in_bits(metric: str) -> bool:
    """Whether a score is bits per byte: lower is better, no percentage, and no average with
    others."""
    return metric == "bits_per_byte"


def tasks_in_bits() -> list[str]:
    """The tasks whose score is bits per byte."""
    return [name for name, facts in tasks().items() if in_bits(facts.metric)]


def paper_columns() -> list[str]:
    """The paper's ten tasks."""
    return [name for name, facts in tasks().items() if facts.in_paper]


def choose(names: Sequence[str]) -> list[str]:
    """Task names with ``paper`` (its ten columns) and ``all`` spelt out."""
    lists = {"paper": paper_columns(), "all": sorted(tasks())}
    return list(dict.fromkeys(name for given in names for name in lists.get(given, (given,))))
