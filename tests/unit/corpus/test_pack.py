"""Packing that is stopped, goes on, and is spread over workers: always the same store."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import byte_level_tokenizer, texts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinylm.corpus import pack as packing
from tinylm.corpus.document import Document
from tinylm.corpus.journal import JOURNAL
from tinylm.corpus.pack import pack
from tinylm.corpus.store import COUNTED, DOCUMENTS, HEADER, TOKENS
from tinylm.errors import InputError
from tinylm.tokenizer.encoders import ENCODERS, encoder_of

NAMES = (TOKENS, DOCUMENTS, HEADER, COUNTED)
CORPUS = [Document(text, "a", path=number // 20) for number, text in enumerate(texts(30))] + [
    Document("hello you there", "chat", path=1, taught=((6, 9),)),
    *(Document(text, "b", path=1) for text in texts(12, seed=3)),
]


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer()


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(packing, "BATCH_CHARACTERS", 700)


def stopping(tokenizer, after: int, seen: list[str]):
    """An encoder that is interrupted when it is asked for more than ``after`` batches."""
    plain = packing._by_tokenizer(tokenizer)

    def encode(batches: Iterator[list[str]]):
        for number, batch in enumerate(batches):
            if number == after:
                raise KeyboardInterrupt
            seen.extend(batch)
            yield from plain(iter([batch]))

    return encode


def files(store: Path) -> dict[str, bytes]:
    assert sorted(p.name for p in store.iterdir()) == sorted(NAMES)
    return {name: (store / name).read_bytes() for name in NAMES}


@pytest.fixture(scope="module")
def whole(tokenizer, tmp_path_factory) -> dict[str, bytes]:
    """The files of the store that is packed in one go, in one batch."""
    out = tmp_path_factory.mktemp("whole") / "store"
    pack(CORPUS, tokenizer, out)
    return files(out)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    stops=st.lists(st.integers(0, 4), max_size=4),
    damage=st.sampled_from(["", "half a line", "a cut file", "a longer file", "another tokenizer"]),
)
def test_a_packing_that_was_killed_goes_on(stops, damage, tokenizer, whole, tmp_path) -> None:
    out, seen = tmp_path / "store", []
    shutil.rmtree(out, ignore_errors=True)
    for after in stops:
        with pytest.raises(KeyboardInterrupt):
            pack(CORPUS, tokenizer, out, encode=stopping(tokenizer, after, seen))
        assert not out.exists()
        partial = tmp_path / "store.partial"
        if damage and (partial / JOURNAL).exists():
            spoil(partial, damage)
    pack(CORPUS, tokenizer, out, encode=stopping(tokenizer, 10**6, seen))
    assert files(out) == whole
    assert not (tmp_path / "store.partial").exists()
    everything = [text for document in CORPUS for text, _ in document.pieces()]
    if not damage:
        assert seen == everything, "nothing is tokenised twice"


def spoil(partial: Path, damage: str) -> None:
    journal, tokens = partial / JOURNAL, partial / TOKENS
    lines = journal.read_text().splitlines()
    if damage == "half a line":
        journal.write_text("\n".join([*lines, '["00'][:99]))
    if damage == "a cut file" and tokens.exists():
        tokens.write_bytes(tokens.read_bytes()[:-3])
    if damage == "a longer file":
        with open(tokens, "ab") as file:
            file.write(b"more than was written down")
    if damage == "another tokenizer":
        lines[0] = json.dumps({"tokenizer": "another"})
        journal.write_text("\n".join(lines) + "\n")


def test_text_that_changed_meanwhile_is_packed_anew_from_there(tokenizer, tmp_path) -> None:
    seen: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        pack(CORPUS, tokenizer, tmp_path / "store", encode=stopping(tokenizer, 4, seen))
    changed = [*CORPUS[:10], Document("another text", "a"), *CORPUS[11:]]
    pack(changed, tokenizer, tmp_path / "store")
    pack(changed, tokenizer, tmp_path / "fresh")
    assert files(tmp_path / "store") == files(tmp_path / "fresh")


def test_an_error_leaves_nothing(tokenizer, tmp_path) -> None:
    def broken() -> Iterator[Document]:
        yield from CORPUS
        raise InputError("line 43 is not JSON")

    with pytest.raises(InputError, match="line 43"):
        pack(broken(), tokenizer, tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


def test_a_second_packing_into_the_same_place_is_refused(tokenizer, tmp_path) -> None:
    def meanwhile() -> Iterator[Document]:
        yield from CORPUS
        with pytest.raises(InputError, match="another tinylm is working in"):
            pack(CORPUS, tokenizer, tmp_path / "store")

    pack(meanwhile(), tokenizer, tmp_path / "store")


@pytest.mark.parametrize("engine", ENCODERS)
def test_every_engine_gives_the_same_store(engine, tokenizer, whole, tmp_path) -> None:
    if engine == "ray":
        pytest.importorskip("ray", reason="the optional package ray is not installed")
    pack(CORPUS, tokenizer, tmp_path / "store", encode=encoder_of(tokenizer, engine, 2))
    assert files(tmp_path / "store") == whole


def test_a_ray_worker_that_is_lost_is_one_line(tokenizer, tmp_path, monkeypatch) -> None:
    pytest.importorskip("ray", reason="the optional package ray is not installed")
    from tinylm.errors import WorkError
    from tinylm.tokenizer import cluster

    class Dying(cluster.Worker):
        def encode(self, texts):
            import os

            os._exit(1)

    monkeypatch.setattr(cluster, "Worker", Dying)
    with pytest.raises(WorkError, match=r"a Ray worker was lost .*run again"):
        pack(CORPUS, tokenizer, tmp_path / "store", encode=encoder_of(tokenizer, "ray", 1))
