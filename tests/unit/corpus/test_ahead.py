"""A corpus that many processes read is the corpus that one reads."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zstandard

from tinylm.corpus import ahead
from tinylm.corpus.ahead import Reading, Source, ordered, read_ahead
from tinylm.corpus.read import documents, first_bytes
from tinylm.corpus.split import is_valid, read_part, write_split
from tinylm.errors import InputError, WorkError


def write_corpus(folder, files=3, records=400):
    """Records of different lengths, some of them in several files, and small text files."""
    folder.mkdir()
    for number in range(files):
        rows = [f"{(number if i % 9 else 0)} {i} " + "wörds " * (i % 40) for i in range(records)]
        lines = "\n".join(
            json.dumps({"text": row}, ensure_ascii=i % 2 == 0) for i, row in enumerate(rows)
        ).encode()
        (folder / f"{number}.jsonl.zst").write_bytes(zstandard.compress(lines))
        (folder / f"{number}.txt").write_text(f"plain text {number}", encoding="utf-8")
    return folder


@pytest.fixture
def small_pieces(monkeypatch):
    """As of a corpus of gigabytes: many pieces, and other processes from the third on."""
    monkeypatch.setattr("tinylm.corpus.formats.CHUNK", 3000)
    monkeypatch.setattr("tinylm.corpus.formats.BLOCK", 1000)
    monkeypatch.setattr(ahead, "CHUNK", 3000)
    monkeypatch.setattr(ahead, "ALONE", 2)


@pytest.mark.parametrize("limit", [0, 1, 2500, 60_000])
def test_the_same_parts_whatever_the_number(limit, small_pieces, tmp_path):
    corpus = write_corpus(tmp_path / "corpus")
    reading, sources = Reading("text", 0.2), [Source([str(corpus)], limit=limit)]
    found = []
    for processes in (1, 3):
        out = tmp_path / str(processes)
        out.mkdir()
        try:
            write_split(read_ahead(reading, sources, processes), out)
        except InputError as error:  # the first document alone
            assert limit == 1 and "1 different document" in str(error)
        found.append([(out / f"{part}.jsonl.zst").read_bytes() for part in ("train", "valid")])
        assert sorted(os.listdir(out)) == ["train.jsonl.zst", "valid.jsonl.zst"]
    assert found[0] == found[1]
    seen, expected = set(), {True: [], False: []}
    for document in first_bytes(documents([str(corpus)]), limit):
        if document.text.strip() not in seen:
            expected[is_valid(document.text, 0.2)].append(document)
        seen.add(document.text.strip())
    assert list(read_part(tmp_path / "3", "train")) == expected[False]
    assert list(read_part(tmp_path / "3", "valid")) == expected[True]


def test_paths_are_told_apart_and_have_their_share(small_pieces, tmp_path):
    corpora = [str(write_corpus(tmp_path / name, files=1)) for name in "ab"]
    sources = [Source([path], n, 20_000, True) for n, path in enumerate(corpora)]
    out = tmp_path / "out"
    out.mkdir()
    facts = write_split(read_ahead(Reading("text", 0.1), sources, 2), out)
    assert {d.path for d in read_part(out, "train")} == {0}  # the second is a copy of the first
    assert facts["duplicates"] * 2 == facts["documents"]


def test_what_cannot_be_read_is_told_where_it_stands(small_pieces, tmp_path):
    corpus = write_corpus(tmp_path / "corpus")
    (corpus / "1a.jsonl").write_bytes(b'{"text": "fine"}\n' * 900 + b'{"text": 7}\n')
    with pytest.raises(InputError, match=r"1a\.jsonl line 901: 'text' is int"):
        list(read_ahead(Reading("text", 0.2), [Source([str(corpus)])], 2))


def test_a_needed_path_without_text(tmp_path):
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(InputError, match="holds no text"):
        list(read_ahead(Reading("text", 0.1), [Source([str(tmp_path)], needed=True)], 1))


def _die(number):
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_process_that_dies_is_one_line(monkeypatch):
    monkeypatch.setattr(ahead, "ALONE", 2)
    with pytest.raises(WorkError, match="out of memory"):
        list(ordered(_die, range(20), 2))


def _work(seconds):
    os.write(2, f"{os.getpid()}\n".encode())
    time.sleep(seconds)


def test_the_others_end_with_the_first(tmp_path):
    """Of a script without a guard, too."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys\nsys.path.append({str(Path(__file__).parent)!r})\n"
        "from tinylm.corpus import ahead\n"
        "from test_ahead import _work\n"
        "ahead.ALONE = 0\n"
        "list(ahead.ordered(_work, [2, 2], 2))\n"
    )
    first = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True)
    others = [int(first.stderr.readline()) for _ in range(2)]
    first.kill()
    first.wait()
    for _ in range(200):
        if not any(os.path.exists(f"/proc/{pid}") and _is_alive(pid) for pid in others):
            return
        time.sleep(0.1)
    raise AssertionError(f"{others} still run")


def _is_alive(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
