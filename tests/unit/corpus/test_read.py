import gzip
import json
from itertools import count

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from tinylm.corpus import embedded
from tinylm.corpus.document import Document
from tinylm.corpus.read import documents, expand, first_bytes
from tinylm.errors import InputError

TEXTS = ["one two", "drei\nvier", "五 six 🙂"]


def lines(texts):
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()


def write_all(folder):
    (folder / "a.txt").write_text(TEXTS[0])
    (folder / "b.jsonl").write_bytes(lines(TEXTS))
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(lines(TEXTS)))
    (folder / "d.jsonl.zst").write_bytes(zstandard.compress(lines(TEXTS)))
    pyarrow.parquet.write_table(
        pyarrow.table({"text": TEXTS, "n": [1, 2, 3]}), folder / "e.parquet"
    )
    (folder / "ignored.bin").write_bytes(b"\0")


def test_every_format_gives_the_same_texts(tmp_path):
    write_all(tmp_path)
    for name in ("b.jsonl", "c.jsonl.gz", "d.jsonl.zst", "e.parquet"):
        found = list(documents([tmp_path / name]))
        assert [d.text for d in found] == TEXTS and {d.source for d in found} == {name}
    assert [d.text for d in documents([tmp_path / "a.txt"])] == TEXTS[:1]
    assert len(list(documents([tmp_path]))) == 1 + 4 * 3
    assert [p.name[0] for p in expand([tmp_path])] == list("abcde")


def test_empty_documents_are_left_out_and_another_key_is_read(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"body": "a"}\n\n{"body": "  "}\n{"body": "b"}\n')
    assert [d.text for d in documents([path], text_key="body")] == ["a", "b"]
    path.write_text('{"content": "a"}\n{"content": "b", "text": "c"}\n')  # as code corpora call it
    assert [d.text for d in documents([path])] == ["a", "c"]


def test_a_hub_data_set_may_name_its_configuration(monkeypatch):
    import datasets

    asked = []

    def load(name, config, split, streaming):
        asked.append((name, config, split, streaming))
        return [{"content": "a"}, {"content": None}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert [d.text for d in documents(["hub:some/set@sample:test", "hub:some/set"])] == ["a", "a"]
    assert asked == [("some/set", "sample", "test", True), ("some/set", None, "train", True)]


def test_no_more_is_read_than_was_asked_for():
    endless = (Document("ten bytes.", "x") for _ in count())
    assert len(list(first_bytes(endless, 95))) == 10
    assert len(list(first_bytes([Document("a", "x")] * 3, 0))) == 3


def damaged(data: bytes) -> bytes:
    """Some bytes in the middle are others."""
    return data[: len(data) // 2] + bytes(20) + data[len(data) // 2 + 20 :]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.jsonl", b'{"text": "a"}\n{"text": ', "line 2"),
        ("x.jsonl", b'{"other": "a"}\n', "line 1 has no 'text' or 'content'; it has other"),
        ("x.jsonl", b'{"text": 3}\n', "int"),
        ("x.jsonl", b"[1]\n", "is list"),
        ("x.txt", b"\xff\xfe", "not UTF-8"),
        ("x.jsonl", b'{"text": "\xff"}\n', "not UTF-8"),
        ("x.jsonl.gz", b"not gzip", "cannot read"),
        ("x.jsonl.gz", gzip.compress(lines(TEXTS), mtime=0)[:-9], "cannot read"),
        ("x.jsonl.gz", damaged(gzip.compress(lines(TEXTS * 50), mtime=0)), "cannot read"),
        ("x.jsonl.zst", b"not zstd at all", "zstd"),
        ("x.jsonl.zst", zstandard.compress(lines(TEXTS))[:-1], "cut short"),
        ("x.parquet", b"PAR1", "parquet"),
        ("x.docx", b"", "unknown ending"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        list(documents([path]))
    assert name in str(caught.value)


def test_a_hub_data_set_with_code_of_its_own_is_refused(monkeypatch):
    import datasets

    def script(*args, **options):
        raise RuntimeError("Dataset scripts are no longer supported")

    monkeypatch.setattr(datasets, "load_dataset", script)
    with pytest.raises(InputError, match="'some/set': Dataset scripts"):
        list(documents(["hub:some/set"]))


def test_missing_files_and_columns(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        list(documents([tmp_path / "no.txt"]))
    with pytest.raises(InputError, match="holds no"):
        list(documents([tmp_path]))
    with pytest.raises(InputError, match="no corpus"):
        list(documents([]))
    write_all(tmp_path)
    with pytest.raises(InputError, match="has no 'body'; it has"):
        list(documents([tmp_path / "e.parquet"], text_key="body"))


def test_a_truncated_zst_is_noticed(tmp_path):
    path = tmp_path / "x.jsonl.zst"
    path.write_bytes(zstandard.compress(lines(TEXTS * 1000))[:-20])
    with pytest.raises(InputError, match=r"x\.jsonl\.zst is cut short"):
        list(documents([path]))


def test_a_zst_of_several_frames_is_read_whole(tmp_path):
    path = tmp_path / "x.jsonl.zst"
    path.write_bytes(zstandard.compress(lines(TEXTS)[:20]) + zstandard.compress(lines(TEXTS)[20:]))
    assert [d.text for d in documents([path])] == TEXTS


def test_embedded_corpus_has_three_sources_and_no_repeats():
    found = list(documents(["embedded"]))
    assert {d.source for d in found} == {"encyclopedia", "law", "plots"}
    assert len({d.text for d in found}) == len(found) > 8000


def test_embedded_conversations_answer_every_turn_and_leave_the_test_parts_out():
    found = list(documents(["embedded-chat"], "messages"))
    assert {d.source for d in found} == {"encyclopedia chat", "plots chat"} and len(found) > 5000
    for document in found:
        roles, texts = zip(*document.messages)
        assert roles == ("user", "assistant") * (len(roles) // 2) and all(map(str.strip, texts))
        assert all(text[-1] in '.!?"' for text in texts[1::2]) or "encyclopedia" in document.source
    said = {text for document in found for role, text in document.messages if role == "assistant"}
    held_out = {text.partition(" -- ")[2] for text in embedded._boolq_held_out()}
    assert len(held_out) > 2000 and not said & held_out
    with pytest.raises(InputError, match="say text_key = 'messages'"):
        next(documents(["embedded-chat"]))


def test_what_real_corpora_hold_is_read(tmp_path):
    """A byte-order mark, missing texts, half a surrogate pair, a long zstd window."""
    lines = (
        '{"text": "a"}',
        '{"text": null}',
        '{"text": "b\\ud800c"}',
        '{"text": "\\ud83d\\ude00"}',
    )
    data = ("\ufeff" + "\n".join(lines) + "\n").encode()
    (tmp_path / "x.jsonl").write_bytes(data)
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(data))
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    (tmp_path / "x.jsonl.zst").write_bytes(
        zstandard.ZstdCompressor(compression_params=parameters).compress(data[3:])
    )
    for name in ("x.jsonl", "x.jsonl.gz", "x.jsonl.zst"):
        assert [d.text for d in documents([tmp_path / name])] == [
            "a",
            "b\ufffdc",
            "\U0001f600",
        ], name
    (tmp_path / "y.txt").write_bytes("\ufeffa".encode())
    assert [d.text for d in documents([tmp_path / "y.txt"])] == ["a"]


def test_a_parquet_column_that_is_no_text_is_named(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": [b"a", b"b"]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="column 'text' is binary, text is needed"):
        list(documents([tmp_path / "x.parquet"]))
