"""Encoding by the fast engine: the ids and the lengths that `tokenizers` gives."""

import sys

import numpy as np
import pytest
from builders import byte_level_tokenizer, sentencepiece_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinylm.artifact import write_json
from tinylm.corpus.pack import pack
from tinylm.tokenizer.encoders import encoder_of
from tinylm.tokenizer.engines import Engine, engine_of
from tinylm.tokenizer.source import read_source

TEXTS = ["The river 123", "", " ", "a  12 b3² \x00\x01 42nd", "<|endoftext|>x", "简体中文 e\u0301"]


def expected(engine: Engine, texts: list[str]) -> list[list[int]]:
    return [engine.source.fast.encode(text, add_special_tokens=False).ids for text in texts]


def rows(engine: Engine, texts: list[str]) -> list[list[int]]:
    ids, lengths = engine.encode(texts)
    assert lengths.sum() == len(ids) and len(lengths) == len(texts)
    return [row.tolist() for row in np.split(ids, np.cumsum(lengths)[:-1])]


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Engine:
    """As SmolLM2: digits apart, and bytes without a token."""
    data = read_source_of(byte_level_tokenizer()).data
    vocab = {t: i for t, i in data["model"]["vocab"].items() if t not in ("\u0104", "\u0105")}
    steps = [{"type": "Digits", "individual_digits": True}, data["pre_tokenizer"]]
    digits = {"type": "Sequence", "pretokenizers": steps}
    data = {**data, "pre_tokenizer": digits, "model": {**data["model"], "vocab": vocab}}
    folder = tmp_path_factory.mktemp("odd")
    write_json(folder / "tokenizer.json", data)
    return Engine(read_source(folder))


def read_source_of(tokenizer):
    return engine_of(tokenizer).source


@pytest.mark.parametrize("fast", [True, False], ids=["gigatoken", "tokenizers"])
@pytest.mark.parametrize("make", [byte_level_tokenizer, sentencepiece_tokenizer])
def test_ids_and_lengths_are_those_of_tokenizers(make, fast):
    engine = Engine(read_source_of(make()), fast)
    assert rows(engine, TEXTS) == expected(engine, TEXTS)
    assert rows(engine, TEXTS * 200) == expected(engine, TEXTS) * 200


def test_digits_apart_and_missing_bytes(odd):
    pytest.importorskip("gigatoken", reason="the optional package gigatoken is not installed")
    assert rows(odd, TEXTS) == expected(odd, TEXTS)
    assert odd.name == "gigatoken"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), min_size=1))
def test_any_text(odd, texts):
    assert rows(odd, texts) == expected(odd, texts)


@pytest.mark.parametrize("make", [byte_level_tokenizer, sentencepiece_tokenizer])
def test_a_store_is_the_same_whatever_encoded_it(make, tmp_path):
    tokenizer = make()
    texts = [text for text in TEXTS * 50 if text.strip()]
    plain = pack(texts, tokenizer, tmp_path / "plain")
    fast = pack(texts, tokenizer, tmp_path / "fast", encode=encoder_of(tokenizer))
    assert fast.checksums == plain.checksums
    assert (fast.num_documents, fast.text_bytes) == (plain.num_documents, plain.text_bytes)


def test_without_gigatoken(monkeypatch):
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    engine = engine_of(byte_level_tokenizer())
    assert rows(engine, TEXTS) == expected(engine, TEXTS)
