"""llama.cpp's own tokenizer vectors: its vocabulary files read as a teacher's, its texts, its ids.

They are the files models/ggml-vocab-*.gguf[.inp|.out] of llama.cpp (also in the source package of
llama-cpp-python 0.3.36). They are not ours to keep here: name their folder in
TINYLM_LLAMACPP_MODELS. What runs everywhere is test_odd_tokenizers.py, on tokenizers of our own
with llama.cpp as the reference.
"""

import os
from pathlib import Path

import pytest
from gguf import GGUFReader

from tinylm.models import gguf
from tinylm.models.tokenizer import load_fast

FOLDER = Path(os.environ.get("TINYLM_LLAMACPP_MODELS", "/nowhere"))
BETWEEN = "\n__ggml_vocab_test__\n"


@pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the vectors are not here: set TINYLM_LLAMACPP_MODELS"
)
@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("llama-spm", None),
        ("gpt-2", "gpt-2"),
        ("starcoder", "starcoder"),
        ("phi-3", None),
        ("llama-bpe", "llama-bpe"),
        ("qwen2", "qwen2"),
    ],
)
def test_ids_are_llamacpps(name, rule, tmp_path):
    file = FOLDER / f"ggml-vocab-{name}.gguf"
    gguf._save_tokenizer(GGUFReader(file), file, tmp_path, rule)
    tokenizer = load_fast(tmp_path)
    texts = Path(f"{file}.inp").read_text("utf-8").split(BETWEEN)
    lines = Path(f"{file}.out").read_text("utf-8").split("\n")
    expected = [[int(token) for token in line.split()] for line in lines]
    assert len(texts) > 40
    for text, ids in zip(texts, expected):
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids, text
