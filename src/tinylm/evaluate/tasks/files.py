"""Benchmark files from a local folder: plain folders or the .tar.zst archives they came in, read
without unpacking."""

import csv
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets

from tinylm.errors import InputError

Row = dict[str, Any]
ENVIRONMENT = "TINYLM_TASK_DATA"  # how plain `lm_eval` is told where the files are


SOURCES = {  # folder below the root -> where its files can be had
    "ceval": "hub ceval/ceval-exam",
    "cmmlu": "hub haonan-li/cmmlu",
    "mmlu": "hub cais/mmlu",
    "agieval": "GitHub ruixiangcui/AGIEval",
    "superglue": "hub aps/super_glue",
    "piqa": "hub baber/piqa",
    "eprstmt": "GitHub CLUEbenchmark/FewCLUE",
    "XSum": "hub EdinburghNLP/xsum",
    "c3": "GitHub nlpdata/c3",
    "hellaswag": "hub Rowan/hellaswag",
    "arc": "hub allenai/ai2_arc",
    "lambada": "hub EleutherAI/lambada_openai",
    "blimp": "hub nyu-mll/blimp",
    "wikitext2": "hub EleutherAI/wikitext_document_level",
}


class Bad(Exception):
    """One item that cannot be used. It is left out, counted and shown; the run goes on."""


class Folder:
    """The files of one benchmark: ``ROOT/name/...``, or the same paths inside
    ``ROOT/archive.tar.zst`` (or .tar.gz).

    ``digest`` covers every file that was read.
    """

    def __init__(self, root: str | Path, name: str, archive: str | None = None) -> None:
        self.name, self.root = name, Path(root)
        self._hash = hashlib.sha256()
        self._members: dict[str, bytes] | None = None
        self._get = (
            f"get them from {SOURCES[name]}; layout in docs/evaluation.md"
            if name in SOURCES
            else ""
        )
        if not self.root.is_dir():
            raise InputError(
                f"task data folder {root} does not exist: see docs/evaluation.md for its layout"
            )
        if not (self.root / name).is_dir():
            self._members = self._unpacked(archive or name.lower())

    def _unpacked(self, archive: str) -> dict[str, bytes]:
        for suffix in (".tar.zst", ".tar.gz", ".tar"):
            path = self.root / f"{archive}{suffix}"
            if path.exists():
                return _read_archive(path)
        raise InputError(f"no {self.name}/ and no {archive}.tar.zst in {self.root}: {self._get}")

    def paths(self, pattern: str) -> list[str]:
        """Sorted paths below the benchmark's folder that match ``pattern``; an InputError when
        there is none."""
        if self._members is None:
            found = [
                str(p.relative_to(self.root / self.name))
                for p in (self.root / self.name).glob(pattern)
            ]
        else:
            names = [
                Path(name).relative_to(self.name)
                for name in self._members
                if name.startswith(f"{self.name}/")
            ]
            found = [
                str(path)
                for path in names
                if path.match(pattern) and len(path.parts) == pattern.count("/") + 1
            ]
        if not found:
            raise InputError(f"no {self.name}/{pattern} in {self.root}: {self._get}")
        return sorted(found)

    def text(self, path: str) -> str:
        where = f"{self.root}/{self.name}/{path}"
        try:
            if self._members is None:
                data = (self.root / self.name / path).read_bytes()
            else:
                data = self._members[f"{self.name}/{path}"]
            self._hash.update(path.encode() + b"\0" + data)
            return data.decode("utf-8-sig")
        except (KeyError, FileNotFoundError) as error:
            raise InputError(f"{where} is missing: {self._get}") from error
        except UnicodeDecodeError as error:
            raise InputError(
                f"{where} is not UTF-8 at byte {error.start}: the file is damaged"
            ) from error

    def csv(self, path: str) -> list[Row]:
        """Rows by their header. A last row with too few cells, or a quote that is never closed, is
        a truncated file."""
        where = f"{self.root}/{self.name}/{path}"
        try:
            rows = list(csv.DictReader(io.StringIO(self.text(path), newline=""), strict=True))
        except csv.Error as error:
            raise InputError(f"{where} is cut off or damaged ({error}): {self._get}") from error
        if not rows:
            raise InputError(f"{where} has no rows: the file is empty or damaged")
        if None in rows[-1].values():
            raise InputError(f"{where} is cut off in row {len(rows)}: {self._get}")
        return rows

    def json(self, path: str) -> Any:
        try:
            return json.loads(self.text(path))
        except json.JSONDecodeError as error:
            raise InputError(
                f"{self.root}/{self.name}/{path} is cut off or damaged ({error})"
            ) from error

    def jsonl(self, path: str) -> list[Row | Bad]:
        """One row a line; a broken line is a :class:`Bad` in its place, a broken last line a
        truncated file."""
        lines = [line for line in self.text(path).split("\n") if line.strip()]
        rows: list[Row | Bad] = []
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                rows.append(
                    row if isinstance(row, dict) else Bad(f"{path} line {number} is no JSON object")
                )
            except json.JSONDecodeError as error:
                if number == len(lines):
                    raise InputError(
                        f"{self.root}/{self.name}/{path} is cut off in line {number}"
                    ) from error
                rows.append(Bad(f"{path} line {number} is not JSON"))
        return rows

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()[:16]


def local_root(task_data: str | None) -> str | None:
    """The folder given, else $TINYLM_TASK_DATA, else None: the hub."""
    return task_data or os.environ.get(ENVIRONMENT) or None


def build(
    name: str,
    sources: Iterable[tuple[str, str, Iterable[Row | Bad]]],
    convert: Callable[[Row], Row],
    digest: str,
) -> datasets.DatasetDict:
    """The data set of a task.

    Args:
        name: for messages.
        sources: (role, subject, raw rows); role is "item" (scored) or "shot" (example for few-shot
            prompts).
        convert: raw row to the row that the task file expects; raises when a row cannot be used.
        digest: hash of the files read.

    Items of different subjects take turns, so that the first N are a spread over all subjects.
    """
    good: dict[str, dict[str, list[Row]]] = {"item": {}, "shot": {}}
    bad: list[str] = []
    for role, subject, rows in sources:
        kept = good[role].setdefault(subject, [])
        for number, row in enumerate(rows):
            try:
                if isinstance(row, Bad):
                    raise row
                kept.append({**convert(row), "subject": subject, "role": role})
            except (Bad, KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
                reason = f"no {error}" if isinstance(error, KeyError) else str(error)
                bad.append(f"{subject or name} {role} {number}: {reason}")
    items = list(_take_turns(good["item"]))
    if not items:
        raise InputError(
            f"{name}: no usable item ({bad[0] if bad else 'the files are empty'}): are these the"
            " right files?"
        )
    shots = [row for rows in good["shot"].values() for row in rows]
    table = datasets.Dataset.from_list(items + shots)
    table.info.description = json.dumps({"data_hash": digest, "bad_items": bad})
    return datasets.DatasetDict(test=table)


def facts(table: datasets.Dataset) -> dict[str, Any]:
    """``data_hash`` and ``bad_items`` of a data set made by :func:`build`."""
    return json.loads(table.info.description or '{"data_hash": "", "bad_items": []}')


def from_hub(
    path: str, configs: Iterable[str | None], split: str
) -> Iterator[tuple[str, list[Row]]]:
    """(config, rows) of a hub data set. Only data is read: `datasets` runs no code of a
    repository."""
    for config in configs:
        try:
            yield config or "", list(datasets.load_dataset(path, config, split=split))
        except Exception as error:  # offline, gated, renamed: the hub client raises many kinds
            first = (
                str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            )
            raise InputError(
                f"hub data set {path} cannot be read ({first}): give local files with --task-data"
                " (docs/evaluation.md)"
            ) from error


def _take_turns(groups: dict[str, list[Row]]) -> Iterator[Row]:
    for turn in range(max((len(rows) for rows in groups.values()), default=0)):
        yield from (rows[turn] for rows in groups.values() if turn < len(rows))


def _read_archive(path: Path) -> dict[str, bytes]:
    """Every regular file of a tar archive, in memory (a benchmark is a few MB)."""
    import zstandard

    try:
        with open(path, "rb") as raw:
            stream = (
                zstandard.ZstdDecompressor().stream_reader(raw) if path.suffix == ".zst" else raw
            )
            with tarfile.open(
                fileobj=stream, mode="r|*" if path.suffix != ".zst" else "r|"
            ) as archive:
                return {
                    member.name.removeprefix("./"): archive.extractfile(member).read()  # type: ignore[union-attr]
                    for member in archive
                    if member.isfile()
                }
    except (tarfile.TarError, zstandard.ZstdError, EOFError, OSError) as error:
        raise InputError(f"{path} is cut off or damaged ({error}): download it again") from error
