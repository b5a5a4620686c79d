"""A text that was cut at a number of tokens ends with its last whole sentence."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinylm.models.generate import Speed
from tinylm.models.sentences import in_sentences, last_sentence_end


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One. Two", "One."),
        ('He said "no." Then', 'He said "no."'),
        ("Is it? Yes! And", "Is it? Yes!"),
        ("It is 3.14 and more", ""),
        ("Dr. Smith and J. R. Ewing", ""),
        ("the U.S. army", ""),
        ("She lived in St. Louis. He", "She lived in St. Louis."),
        ("A title\n\nand then", "A title\n\n"),
        ("他来了。她也", "他来了。"),
        ("「来。」他", "「来。」"),
        ("It ended.", "It ended."),
        ("no end at all", ""),
        ("", ""),
    ],
)
def test_where_the_last_sentence_ends(text, first):
    assert text[: last_sentence_end(text)] == first


def made(pieces, stopped_by):
    speed = Speed()

    def generate():
        yield from pieces
        speed.stopped_by = stopped_by

    return "".join(in_sentences(generate(), speed))


PIECES = [" It", " was", " old", ".", " It is 3", ".", "14 m", ". And", " the"]


@pytest.mark.parametrize(
    ("pieces", "stopped_by", "text"),
    [
        (PIECES, "length", " It was old. It is 3.14 m."),
        (PIECES, "context", " It was old. It is 3.14 m."),
        (PIECES, "end of text", "".join(PIECES)),
        (["no", " end"], "length", "no end"),  # better than nothing
        (["It ended", "."], "length", "It ended."),
        ([], "end of text", ""),
    ],
)
def test_an_unfinished_sentence_is_left_out(pieces, stopped_by, text):
    assert made(pieces, stopped_by) == text


@settings(derandomize=True, max_examples=2000)
@given(st.text(alphabet='ab .!\n。"', max_size=40), st.lists(st.integers(1, 5), max_size=20))
def test_the_pieces_do_not_matter(text, sizes):
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    pieces.append(text[at:])
    # but for blank lines at the very end, which may come after their sentence has gone out
    assert made(pieces, "length").rstrip() == made([text], "length").rstrip()
    assert made(pieces, "end of text") == text
