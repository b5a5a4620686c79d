import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylm.corpus.document import Document
from tinylm.corpus.split import is_valid, prepare, read_part, spread, write_split
from tinylm.errors import InputError


def docs(count, source="s"):
    return [Document(f"text number {i}", source) for i in range(count)]


def in_pieces(documents, valid_fraction):
    """As many processes would prepare them: seven documents at a time."""
    return [prepare(documents[i : i + 7], valid_fraction) for i in range(0, len(documents), 7)]


@given(st.text(min_size=1), st.floats(0.01, 0.5), st.floats(0.5, 0.99))
def test_a_larger_part_contains_the_smaller(text, small, large):
    assert is_valid(text, large) or not is_valid(text, small)
    assert is_valid(text, small) == is_valid(f"  {text}\n", small)


def test_share_is_about_as_asked():
    share = sum(is_valid(f"{i}", 0.1) for i in range(20_000)) / 20_000
    assert 0.09 < share < 0.11
    assert any(is_valid(f"{i}", 0.1) != is_valid(f"{i}", 0.1, seed=1) for i in range(100))


def test_parts_are_disjoint_whole_and_without_duplicates(tmp_path):
    facts = write_split(in_pieces([*docs(300), *docs(300, "again")], 0.2), tmp_path)
    train, valid = ([d.text for d in read_part(tmp_path, part)] for part in ("train", "valid"))
    assert not set(train) & set(valid)
    assert sorted(train + valid) == sorted(d.text for d in docs(300))
    assert facts["documents"] == 600 and facts["duplicates"] == 300
    assert facts["train"]["documents"] == len(train)


@pytest.mark.parametrize("taken", [0, 5, None])
def test_a_reader_sees_the_train_part_while_it_is_written(taken, tmp_path):
    seen = []

    def reader(documents):
        seen.extend(itertools.islice(documents, taken))

    for name in "ab":
        (tmp_path / name).mkdir()
    write_split(in_pieces([*docs(60), *docs(60)], 0.2), tmp_path / "a", reader=reader)
    write_split(in_pieces([*docs(60), *docs(60)], 0.2), tmp_path / "b")
    train = list(read_part(tmp_path / "a", "train"))
    assert seen == train[:taken]
    for part in ("train.jsonl.zst", "valid.jsonl.zst"):
        assert (tmp_path / "a" / part).read_bytes() == (tmp_path / "b" / part).read_bytes()


def test_moving_documents_between_files_moves_none_between_parts(tmp_path):
    for name, order in (("a", docs(50)), ("b", docs(80)[::-1])):
        (tmp_path / name).mkdir()
        write_split(in_pieces(order, 0.3), tmp_path / name)
    first, second = ({d.text for d in read_part(tmp_path / name, "valid")} for name in "ab")
    assert first <= second


@pytest.mark.parametrize("count", [0, 1])
def test_too_small_a_corpus_is_an_input_error(tmp_path, count):
    with pytest.raises(InputError, match=r"empty|1 different document"):
        write_split(in_pieces(docs(count), 0.1), tmp_path)


def test_lone_surrogates_survive(tmp_path):
    texts = [f"{i} \ud800" for i in range(40)]
    write_split(in_pieces([Document(text, "s") for text in texts], 0.5), tmp_path)
    found = [d.text for part in ("train", "valid") for d in read_part(tmp_path, part)]
    assert sorted(found) == sorted(texts)


def test_spread_takes_an_equal_share_of_each_source():
    chosen = spread([*docs(1000, "a"), *docs(10, "b")], 400)
    sizes = {s: sum(len(d.text) for d in chosen if d.source == s) for s in "ab"}
    assert 200 <= sizes["a"] < 220 and 130 <= sizes["b"] < 220


def test_many_sources_do_not_break_the_budget():
    """A folder of books: each is a source of its own."""
    books = [Document("word " * 200, f"book{number}.txt") for number in range(500)]
    chosen = spread(books, 10_000)
    assert 10 <= len(chosen) <= 11 and len({book.source for book in chosen}) == len(chosen)
    assert [book.source for book in spread(books[:400], 10_000)] != [
        book.source for book in books[:10]
    ]
