"""Loading teachers: the demo's real GGUF, local directories, and everything that is not one."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tinylm.errors import InputError
from tinylm.models import teacher


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


def test_a_cut_gguf_is_one_line_and_leaves_nothing(cache, tmp_path):
    whole = teacher._demo_gguf().read_bytes()
    for size in (100, len(whole) // 2):
        path = tmp_path / f"cut{size}.gguf"
        path.write_bytes(whole[:size])
        before = sorted(cache.iterdir())
        with pytest.raises(InputError, match="cut"):
            teacher.resolve(path)
        assert sorted(cache.iterdir()) == before


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


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: (d / "model.safetensors").write_bytes(b"\0" * 100), "cannot be loaded"),
        (lambda d: (d / "model.safetensors").unlink(), "no .safetensors"),
        (lambda d: (d / "config.json").write_text("{"), "not valid JSON"),
        (lambda d: (d / "config.json").unlink(), "no config.json"),
        (lambda d: (d / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "x.Y"}})), "code of its own"),
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
    config |= {"model_type": "own_llama", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"}}
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
