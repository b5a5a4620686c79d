"""Answers on disk, so that an interrupted evaluation goes on where it stopped."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tinylm.artifact import STAGE_VERSIONS


class Answers:
    """Answers by key, one JSON line each. ``path`` None: they are kept in memory alone."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, Any] = {}
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    key, value = json.loads(line)
                except (json.JSONDecodeError, ValueError):
                    continue  # the line that was being written when the run was stopped
                self._known[key] = value

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> Any:
        return self._known.get(key)

    def add(self, answers: dict[str, Any]) -> None:
        self._known.update(answers)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a", encoding="utf-8") as file:
                file.writelines(json.dumps([key, value]) + "\n" for key, value in answers.items())


def answer_key(kind: str, *parts: Any) -> str:
    """The key of an answer, from all that it depends on beside the model."""
    parts = (kind, STAGE_VERSIONS["answers"], *parts)
    return hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogatepass")).hexdigest()[:24]
