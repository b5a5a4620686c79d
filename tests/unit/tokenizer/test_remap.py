import json

import numpy as np
import pytest
from tokenizer_builders import byte_level_dir, corpus

from tinylm.artifact import write_json
from tinylm.corpus.pack import pack
from tinylm.errors import InputError
from tinylm.models.teacher import load_tokenizer
from tinylm.tokenizer import certificate, remap
from tinylm.tokenizer.compress import compress
from tinylm.tokenizer.count import count
from tinylm.tokenizer.remap import Expansion, remap_file, remap_logits, remap_store
from tinylm.tokenizer.source import read_source


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    root = tmp_path_factory.mktemp("remap")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificate, "FUZZ_STRINGS", 50)
        parent = byte_level_dir(root / "parent")
        compress(parent, count(parent, corpus()), out=root / "out", vocab_size=384)
    return read_source(parent), read_source(root / "out"), Expansion.load(root / "out")


def test_remapped_tokens_decode_to_the_same_text(cut):
    parent, child, expansion = cut
    assert expansion.lengths.max() > 2  # some tokens really fall apart
    for document in corpus(40, seed=9):
        old = np.array(parent.fast.encode(document.text, add_special_tokens=False).ids)
        new = expansion.apply(old)
        assert child.fast.decode(new.tolist()) == document.text
        assert len(new) == expansion.lengths[old].sum() >= len(old)


def test_growth_of_counts_is_that_of_the_tokens(cut):
    parent, _, expansion = cut
    old = np.array(parent.fast.encode(corpus()[0].text, add_special_tokens=False).ids)
    emitted = np.bincount(old, minlength=parent.size)
    assert expansion.growth(emitted) == pytest.approx(len(expansion.apply(old)) / len(old))


def test_a_file_is_remapped_chunk_by_chunk_with_its_document_starts(cut, tmp_path, monkeypatch):
    parent, child, expansion = cut
    rows = [parent.fast.encode(one.text, add_special_tokens=False).ids for one in corpus(30)]
    np.concatenate(rows).astype(np.uint16).tofile(tmp_path / "old.bin")
    starts = np.cumsum([0, *map(len, rows)])
    for chunk in (7, 10**6):
        monkeypatch.setattr(remap, "CHUNK", chunk)
        offsets, total = remap_file(
            tmp_path / "old.bin", tmp_path / "new.bin", expansion, 384, "uint16", starts
        )
        new = np.fromfile(tmp_path / "new.bin", dtype=np.uint16)
        assert total == len(new) == offsets[-1]
        for number, document in enumerate(corpus(30)):
            assert (
                child.fast.decode(new[offsets[number] : offsets[number + 1]].tolist())
                == document.text
            )


def test_a_packed_store_is_remapped_without_its_text(cut, tmp_path):
    parent, child, _ = cut
    old = pack(
        iter(corpus(30)), load_tokenizer(parent.folder), tmp_path / "old", separator="<|endoftext|>"
    )
    new = remap_store(tmp_path / "old", child.folder, tmp_path / "new")
    assert (new.vocab_size, new.num_documents, new.text_bytes) == (
        384,
        old.num_documents,
        old.text_bytes,
    )
    new.verify()
    for number, document in enumerate(corpus(30)):
        ids = new.tokens[new.documents[number] : new.documents[number + 1]].tolist()
        assert ids[-1] == new.separator == child.ids["<|endoftext|>"]
        assert child.fast.decode(ids[:-1]) == document.text
    header = json.loads((tmp_path / "old/store.json").read_text())
    # as of a model with BOS
    write_json(tmp_path / "old/store.json", header | {"start": parent.ids["<|endoftext|>"]})
    assert (
        remap_store(tmp_path / "old", child.folder, tmp_path / "begun").start
        == child.ids["<|endoftext|>"]
    )
    with pytest.raises(InputError, match="do not belong together"):
        remap_store(tmp_path / "old", tiny_child(child, tmp_path), tmp_path / "again")


def tiny_child(child, folder):
    """A compact directory whose parent had 3 tokens only."""
    Expansion(np.arange(4), np.arange(3)).save(folder / "expansion.npz")
    return folder


def test_ids_of_another_vocabulary_are_refused(cut):
    with pytest.raises(InputError, match="not of the old"):
        cut[2].apply(np.array([10**6]))
    with pytest.raises(InputError, match="no expansion"):
        Expansion.load("nowhere")


def test_logits_are_restricted_to_kept_tokens():
    ids, logits = remap_logits(
        np.array([[4, 2, 9]]), np.array([[3.0, 2.0, 1.0]]), kept=np.array([2, 9]), size=10
    )
    assert ids.tolist() == [[0, 0, 1]] and logits.tolist() == [[-np.inf, 2.0, 1.0]]
