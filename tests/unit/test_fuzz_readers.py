"""Readers of what users bring, over bytes that nobody wrote: the right value or an InputError,
never another exception. `make fuzz` looks longer."""

import json
import os
import struct
import tomllib

import pytest
import torch
from builders import byte_level_tokenizer, random_model
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tinylm.artifact import read_json, read_object
from tinylm.corpus.read import documents
from tinylm.errors import InputError
from tinylm.models import gguf
from tinylm.models.config import read_config
from tinylm.models.initialise import new_model
from tinylm.models.shape import Shape, read_shape
from tinylm.models.shards import Shards, weight_files
from tinylm.pipeline.recipe import read_recipe
from tinylm.tokenizer.source import read_source

EXAMPLES = int(os.environ.get("TINYLM_FUZZ", "60"))
quick = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == 60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.floats(), st.text(max_size=12)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good") / "m"
    random_model(folder, "llama", byte_level_tokenizer())
    return folder


def allowed(read, *arguments):
    """What ``read`` gives, None for a refusal of one line."""
    try:
        return read(*arguments)
    except InputError as error:
        assert str(error).strip()
        return None


@quick
@given(content=st.binary(max_size=200) | values.map(lambda v: json.dumps(v).encode()))
@example(content=b"[" * 200_000)
@example(content=b'{"a": 1' + b"0" * 5000 + b"}")
@example(content=b"\xef\xbb\xbf{}")
def test_json(content, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    found = allowed(read_json, tmp_path / "x.json")
    if found is not None:
        assert json.loads(content.decode("utf-8-sig")) == found or found != found
    held = allowed(read_object, tmp_path / "x.json")
    assert held is None or isinstance(held, dict)


KEYS = st.sampled_from(
    "model_type vocab_size hidden_size num_hidden_layers num_attention_heads head_dim"
    " num_key_value_heads intermediate_size rope_parameters rope_theta rope_scaling eos_token_id"
    " pad_token_id bos_token_id tie_word_embeddings dtype torch_dtype hidden_act rms_norm_eps"
    " max_position_embeddings quantization_config layer_types attention_bias sliding_window"
    " architectures auto_map use_cache".split()
)


@quick
@given(changes=st.dictionaries(KEYS, values, min_size=1, max_size=3))
@example(changes={"rope_parameters": {"rope_type": "yarn"}})
@example(changes={"rope_parameters": {"rope_type": "linear", "factor": "x"}})
@example(changes={"dtype": []})
@example(changes={"num_hidden_layers": -1})
@example(changes={"num_attention_heads": 0})
@example(changes={"vocab_size": 10**30})
@example(changes={"architectures": 5})
def test_config(changes, good, tmp_path):
    """What is accepted is a config that a model can be built from, or a refusal names it."""
    folder = tmp_path / "m"
    folder.mkdir(exist_ok=True)
    config = json.loads((good / "config.json").read_text("utf-8")) | changes
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    found = allowed(read_config, folder)
    if found is None:
        return
    allowed(Shape.from_config, found)
    # a layer count or a width of billions would be built for hours
    sizes = [changes.get(key, 1) for key in ("num_hidden_layers", "vocab_size", "hidden_size")]
    if all(isinstance(size, int) and abs(size) < 1000 for size in sizes):
        allowed(new_model, found, "float32", "meta")


@quick
@given(
    header=st.dictionaries(st.text(max_size=8), values, max_size=3).map(json.dumps)
    | st.text(max_size=40),
    claimed=st.integers(0, 2**64 - 1) | st.none(),
    tail=st.binary(max_size=64),
)
def test_safetensors(header, claimed, tail, good, tmp_path):
    raw = header.encode()
    size = struct.pack("<Q", len(raw) if claimed is None else claimed)
    (tmp_path / "config.json").write_bytes((good / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(size + raw + tail)
    shards = allowed(Shards, tmp_path, True)
    if shards is not None:
        assert all(isinstance(shards[name], torch.Tensor) for name in shards)


@quick
@given(content=values.map(json.dumps) | st.text(max_size=40))
@example(content='{"weight_map": {"a": 5, "b": null}}')
@example(content='{"weight_map": {"a": "../../etc/passwd"}}')
def test_index(content, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(content, "utf-8")
    found = allowed(weight_files, tmp_path)
    assert found is None or all(path.parent == tmp_path for path in found)


def test_gguf(tmp_path):
    """A good header with bytes changed at any place."""
    from gguf import GGUFWriter

    writer = GGUFWriter(tmp_path / "good.gguf", "llama")
    writer.add_block_count(1)
    writer.add_token_list(["a", "b"])
    writer.add_array("general.numbers", [1, 2, 3])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    good = (tmp_path / "good.gguf").read_bytes()

    @quick
    @given(
        at=st.integers(0, len(good) - 1),
        with_=st.binary(min_size=1, max_size=8),
        cut=st.integers(0, len(good)) | st.none(),
    )
    def change(at, with_, cut):
        content = (good[:at] + with_ + good[at + len(with_) :])[:cut]
        (tmp_path / "x.gguf").write_bytes(content)
        (tmp_path / "out").mkdir(exist_ok=True)
        allowed(gguf.convert, tmp_path / "x.gguf", tmp_path / "out")

    change()


PARTS = ("model", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder")


@quick
@given(part=st.sampled_from((*PARTS, "padding", "truncation", "version")), value=values)
@example(part="added_tokens", value=[{"content": "x"}])
@example(part="added_tokens", value=[5])
@example(part="model", value={"type": "BPE", "vocab": {"a": 0}, "merges": ["a"]})
@example(part="model", value={"type": "Unigram", "vocab": {"a": 0}})
@example(part="pre_tokenizer", value={"type": "Sequence"})
def test_tokenizer(part, value, good, tmp_path):
    data = json.loads((good / "tokenizer.json").read_text("utf-8")) | {part: value}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    source = allowed(read_source, tmp_path)
    if source is not None:
        assert source.fast.encode("the river").ids is not None and source.size > 0


NAMES = ["a.jsonl", "a.txt", "a.json", "a.jsonl.gz", "a.jsonl.zst", "a.txt.xz"]


@quick
@given(content=st.binary(max_size=120) | values.map(lambda v: json.dumps({"text": v}).encode()))
@example(content=b'{"text": "\\ud800"}')
@example(content=b'{"text": "x"}\r\n{"text": "y"}')
@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.txt", "a.json", "a.jsonl.gz", "a.jsonl.zst", "a.xz"]
)
def test_corpora(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    found = allowed(lambda: list(documents([tmp_path / name])))
    for document in found or []:
        assert document.text.strip() and document.text.encode()


@quick
@given(content=st.text(max_size=120))
@example(content="[architecture]\nbudget = nan")
@example(content="[architecture]\nbudget = inf")
@example(content="[architecture.shape]\nnum_layers = 1e3")
@example(content="[train]\nbase_lr = -1.0")
@example(content="name = ''")
@example(content="seed = 99999999999999999999")
@example(content="[train]\nsteps = true")
def test_toml(content, tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(content, "utf-8", newline="")
    recipe = allowed(read_recipe, path)
    shape = allowed(read_shape, path)
    if recipe is not None or shape is not None:
        assert isinstance(tomllib.loads(content.replace("\r\n", "\n")), dict)
