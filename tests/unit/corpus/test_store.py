import dataclasses
import itertools
import json

import numpy as np
import pytest
from builders import byte_level_tokenizer, corpus_file, sentencepiece_tokenizer, texts

from tinylm.corpus.pack import find_separator, pack
from tinylm.corpus.store import open_store, tokenizer_hash
from tinylm.errors import InputError
from tinylm.inherit.calibration import calibration_chunks


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer()


@pytest.fixture
def store(tokenizer, tmp_path):
    return pack(texts(30), tokenizer, tmp_path / "store")


def test_tokens_are_the_documents_each_followed_by_the_separator(store, tokenizer):
    expected = [tokenizer(text, add_special_tokens=False)["input_ids"] + [0] for text in texts(30)]
    assert store.tokens.tolist() == list(itertools.chain(*expected))
    assert np.diff(store.documents).tolist() == [len(ids) for ids in expected]
    assert store.num_tokens == store.documents[-1]
    assert store.text_bytes == sum(len(text.encode()) for text in texts(30))
    assert store.dtype == "<u2" and store.separator == tokenizer.get_vocab()["<|endoftext|>"]


def test_windows_overlap_by_the_one_target(store):
    windows = store.windows([0, 1, 5], 16)
    assert windows.shape == (3, 17) and windows.dtype == np.int64
    assert windows[0, -1] == windows[1, 0]
    assert windows[2].tolist() == store.tokens[80:97].tolist()
    assert store.num_sequences(16) == (store.num_tokens - 1) // 16


def test_positions_begin_again_in_every_document(store):
    indices, length = range(store.num_sequences(40)), 40
    positions = store.positions(indices, length)
    ids = store.windows(indices, length)[:, :-1]
    for row_ids, row_positions in zip(ids, positions):
        count = 0
        for token, position in zip(row_ids, row_positions):
            assert position == count
            count = 0 if token == store.separator else count + 1


def test_equal_text_gives_equal_bytes(store, tokenizer, tmp_path):
    again = pack(texts(30), tokenizer, tmp_path / "again")
    assert again.fingerprint == store.fingerprint
    assert pack(texts(31), tokenizer, tmp_path / "more").fingerprint != store.fingerprint


def test_large_vocabularies_take_four_bytes(tmp_path):
    wide = byte_level_tokenizer()
    wide.add_tokens([f"<extra-{number}>" for number in range(2**16)])
    store = pack(["plain <extra-65535> text"], wide, tmp_path / "wide")
    assert store.dtype == "<u4" and store.tokens.max() > 2**16


def test_no_documents_is_an_error_and_leaves_nothing(tokenizer, tmp_path):
    with pytest.raises(InputError, match="no document"):
        pack(["", "  \n"], tokenizer, tmp_path / "empty")
    assert not list(tmp_path.iterdir())


def test_separator_by_name_or_from_the_tokenizer(tokenizer):
    assert find_separator(tokenizer, "<|im_end|>") == tokenizer.get_vocab()["<|im_end|>"]
    assert find_separator(sentencepiece_tokenizer()) == 2  # </s>
    with pytest.raises(InputError, match="not a token"):
        find_separator(tokenizer, "<nothing>")


def test_truncated_damaged_and_missing_stores_are_one_clear_error(store):
    with pytest.raises(InputError, match="not a token store"):
        open_store(store.path.parent)
    file = store.path / "tokens.bin"
    content = file.read_bytes()
    file.write_bytes(content[:-2])
    with pytest.raises(InputError, match="truncated"):
        open_store(store.path)
    file.write_bytes(content[:-2] + b"\x07\x00")
    with pytest.raises(InputError, match=r"tokens\.bin is damaged"):
        open_store(store.path).verify()
    file.write_bytes(content)
    open_store(store.path).verify()
    header = json.loads((store.path / "store.json").read_text())
    del header["vocab_size"]
    (store.path / "store.json").write_text(json.dumps(header))
    with pytest.raises(InputError, match="vocab_size"):
        open_store(store.path)


def test_tokenizer_hash_survives_saving_and_sees_another_tokenizer(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    again(["a", "b c"], padding=False, truncation=True, max_length=4)
    assert tokenizer_hash(again) == tokenizer_hash(tokenizer)
    assert tokenizer_hash(byte_level_tokenizer(480)) != tokenizer_hash(tokenizer)


def test_texts_and_windows_begin_with_bos_where_the_tokenizer_puts_one(tmp_path):
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_level_tokenizer()
    bos = tokenizer.bos_token_id
    template = {
        "single": f"{tokenizer.bos_token} $A",
        "special_tokens": [(tokenizer.bos_token, bos)],
    }
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(**template)
    store = pack(texts(6), tokenizer, tmp_path / "store")
    assert store.start == bos and (store.tokens[store.documents[:-1]] == bos).all()
    windows, plain = (
        store.windows([1, 2], 16),
        dataclasses.replace(store, start=None).windows([1, 2], 16),
    )
    assert (
        (windows[:, 0] == bos).all()
        and (windows[:, 1:] == plain[:, 1:]).all()
        and (plain[:, 0] != bos).any()
    )
    calibration = calibration_chunks([str(corpus_file(tmp_path / "text.jsonl"))], tokenizer, 4, 32)
    assert (calibration[:, 0] == bos).all()
    assert pack(texts(6), byte_level_tokenizer(), tmp_path / "other").start is None
