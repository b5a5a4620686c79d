"""Where a sentence ends: a text that is cut at a number of tokens can end there."""

import re
from collections.abc import Iterator

from tinylm.models.generate import Speed

# a mark, what closes after it, and a space; an ideographic mark needs none; or an empty line. Each
# looks at what follows, so that an end stays one whatever comes later
_ENDS = re.compile(
    r"[.!?…]+[\"'”’»)\]]*(?=\s)|[。！？]+[\"”’」』）]*(?=[^。！？\"”’」』）])|(?<=\S)\n\s*\n\s*(?=\S)"
)
# a dot after one letter (initials) or one of these words does not end a sentence
_SHORT = re.compile(
    r"(?:^|[\s(.\"'“])(?:[A-Z]|e\.g|i\.e|Dr|Mr|Mrs|Ms|Prof|St|Jr|Sr|vs|etc|No|Vol|ca)$"
)


def last_sentence_end(text: str) -> int:
    """The place after the last sentence of ``text``; 0 where none ends."""
    return min(len(text), _last_end(f"{text} x"))


def _last_end(text: str) -> int:
    """The same of a text that goes on."""
    found = 0
    for mark in _ENDS.finditer(text):
        if mark.group()[0] != "." or not _SHORT.search(text[: mark.start()]):
            found = mark.end()
    return found


def in_sentences(pieces: Iterator[str], speed: Speed) -> Iterator[str]:
    """``pieces`` of a text as they come, without the sentence that is not finished when the tokens
    run out; all of them where the text ends by itself or has no whole sentence. ``speed`` is the
    one that the generation fills."""
    held, whole = "", False
    for piece in pieces:
        held += piece
        end = _last_end(held)
        if end:
            yield held[:end]
            held, whole = held[end:], True
    end = last_sentence_end(held)
    unfinished = speed.stopped_by != "end of text" and (whole or end > 0)
    yield held[:end] if unfinished else held
