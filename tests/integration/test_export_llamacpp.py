"""Exports run in real llama.cpp: every family, both kinds of tokenizer, and every kind of
tampering."""

import json
import shutil

import numpy as np
import pytest
import torch
from builders import (
    byte_level_tokenizer,
    random_model,
    sentencepiece_tokenizer,
    texts,
    tiny_teacher,
)
from gguf import GGUFReader
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers

from tinylm.cli import main
from tinylm.errors import InputError, WorkError
from tinylm.export import importance
from tinylm.export.check import BOUNDS, check, compare_contents, export_checked
from tinylm.export.check_tokens import compare_tokens
from tinylm.export.gguf import export
from tinylm.export.llamacpp import Llama
from tinylm.models.teacher import load_model, load_tokenizer

pytest.importorskip("xllamacpp")

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 512,
    "factor": 2.0,
    "short_factor": [1 + 0.1 * i for i in range(8)],
    "long_factor": [1.0 + i for i in range(8)],
}
MIXED = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
CASES = {
    "llama": ("llama", {}),
    "llama-untied-biases": (
        "llama",
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    ),
    "llama-wide-heads": ("llama", {"head_dim": 32}),
    "llama-3-rope": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "llama-linear": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    ),
    "mistral": ("mistral", {}),
    "smollm3": ("smollm3", {"num_hidden_layers": 5}),
    "granite": (
        "granite",
        {
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.2,
            "logits_scaling": 2.0,
        },
    ),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 32, "tie_word_embeddings": False}),
    "gemma": ("gemma", {}),
    "gemma2-cut": (
        "gemma2",
        {"query_pre_attn_scalar": 40, "sliding_window": 64, "layer_types": MIXED},
    ),
    "gemma3-cut": (
        "gemma3_text",
        {"query_pre_attn_scalar": 24, "sliding_window": 64, "layer_types": MIXED},
    ),
    "phi3": ("phi3", {}),
    "phi3-longrope": (
        "phi3",
        {"rope_parameters": LONGROPE, "original_max_position_embeddings": 512},
    ),
    "olmo2": ("olmo2", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_llamacpp_computes_what_transformers_does(case, tmp_path):
    model_type, changes = CASES[case]
    folder = random_model(tmp_path / case, model_type, byte_level_tokenizer(), **changes)
    report = export_checked(folder, tmp_path / "m.gguf", "F32")
    assert report["check"]["kl"] < 1e-4
    assert report["check"]["positions"] > 256  # past every sliding window above


@pytest.mark.parametrize(
    "case",
    [
        "llama-untied-biases",
        "llama-wide-heads",
        "qwen2",
        "qwen3",
        "gemma2-cut",
        "gemma3-cut",
        "phi3",
    ],
)
def test_an_export_loaded_back_is_the_model(case, tmp_path, monkeypatch):
    """transformers leaves biases, the layers' windows, caps and the scale of queries behind in the
    file."""
    monkeypatch.setenv("TINYLM_CACHE", str(tmp_path / "cache"))
    model_type, changes = CASES[case]
    folder = random_model(tmp_path / case, model_type, byte_level_tokenizer(), **changes)
    export(folder, tmp_path / "m.gguf", "F32")
    ids = torch.randint(400, (1, 300), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, back = (load_model(path)(ids).logits for path in (folder, tmp_path / "m.gguf"))
    torch.testing.assert_close(back, first, atol=2e-4 * float(first.abs().max()), rtol=1e-3)


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
def test_sentencepiece_tokenizers(model_type, tmp_path):
    folder = random_model(tmp_path / "m", model_type, sentencepiece_tokenizer(), sliding_window=64)
    report = export_checked(folder, tmp_path / "m.gguf", "F16")
    assert report["check"]["tokens"]["ids"] > 5000


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A Llama whose tokenizer isolates digits, as SmolLM's does."""
    folder = tmp_path_factory.mktemp("export") / "model"
    tokenizer = byte_level_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return random_model(
        folder,
        "llama",
        tokenizer,
        hidden_size=256,
        head_dim=64,
        intermediate_size=256,
        initializer_range=0.1,
    )


@pytest.mark.parametrize(
    "quantize",
    ["BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0"],
)
def test_every_quantisation_runs_and_is_what_it_says(quantize, model_dir, tmp_path):
    report = export(model_dir, tmp_path / "m.gguf", quantize)
    assert report["fallbacks"] == {}
    with Llama(tmp_path / "m.gguf") as llama:
        assert len(llama.greedy([5, 6, 7], 4)) >= 1
    assert compare_contents(model_dir, tmp_path / "m.gguf") == quantize


@pytest.mark.parametrize("quantize", ["Q4_0", "Q4_K_M"])
def test_an_importance_matrix_spends_the_bits_where_they_count(quantize, tmp_path):
    """Half of the channels are far louder than the others: weighed errors cost less there."""
    tokenizer = byte_level_tokenizer()
    sizes = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "num_hidden_layers": 2}
    calm = {"tie_word_embeddings": False, "initializer_range": 0.04}
    folder = random_model(tmp_path / "m", "llama", tokenizer, **sizes, **calm)
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if "layernorm" in name:
            weight[::2] *= 8
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "text.txt").write_text(" ".join(texts(60)))
    text = ["--importance", str(tmp_path / "text.txt")]
    found = {}
    for name, more in (("plain", []), ("weighed", text)):
        file = tmp_path / f"{name}.gguf"
        words = ["--model", str(folder), "--quantize", quantize, "--out", str(file), "--no-check"]
        main(["export", *words, *more])
        found[name] = kl_of(folder, file, (tmp_path / "text.txt").read_text())
    assert found["weighed"] < 0.95 * found["plain"]
    again = importance.measure(folder, [(tmp_path / "text.txt").read_text()])
    compare_contents(folder, tmp_path / "weighed.gguf", importance=again)
    with pytest.raises(InputError, match="was packed with an importance matrix"):
        compare_contents(folder, tmp_path / "weighed.gguf")
    with pytest.raises(InputError, match="was packed without an importance matrix"):
        compare_contents(folder, tmp_path / "plain.gguf", importance=again)


def kl_of(folder, file, text) -> float:
    """Mean KL of llama.cpp's distributions from the model's, nats a token."""
    model, ids = load_model(folder, torch.float32), load_tokenizer(folder)(text)["input_ids"][:256]
    with torch.no_grad(), Llama(file, context=512) as llama:
        ours = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        theirs = torch.from_numpy(llama.logits(ids)).log_softmax(-1)
    return float((ours.exp() * (ours - theirs)).sum(-1).mean())


def test_what_an_importance_matrix_is_for_is_said(model_dir, tmp_path, capsys):
    (tmp_path / "short.txt").write_text("A few words.")
    short = ["--importance", str(tmp_path / "short.txt")]
    for words, message in (
        (["--quantize", "Q8_0"], "is for formats below 8 bits: Q8_0"),
        (["--format", "mlx"], "is of a GGUF: --format mlx has none"),
        (["--quantize", "Q4_0"], "give 512 or more"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(
                ["export", "--model", str(model_dir), "--out", str(tmp_path / "x"), *words, *short]
            )
        assert stop.value.code == 2 and message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["short.txt"]


@pytest.fixture
def exported(model_dir, tmp_path):
    export(model_dir, tmp_path / "m.gguf", "F16")
    return tmp_path / "m.gguf"


def tensor_bytes(path, name):
    """A writable view of one tensor of the file."""
    tensor = next(tensor for tensor in GGUFReader(path, "r+").tensors if tensor.name == name)
    return tensor.data


def test_the_untouched_file_passes(model_dir, exported):
    facts = check(model_dir, exported)
    assert facts["greedy_equal"] == facts["greedy_tokens"] and facts["tokens"][
        "known_differences"
    ] == ["llama.cpp also ends a text at <|endoftext|>"]


def test_one_tampered_weight_of_the_file_is_found(model_dir, exported):
    data = tensor_bytes(exported, "blk.2.ffn_down.weight")
    data[7, 9] += np.float16(0.001)
    with pytest.raises(WorkError, match=r"weights of blk\.2\.ffn_down\.weight"):
        check(model_dir, exported)


def test_one_tampered_weight_of_the_model_is_found(model_dir, exported, tmp_path):
    shutil.copytree(model_dir, tmp_path / "other")
    weights = load_file(tmp_path / "other" / "model.safetensors")
    weights["model.layers.1.self_attn.k_proj.weight"][3, 3] *= 1.01
    save_file(weights, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WorkError, match=r"weights of blk\.1\.attn_k\.weight"):
        check(tmp_path / "other", exported)


def test_a_tampered_tokenizer_is_found(model_dir, exported, tmp_path):
    shutil.copytree(model_dir, tmp_path / "other")
    path = tmp_path / "other" / "tokenizer.json"
    definition = json.loads(path.read_text())
    merges = definition["model"]["merges"]
    merges[10], merges[40] = merges[40], merges[10]
    path.write_text(json.dumps(definition))
    with pytest.raises(WorkError, match=r"tokenizer\.ggml\.merges: entry 10"):
        check(tmp_path / "other", exported)


def test_a_wrong_pre_tokenizer_is_found_by_llamacpp_itself(model_dir, tmp_path):
    """It loads silently and is wrong on digits only."""
    with pytest.raises(WorkError, match=r"tokenizes .* differently"):
        export_checked(model_dir, tmp_path / "m.gguf", "F16", pre_tokenizer="gpt-2")
    assert list(tmp_path.iterdir()) == []
    export(model_dir, tmp_path / "m.gguf", "F16", pre_tokenizer="gpt-2")
    with Llama(tmp_path / "m.gguf") as llama:
        compare_tokens(llama, load_tokenizer(model_dir), ["plain words pass", "the river was old"])


def test_a_pre_tokenizer_llamacpp_does_not_know(model_dir, tmp_path):
    with pytest.raises(WorkError, match=r"cannot load.*unknown pre-tokenizer"):
        export_checked(model_dir, tmp_path / "m.gguf", pre_tokenizer="nonsense")


def test_a_wrong_graph_is_found_by_the_distributions(model_dir, tmp_path, monkeypatch):
    """Without the reordering of rope's rows the file is self-consistent and loads, but computes
    something else."""
    monkeypatch.setattr("tinylm.export.graph._interleave", lambda weight, heads: weight)
    with pytest.raises(WorkError, match="mean KL"):
        export_checked(model_dir, tmp_path / "m.gguf", "F16")


def test_a_quantisation_that_loses_too_much_is_refused(model_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(BOUNDS, "Q4_0", (1e-6, 0.25))
    with pytest.raises(WorkError, match="--no-check to keep it all the same"):
        export_checked(model_dir, tmp_path / "m.gguf", "Q4_0")


def test_a_truncated_file(model_dir, exported):
    exported.write_bytes(exported.read_bytes()[:-4000])
    with pytest.raises(WorkError, match="not a whole GGUF file"):
        check(model_dir, exported)


def test_a_file_that_is_not_there(model_dir, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        check(model_dir, tmp_path / "no.gguf")


def run(capsys, *arguments):
    """(exit code, stdout, stderr) of the command line."""
    try:
        main([str(argument) for argument in arguments])
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    return code, *capsys.readouterr()


def test_the_command(tmp_path, capsys):
    folder, out = tiny_teacher(tmp_path / "teacher", initializer_range=0.3), tmp_path / "t.gguf"
    code, told, _ = run(capsys, "export", "--model", folder, "--out", out, "--quantize", "q8_0")
    assert code == 0 and "bits per byte" in told
    report = json.loads((tmp_path / "t.gguf.json").read_text())
    assert report["quantize"] == "Q8_0" and report["check"]["bits_per_byte"]["llama.cpp"] > 0
    code, _, error = run(capsys, "export", "--model", folder, "--out", out)
    assert code == 2 and error.count("\n") == 1 and "exists already" in error
    code, told, _ = run(capsys, "export", "--model", folder, "--verify", out)
    assert code == 0
    data = tensor_bytes(out, "blk.0.attn_q.weight")
    data[0, 5] ^= 1
    code, _, error = run(capsys, "export", "--model", folder, "--verify", out)
    assert code == 1 and error.count("\n") == 1 and "blk.0.attn_q.weight" in error
