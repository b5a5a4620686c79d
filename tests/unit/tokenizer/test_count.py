import dataclasses
import sys

import numpy as np
import pytest
from tokenizer_builders import byte_level_dir, corpus, sentencepiece_dir

from tinylm.artifact import write_json
from tinylm.corpus.document import Document
from tinylm.errors import InputError, WorkError
from tinylm.tokenizer import engines
from tinylm.tokenizer.count import STRETCHES, Counts, count, count_files
from tinylm.tokenizer.counters import COUNTERS
from tinylm.tokenizer.engines import Engine
from tinylm.tokenizer.source import read_source


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return byte_level_dir(tmp_path_factory.mktemp("tokenizer") / "t")


def plain_counts(folder, documents) -> np.ndarray:
    source = read_source(folder)
    total = np.zeros(source.size, dtype=np.int64)
    for one in documents:
        for i in source.fast.encode(one.text, add_special_tokens=False).ids:
            total[i] += 1
    return total


def test_counts_are_those_of_tokenizers_whatever_the_shards(tokenizer):
    expected = plain_counts(tokenizer, corpus())
    for shard_bytes in (1, 3000, 10**9):
        found = count(tokenizer, iter(corpus()), shard_bytes=shard_bytes)
        assert np.array_equal(found.counts, expected)
    assert found.bytes == sum(len(one.text.encode()) for one in corpus())
    assert found.documents == len(corpus())


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_sentencepiece_counts(tmp_path, kind):
    folder = sentencepiece_dir(tmp_path / kind, kind)
    assert np.array_equal(count(folder, corpus(40)).counts, plain_counts(folder, corpus(40)))


def test_gigatoken_runs_where_it_is_exact(tokenizer):
    pytest.importorskip("gigatoken", reason="the optional package gigatoken is not installed")
    assert count(tokenizer, corpus()).engine == "gigatoken"


def test_digits_apart_and_missing_bytes_are_still_exact(tokenizer, tmp_path):
    """SmolLM's family: each digit is its own word, and some bytes have no token at all."""
    pytest.importorskip("gigatoken", reason="the optional package gigatoken is not installed")
    data = read_source(tokenizer).data
    letters = [
        letter
        for letter in data["model"]["vocab"]
        if len(letter) == 1 and letter in "\u0104\u0105Āāÿ"
    ]
    vocab = {token: i for token, i in data["model"]["vocab"].items() if token not in letters}
    digits = {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, data["pre_tokenizer"]],
    }
    data = {**data, "pre_tokenizer": digits, "model": {**data["model"], "vocab": vocab}}
    write_json(tmp_path / "tokenizer.json", data)
    texts = [Document("a  12 b3\u00b2 \x00\x01 42nd", "x"), *corpus()]
    found = count(tmp_path, texts)
    assert found.engine == "gigatoken"
    assert np.array_equal(found.counts, plain_counts(tmp_path, texts))


def test_a_differing_fast_engine_is_caught_and_left(tokenizer, monkeypatch):
    class Wrong:
        def __init__(self, source):
            self.right = source

        def encode(self, texts):
            rows = [self.right.fast.encode(text).ids for text in texts]
            ids, lengths = [i for row in rows for i in row], [len(row) for row in rows]
            return np.array([*ids[:-1], 0] if "river" in "".join(texts) else ids), lengths

    monkeypatch.setattr(engines, "Gigatoken", Wrong)
    found = count(tokenizer, corpus())
    assert found.engine == "tokenizers (gigatoken differed on a sample of the text)"
    assert np.array_equal(found.counts, plain_counts(tokenizer, corpus()))


def test_without_gigatoken_the_reference_runs(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    engine = Engine(read_source(tokenizer))
    assert engine.name == "tokenizers (gigatoken is not installed)"
    assert engine.count(["the river"]).sum() == len(engine.source.fast.encode("the river").ids)


def test_resume_tokenizes_only_what_is_new(tokenizer, tmp_path, monkeypatch):
    parts, calls, real = tmp_path / "parts", [], Engine.count

    def counted(self, texts, blocks):
        calls.append(len(texts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, texts, blocks)

    monkeypatch.setattr(Engine, "count", counted)
    with pytest.raises(KeyboardInterrupt):
        count(tokenizer, corpus(), shard_bytes=3000, parts=parts)
    assert len(list(parts.iterdir())) == 2
    found = count(tokenizer, corpus(), shard_bytes=3000, parts=parts)
    monkeypatch.undo()
    whole = count(tokenizer, corpus(), shard_bytes=3000)
    assert np.array_equal(found.counts, whole.counts) and found.bytes == whole.bytes
    shards = len(list(parts.iterdir()))
    assert len(calls) == 3 + shards - 2  # the two finished shards were not tokenized again


@pytest.mark.parametrize("engine", ["local", "tokenizers"])
@pytest.mark.parametrize("shard_bytes", [700, 3000, 10**9])
def test_stretches_are_consecutive_parts_of_the_text(tokenizer, shard_bytes, engine):
    words = " ".join(one.text for one in corpus()).split()
    texts = [Document(" ".join(words[at : at + 7]), "x") for at in range(0, 1400, 7)]
    found = count(tokenizer, texts, engine=engine, shard_bytes=shard_bytes)
    assert found.stretches.shape == (STRETCHES, len(found.counts))
    assert np.array_equal(found.stretches.sum(0), found.counts)
    tokens = found.stretches.sum(1)
    assert tokens.min() > 0.5 * tokens.mean() and tokens.max() < 1.5 * tokens.mean()
    # any number of the first stretches is any number of the first documents, whole
    running, prefixes = np.zeros_like(found.counts), []
    for text in texts:
        running = running + plain_counts(tokenizer, [text])
        prefixes.append(running)
    for stretch in np.cumsum(found.stretches, axis=0):
        assert any(np.array_equal(stretch, prefix) for prefix in prefixes)


def test_stretches_of_two_corpora_follow_each_other(tokenizer, tmp_path):
    first, second = count(tokenizer, corpus()), count(tokenizer, list(corpus())[:9])
    both = first + second
    assert np.array_equal(both.stretches, np.concatenate([first.stretches, second.stretches]))
    both.save(tmp_path / "c.npz")
    assert np.array_equal(Counts.load(tmp_path / "c.npz").stretches, both.stretches)
    old = dataclasses.replace(first, stretches=None)  # a file of before
    old.save(tmp_path / "old.npz")
    assert Counts.load(tmp_path / "old.npz").stretches is None
    assert (old + second).stretches is None


def test_a_damaged_part_is_named(tokenizer, tmp_path):
    count(tokenizer, corpus(), parts=tmp_path)
    part = next(tmp_path.iterdir())
    part.write_bytes(part.read_bytes()[:50])
    with pytest.raises(WorkError, match=part.name):
        count(tokenizer, corpus(), parts=tmp_path)


def test_files_are_counted_saved_and_loaded(tokenizer, tmp_path):
    (tmp_path / "a.txt").write_text("the river and the people")
    found = count_files(tokenizer, [str(tmp_path / "a.txt")], tmp_path / "c.npz")
    loaded = Counts.load(tmp_path / "c.npz")
    assert np.array_equal(loaded.counts, found.counts)
    assert (loaded.bytes, loaded.documents, loaded.corpora) == (24, 1, (str(tmp_path / "a.txt"),))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "c.npz"]


def test_counts_add(tokenizer):
    both, half = count(tokenizer, corpus()), len(corpus()) // 2
    added = count(tokenizer, corpus()[:half]) + count(tokenizer, corpus()[half:])
    assert np.array_equal(added.counts, both.counts) and added.bytes == both.bytes
    with pytest.raises(InputError, match="different tokenizers"):
        added + Counts(both.counts, 1, 1, "other", "elsewhere")


def test_lone_surrogates_do_not_stop_a_count(tokenizer):
    assert count(tokenizer, [Document("the \ud800 river", "x")]).tokens > 0


@pytest.mark.parametrize("name", ["none.npz", "broken.npz"])
def test_unreadable_counts_are_input_errors(tmp_path, name):
    (tmp_path / "broken.npz").write_bytes(b"PK nothing")
    with pytest.raises(InputError, match=name):
        Counts.load(tmp_path / name)


def test_no_text_and_unknown_engine(tokenizer):
    with pytest.raises(InputError, match="nothing to count"):
        count(tokenizer, iter([]))
    with pytest.raises(InputError, match="unknown"):
        count(tokenizer, corpus(), engine="warp")


@pytest.mark.parametrize("name", COUNTERS)
def test_every_counter_gives_the_same_numbers(name, tokenizer):
    if name == "ray":
        pytest.importorskip("ray", reason="the optional package ray is not installed")
    found = count(tokenizer, corpus(), engine=name, workers=2, shard_bytes=3000)
    assert np.array_equal(found.counts, plain_counts(tokenizer, corpus()))
    assert name == "local" or found.engine.startswith(name)


def test_ray_missing_is_an_input_error(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="pip install ray"):
        count(tokenizer, corpus(), engine="ray")


@pytest.mark.parametrize("workers", [0, -1])
def test_workers_that_cannot_be_are_one_line(tokenizer, workers):
    with pytest.raises(InputError, match=f"--workers {workers} must be 1 or more"):
        count(tokenizer, corpus(), engine="ray", workers=workers)
