import numpy as np
import pytest
from tiny_model import CHINESE, TEXT, byte_tokenizer, tiny_llama

from tinylm.corpus.read import Document
from tinylm.errors import InputError
from tinylm.evaluate.bands import band_names, bits_by_band, byte_bands, frequency_ranks
from tinylm.evaluate.bits_per_byte import bits_per_byte

DOCUMENTS = [
    Document(TEXT, "a"),
    Document("🦊 and 我们在河边", "b"),
    Document(CHINESE + " é", "b"),
    Document("x", "b"),
]
EDGES = (5, 50)


@pytest.fixture(scope="module")
def counts(tokenizer):
    texts = [document.text for document in DOCUMENTS]
    ids = np.concatenate(tokenizer(texts, add_special_tokens=False)["input_ids"])
    return np.bincount(ids, minlength=len(tokenizer))


def test_bands_hold_all_bytes_and_sum_to_the_bits_of_the_whole(model, tokenizer, counts):
    bands = byte_bands(tokenizer, counts, [document.text for document in DOCUMENTS], EDGES)
    result = bits_by_band(model, tokenizer, DOCUMENTS, bands, 64, edges=EDGES, dtype=None)
    whole = bits_per_byte(model, tokenizer, DOCUMENTS, 64, dtype=None)
    assert list(result) == ["rank 1-5", "rank 6-50", "rank over 50"] == band_names(EDGES)
    assert sum(band["bytes"] for band in result.values()) == whole["bytes"]
    bits = sum(band["bits_per_byte"] * band["bytes"] for band in result.values() if band["bytes"])
    assert bits / whole["bytes"] == pytest.approx(whole["bits_per_byte"], rel=1e-6)
    assert sum(band["share_of_bits"] for band in result.values()) == pytest.approx(1)


def test_a_model_with_another_tokenizer_has_the_same_bytes_in_every_band(model, tokenizer, counts):
    bands = byte_bands(tokenizer, counts, [document.text for document in DOCUMENTS], EDGES)
    letters = byte_tokenizer(257)
    other = tiny_llama(len(letters))
    ours, theirs = (
        bits_by_band(m, t, DOCUMENTS, bands, 256, edges=EDGES, dtype=None)
        for m, t in ((model, tokenizer), (other, letters))
    )
    assert [band["bytes"] for band in ours.values()] == [band["bytes"] for band in theirs.values()]
    whole = bits_per_byte(other, letters, DOCUMENTS, 256, dtype=None)
    bits = sum(band["bits_per_byte"] * band["bytes"] for band in theirs.values() if band["bytes"])
    assert bits / whole["bytes"] == pytest.approx(whole["bits_per_byte"], rel=1e-6)


def test_a_byte_is_in_the_band_of_its_token(tokenizer):
    ids = tokenizer.encode("the fox", add_special_tokens=False)
    counts = np.zeros(len(tokenizer), dtype=np.int64)
    counts[ids[0]], counts[ids[1]] = 9, 5
    assert frequency_ranks(counts)[ids[0]] == 0 and frequency_ranks(counts)[ids[1]] == 1
    (band,) = byte_bands(tokenizer, counts, ["the fox"], (1,))
    assert band.tolist() == [0, 0, 0, 1, 1, 1, 1]  # the space belongs to the token after it


def test_counts_of_another_size_are_refused(tokenizer):
    with pytest.raises(InputError, match="the counts have 3 tokens"):
        byte_bands(tokenizer, np.ones(3), ["a"])
