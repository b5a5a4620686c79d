from hypothesis import given
from hypothesis import strategies as st

from tinylm.corpus.document import Document
from tinylm.tokenizer.shards import shards

TEXTS = st.lists(st.text(st.characters(codec=None), max_size=30), max_size=20)


@given(TEXTS, st.integers(1, 60))
def test_every_text_stands_in_one_shard_in_its_order(texts, shard_bytes):
    found = list(shards((Document(text, "a") for text in texts), shard_bytes))
    # a lone surrogate is no text; UTF-8 has "?" for it
    expected = [text.encode("utf-8", "replace").decode() for text in texts]
    assert [text for shard in found for text in shard.texts] == expected
    for shard in found:
        assert shard.bytes == sum(len(text.encode()) for text in shard.texts)
        assert shard.documents == len(shard.texts) > 0
    assert all(shard.bytes >= shard_bytes for shard in found[:-1])
    assert all(
        sum(len(text.encode()) for text in shard.texts[:-1]) < shard_bytes for shard in found
    )


def test_a_digest_names_the_texts_and_where_they_end():
    def digest(*texts):
        (shard,) = shards((Document(text, "a") for text in texts), 1000)
        return shard.digest()

    assert digest("ab", "c") == digest("ab", "c")
    assert len({digest("ab", "c"), digest("a", "bc"), digest("abc"), digest("c", "ab")}) == 4
