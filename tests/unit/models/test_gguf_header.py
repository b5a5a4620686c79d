import struct

import numpy as np
import pytest
from gguf import GGUFWriter

from tinylm.errors import InputError
from tinylm.models.gguf_header import check_header


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "good.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_token_list(["a", "\u6587"])
    writer.add_array("some.numbers", [1.5, 2.5])
    writer.add_array("some.words", ["x", "yz"])
    writer.add_tensor("t.weight", np.zeros((3, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def refused(path, content, words):
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        check_header(path)


def test_a_good_header(good, tmp_path):
    (tmp_path / "x.gguf").write_bytes(good)
    check_header(tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (0, b"GGML", "does not begin"),
        (4, struct.pack("<I", 1), "version 1"),
        (4, struct.pack(">I", 3), "big-endian"),
        (8, struct.pack("<Q", 2**60), "entries"),  # tensors
        (16, struct.pack("<Q", 2**60), "entries"),  # fields
        (24, struct.pack("<Q", 2**60), "entries"),  # a key's length
    ],
)
def test_a_damaged_header(at, value, words, good, tmp_path):
    refused(tmp_path / "x.gguf", good[:at] + value + good[at + len(value) :], words)


@pytest.mark.parametrize("name", [b"some.numbers", b"some.words", b"tokenizer.ggml.tokens"])
def test_an_array_longer_than_the_file(name, good, tmp_path):
    count = good.index(name) + len(name) + 8  # behind the type and the type of its elements
    changed = good[:count] + struct.pack("<Q", 2**60) + good[count + 8 :]
    refused(tmp_path / "x.gguf", changed, "entries at byte")


def test_cut_anywhere_in_its_header(good, tmp_path):
    end = good.index(b"t.weight") + len(b"t.weight") + 4 + 16 + 12
    for length in range(5, end):
        refused(tmp_path / "x.gguf", good[:length], "cut short")
