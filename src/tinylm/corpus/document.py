"""One document."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    text: str
    source: str  # file name (or dataset id) it came from: reports group by it
    path: int = 0  # which of the paths of a corpus it is from, where they are told apart
