"""Loading teachers: the demo's real GGUF, local directories, and everything that is not one."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from tinylm.errors import InputError
from tinylm.models import teacher
from tinylm.models.gguf import _refuse_scaled_rope, _refuse_unknown_splitting, _stops
from tinylm.models.shape import Shape
from tinylm.models.tokenizer import settle_class
from tinylm.tokenizer.rewrite import write_tokenizer
from tinylm.tokenizer.source import read_source


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("TINYLM_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield teacher.cache_dir()
    patch.undo()


def test_the_demo_teacher_is_converted_once_and_speaks_english(cache):
    folder = teacher.resolve("smollm2-135m")
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert teacher.resolve("smollm2-135m") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    model, tokenizer = teacher.load_model(folder, torch.bfloat16), teacher.load_tokenizer(folder)
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    ids = tokenizer("The capital of France is", return_tensors="pt")
    answer = tokenizer.decode(model.generate(**ids, max_new_tokens=2, do_sample=False)[0])
    assert answer.startswith("The capital of France is Paris")
    assert teacher.facts(folder)["pre_tokenizer"] == "smollm"
    assert teacher.facts(folder)["license"] == "apache-2.0"


def test_smollm_isolates_digits(cache):
    tokenizer = teacher.load_tokenizer("smollm2-135m")
    assert tokenizer.tokenize("in 1234") == ["in", "Ġ", "1", "2", "3", "4"]


def test_a_class_that_drops_the_files_rules_is_not_used(cache, tmp_path):
    """SmolLM2 on the hub is a GPT2Tokenizer, which transformers 5 builds without the rule for
    digits."""
    folder = tmp_path / "hub"
    shutil.copytree(
        teacher.resolve(teacher.DEMO_TEACHER),
        folder,
        ignore=shutil.ignore_patterns("*.safetensors"),
    )
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings | {"tokenizer_class": "GPT2Tokenizer"})
    )
    text, right = "\n\n1984  2", teacher.load_tokenizer(teacher.DEMO_TEACHER)
    assert AutoTokenizer.from_pretrained(folder).tokenize(text) != right.tokenize(text)
    assert teacher.load_tokenizer(folder).tokenize(text) == right.tokenize(text)
    teacher.load_tokenizer(folder).save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").tokenize(text) == right.tokenize(text)
    settle_class(shutil.copytree(folder, tmp_path / "settled"))
    assert AutoTokenizer.from_pretrained(tmp_path / "settled").tokenize(text) == right.tokenize(
        text
    )
    source = read_source(folder)
    write_tokenizer(source, np.arange(len(source.strings)), tmp_path / "cut")
    assert AutoTokenizer.from_pretrained(tmp_path / "cut").tokenize(text) == right.tokenize(text)


def test_a_cut_gguf_is_one_line_and_leaves_nothing(cache, tmp_path):
    whole = teacher._demo_gguf().read_bytes()
    for size in (100, len(whole) // 2):
        path = tmp_path / f"cut{size}.gguf"
        path.write_bytes(whole[:size])
        before = {entry for entry in cache.iterdir() if entry.suffix != ".lock"}
        with pytest.raises(InputError, match="cut"):
            teacher.resolve(path)
        assert {entry for entry in cache.iterdir() if entry.suffix != ".lock"} == before


def test_a_local_directory_is_used_as_it_is(teacher_dir):
    assert teacher.resolve(teacher_dir) == teacher_dir
    assert teacher.load_config(teacher_dir).num_hidden_layers == 4
    assert not teacher.load_model(teacher_dir).training


def test_the_fingerprint_is_of_content_not_of_time_or_place(teacher_dir, tmp_path):
    copy = shutil.copytree(teacher_dir, tmp_path / "copy", copy_function=shutil.copyfile)
    assert teacher.fingerprint(copy) == teacher.fingerprint(teacher_dir)
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"][3] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert teacher.fingerprint(copy) != teacher.fingerprint(teacher_dir)


def _set(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: (d / "model.safetensors").write_bytes(b"\0" * 100), "is damaged"),
        (lambda d: (d / "model.safetensors").unlink(), "no .safetensors"),
        (lambda d: (d / "config.json").write_text("{"), "not valid JSON"),
        (lambda d: (d / "config.json").unlink(), "no config.json"),
        (
            lambda d: (d / "config.json").write_text(
                json.dumps({"auto_map": {"AutoModel": "x.Y"}})
            ),
            "code of its own",
        ),
        (
            lambda d: _set(d / "config.json", num_hidden_layers="2"),
            "no readable config|cannot be loaded",
        ),
    ],
)
def test_a_damaged_directory_is_one_line(teacher_dir, tmp_path, damage, words):
    folder = shutil.copytree(teacher_dir, tmp_path / "model")
    damage(folder)
    with pytest.raises(InputError, match=words):
        teacher.load_model(folder)


def test_a_missing_weight_is_named(teacher_dir, tmp_path):
    folder = shutil.copytree(teacher_dir, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"layers\.2\.mlp\.up_proj"):
        teacher.load_model(folder)


@pytest.mark.parametrize("spec", ["/no/such/model", "./here", "noslash", "a/b/c", "README.md"])
def test_what_is_no_model_is_one_line(spec):
    with pytest.raises(InputError, match="model"):
        teacher.resolve(spec)


def test_an_unreachable_hub_id_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(InputError, match="nobody/nothing-here"):
        teacher.resolve("nobody/nothing-here")


def test_code_that_a_model_brings_is_run_only_where_allowed(teacher_dir, tmp_path, monkeypatch):
    folder = shutil.copytree(teacher_dir, tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own_llama",
        "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class Own(LlamaConfig):\n    model_type = 'own_llama'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = Own\n"
    )
    monkeypatch.delenv(teacher.TRUST, raising=False)
    for load in (teacher.load_config, teacher.load_model):
        with pytest.raises(InputError, match="TINYLM_TRUST_REMOTE_CODE=1"):
            load(folder)
    monkeypatch.setenv(teacher.TRUST, "1")
    assert type(teacher.load_model(folder)).__name__ == "OwnModel"


def test_a_family_that_transformers_knows_is_loaded_without_the_code_beside_it(
    teacher_dir, tmp_path, monkeypatch
):
    """Phi-3's repositories still bring the code they had before transformers knew them."""
    folder = shutil.copytree(teacher_dir, tmp_path / "known")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('this must not run')\n")
    for trusted in ("0", "1"):
        monkeypatch.setenv(teacher.TRUST, trusted)
        model = teacher.load_model(folder)
        assert type(model).__name__ == "LlamaForCausalLM"
    student = Shape.from_config(model.config).to_config(model.config)
    assert getattr(student, "auto_map", None) is None


class Reader:
    """Stands for a GGUF file of these fields."""

    def __init__(self, **fields):
        self.fields = {
            name: SimpleNamespace(contents=lambda value=value: value)
            for name, value in fields.items()
        }


def test_a_rule_of_splitting_that_transformers_lacks_is_refused(tmp_path):
    for name in ("llama-bpe", "qwen2", "smollm", "refact", "gpt-2"):
        _refuse_unknown_splitting(
            Reader(**{"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": name}), tmp_path
        )
    with pytest.raises(InputError, match="splits text by the rule 'deepseek-llm'"):
        fields = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "deepseek-llm"}
        _refuse_unknown_splitting(Reader(**fields), tmp_path)


def test_the_end_of_a_turn_ends_an_answer():
    """Phi-3's file names <|endoftext|> as its end, while its turns end in <|end|>."""
    fields = {"tokenizer.ggml.tokens": ["a", "<|endoftext|>", "<|end|>", "<|im_end|>"]}
    reader = Reader(**fields, **{"tokenizer.ggml.token_type": [1, 3, 3, 1]})
    assert _stops(reader, 1) == [1, 2] and _stops(reader, 2) == 2


@pytest.mark.parametrize("damage", ["rope_freqs.weight", "llama.rope.scaling.type"])
def test_a_gguf_with_scaled_rotary_positions_is_refused(cache, tmp_path, damage):
    """transformers reads no scaling from GGUF: Llama 3.1 would become another model without a
    word."""
    from gguf import GGUFReader, GGUFWriter

    writer = GGUFWriter(tmp_path / "scaled.gguf", "llama")
    sizes = {
        "block_count": 1,
        "context_length": 64,
        "embedding_length": 32,
        "feed_forward_length": 48,
    }
    for name, value in sizes.items():
        writer.add_uint32(f"llama.{name}", value)
    if damage == "rope_freqs.weight":
        writer.add_tensor(damage, np.ones(4, dtype=np.float32))
    else:
        writer.add_string(damage, "linear")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match="scales its rotary positions"):
        _refuse_scaled_rope(GGUFReader(tmp_path / "scaled.gguf"), tmp_path / "scaled.gguf")
