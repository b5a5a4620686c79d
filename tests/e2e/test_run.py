"""`tinylm run` from the outside: the whole pipeline on a tiny teacher, killed, resumed, and given
bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from builders import corpus_file
from safetensors.torch import load_file


def tinylm(*arguments, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "tinylm", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=300, **options
    )


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    done = tinylm("run", recipe, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "bits per byte" in done.stdout
    assert "Warning" not in done.stderr and "warn" not in done.stderr  # none that breaks a bar
    return out


def test_results_keep_the_contract(finished):
    results = json.loads((finished / "results.json").read_text())
    assert {"teacher", "student", "control"} <= set(results["bits_per_byte"])
    assert all(0 < value < 20 for value in results["bits_per_byte"].values())
    assert results["parameters"]["student"] < results["parameters"]["teacher"]
    assert results["tokens_trained"] == 24 * 4 * 32
    assert all(seconds >= 0 for seconds in results["seconds"].values())
    html = (finished / "report.html").read_text()
    assert html.count("<svg") == 5 and "<script" not in html and "http-equiv" not in html
    for name in ("ladder", "loss", "coverage", "parts", "layers"):
        assert f"figures/{name}.svg" in (finished / "report.md").read_text()
        assert (finished / "figures" / f"{name}.svg").exists()
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert {row["round"] for row in rows if "round" in row} == {0, 1}


def test_the_control_sees_the_same_batches(finished):
    import numpy as np

    artifacts = json.loads((finished / "results.json").read_text())["artifacts"]
    student, control = (
        np.load(finished / "work" / artifacts[name] / "rounds" / "round-1.npz")
        for name in ("train", "control")
    )
    assert np.array_equal(student["chosen"], control["chosen"])
    assert np.array_equal(student["sequences"], control["sequences"])


def test_the_model_is_an_ordinary_one(finished):
    code = (
        "import sys, torch; from transformers import AutoModelForCausalLM, AutoTokenizer\nm ="
        " AutoModelForCausalLM.from_pretrained(sys.argv[1]); t ="
        " AutoTokenizer.from_pretrained(sys.argv[1])\nassert 'tinylm' not in sys.modules and len(t)"
        " == 384 == m.config.vocab_size\nprint(t.decode(m.generate(**t('The river',"
        " return_tensors='pt'), max_new_tokens=5)[0]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, finished / "model"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The river")


def test_a_text_of_the_model_ends_where_a_document_did(finished):
    """For every runtime that reads the directory; and nothing says that it can chat."""
    from tinylm.corpus.store import open_store
    from tinylm.models.generate import end_tokens
    from tinylm.models.teacher import load_model, load_tokenizer

    artifacts = json.loads((finished / "results.json").read_text())["artifacts"]
    separator = open_store(finished / "work" / artifacts["pack"] / "train").separator
    for model in (
        finished / "model",
        finished / "work" / artifacts["train"] / "model",
        finished / "work" / artifacts["control"] / "model",
    ):
        assert separator in end_tokens(load_model(model), load_tokenizer(model))
    tokenizer = load_tokenizer(finished / "model")
    assert tokenizer.chat_template is None
    assert json.loads((finished / "model/tinylm.json").read_text())["published_as"] == "tiny"
    folder = (finished / "model").stat().st_mode & 0o444  # safetensors alone would be private
    assert all(path.stat().st_mode & 0o444 == folder for path in (finished / "model").iterdir())


def test_running_again_trains_nothing_and_changes_nothing(recipe, finished):
    before = load_file(finished / "model" / "model.safetensors")
    stamp = {
        path: path.stat().st_mtime_ns for path in (finished / "work").rglob("*") if path.is_file()
    }
    again = tinylm("run", recipe, "--out", finished)
    assert again.returncode == 0
    stages = len(json.loads((finished / "results.json").read_text())["artifacts"])
    assert (
        f"\n1/{stages} " in "\n" + again.stderr and f"\n{stages}/{stages} samples\n" in again.stderr
    )
    assert f"tinylm export --model {finished / 'model'}" in again.stdout
    after = load_file(finished / "model" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert stamp == {
        path: path.stat().st_mtime_ns for path in (finished / "work").rglob("*") if path.is_file()
    }


def test_killed_at_any_moment_it_ends_in_the_same_weights(recipe, finished, tmp_path):
    """SIGKILL after ever longer runs, so that every stage is cut at some point; then one run to the
    end."""
    command = [
        sys.executable,
        "-m",
        "tinylm",
        "run",
        str(recipe),
        "--out",
        str(tmp_path / "killed"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    kills = 0
    for marker in (
        "corpus-*",
        "compact-*",
        "inherit-*",
        "train-*.partial/metrics.jsonl",
        "train-*.partial/rounds/*",
    ):
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if any((tmp_path / "killed" / "work").glob(marker)):
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.01)
        process.wait()
    assert kills >= 4
    assert tinylm("run", recipe, "--out", tmp_path / "killed").returncode == 0
    expected, found = (
        load_file(out / "model" / "model.safetensors") for out in (finished, tmp_path / "killed")
    )
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_student_with_the_pangu_pi_block_brings_its_own_code(recipe, tmp_path):
    path = tmp_path / "block.toml"
    path.write_text(
        recipe.read_text().replace("[architecture]", '[architecture]\nblock = "pangu-pi"')
    )
    done = tinylm("run", path, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    code = (
        "import sys; from transformers import AutoModelForCausalLM\n"
        "m = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "assert 'tinylm' not in sys.modules and type(m).__name__ == 'PanguPiForCausalLM'\n"
        "print(sum(p.numel() for p in m.parameters()))"
    )
    command = [sys.executable, "-c", code, tmp_path / "out" / "model"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == results["parameters"]["student"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("vocab_size = 384", "vocab_size = 100000", "larger than"),
        ("vocab_size = 384", "vocab_size = 10", "too small"),
        ("num_layers = 3", "num_layers = 9", "num_layers"),
        ("num_layers = 3, ", "", "num_layers"),
        ("corpus.jsonl", "missing.jsonl", "does not exist"),
        ("rounds = 2", "roundz = 2", "roundz"),
        ('name = "tiny"', 'name = "tiny"\nteacher_path = 3', "teacher_path"),
        ("steps = 24", "steps = 0.5", "steps"),
        ("num_layers = 3", "num_layers = true", "whole number"),
    ],
)
def test_a_wrong_recipe_is_one_line_and_exit_code_2(recipe, tmp_path, old, new, words):
    text = recipe.read_text()
    assert old in text
    path = tmp_path / "wrong.toml"
    path.write_text(text.replace(old, new))
    done = tinylm("run", path, "--out", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("tinylm: ") and words in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "empty"), ('{"text": "only one"}\n', "1 different document"), ("{", "not JSON")],
)
def test_a_wrong_corpus_is_one_line_and_exit_code_2(recipe, tmp_path, content, words):
    (tmp_path / "c.jsonl").write_text(content)
    path = tmp_path / "r.toml"
    path.write_text(
        recipe.read_text().replace(str(recipe.parent / "corpus.jsonl"), str(tmp_path / "c.jsonl"))
    )
    done = tinylm("run", path, "--out", tmp_path / "out")
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


def test_a_damaged_teacher_is_one_line_and_exit_code_2(recipe, teacher_dir, tmp_path):
    import shutil

    shutil.copytree(teacher_dir, tmp_path / "teacher")
    weights = tmp_path / "teacher" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    path = tmp_path / "r.toml"
    path.write_text(recipe.read_text().replace(str(teacher_dir), str(tmp_path / "teacher")))
    done = tinylm("run", path, "--out", tmp_path / "out")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "download or convert it again" in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "out" / "work").glob("compact-*"))


def test_a_mixture_of_two_corpora(recipe, tmp_path):
    """Half of the training from each, though one holds a tenth of the other; the control reads the
    same, and counting too."""
    from tinylm.corpus.store import open_store

    small = corpus_file(tmp_path / "small.jsonl", count=12, seed=1)
    large = recipe.parent / "corpus.jsonl"
    out = tmp_path / "out"
    words = [f'corpus.paths=["{large}", "{small}"]', "train.rounds=auto", "train.steps=60"]
    words += ["inherit.init=random"]  # and quick
    refused = tinylm("run", recipe, "--out", out, "--set", *words, "corpus.weights=[0, 0]")
    assert refused.returncode == 2
    assert "one number of 0 or more for each path, not all 0" in refused.stderr
    done = tinylm("run", recipe, "--out", out, "--set", *words, "corpus.weights=[1, 1]")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("50% of training from") == 2
    assert "passes over" in done.stderr  # the small one is read many times
    results = json.loads((out / "results.json").read_text())
    assert results["bits_per_byte"]["student"] > 0 and results["floors"]["bigram"] > 0
    store = open_store(out / "work" / results["artifacts"]["pack"] / "train")
    assert len(store.source_ends) == 2
    (tmp_path / "empty.jsonl").write_text("\n")
    for other, said in (("empty.jsonl", "holds no text"), (large, "has no document of its own")):
        words[0] = f'corpus.paths=["{large}", "{tmp_path / other}"]'
        done = tinylm("run", recipe, "--out", out, "--set", *words, "corpus.weights=[1, 1]")
        assert done.returncode == 2 and f"{other} {said}" in done.stderr


def test_a_student_of_conversations_chats_and_stops(recipe, tmp_path):
    from tinylm.corpus.store import open_store
    from tinylm.models.generate import end_tokens
    from tinylm.models.teacher import load_model, load_tokenizer

    corpus = tmp_path / "talks.jsonl"
    names = ["river", "city", "house", "tree", "road"]
    with open(corpus, "w") as file:
        for number in range(400):
            name = names[number % len(names)]
            turns = [
                {"role": "user", "content": f"Question {number}: what is the {name}?"},
                {"role": "assistant", "content": f"the {name} is old."},
            ]
            file.write(json.dumps({"messages": turns}) + "\n")
    out = tmp_path / "out"
    words = [f'corpus.paths=["{corpus}"]', "train.rounds=1", "train.steps=300"]
    words += ["train.document_mask=true", "control.enabled=false", "train.sequence_length=64"]
    words += ['evaluate.prompts=["Question 1: what is the city?"]']
    told = tinylm("run", recipe, "--out", out, "--set", *words)
    assert told.returncode == 2 and "it has messages" in told.stderr
    done = tinylm("run", recipe, "--out", out, "--set", *words, "corpus.text_key=messages")
    assert done.returncode == 0, done.stderr
    results = json.loads((out / "results.json").read_text())
    store = open_store(out / "work" / results["artifacts"]["pack"] / "train")
    assert 0.1 < store.counted.mean() < 0.7  # what users say is read and not learned
    # scored is what was learned: of a question nobody can know the number
    assert results["bits_per_byte"]["student"] < 0.7 and results["floors"]["bigram"] < 2
    # a sample is an answer
    assert results["samples"][0]["text"].partition("\n\n")[2].endswith("is old.")
    tokenizer, model = load_tokenizer(out / "model"), load_model(out / "model")
    assert tokenizer.chat_template
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert {end, store.separator} <= set(end_tokens(model, tokenizer))
    stopped = 0
    for number, name in enumerate(names):
        turn = [{"role": "user", "content": f"Question {number}: what is the {name}?"}]
        text = tokenizer.apply_chat_template(turn, tokenize=False) + "<|im_start|>assistant\n"
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        reply = model.generate(ids, max_new_tokens=30, do_sample=False)[0, ids.shape[1] :]
        stopped += int(reply[-1]) in end_tokens(model, tokenizer) and len(reply) < 30
    assert stopped >= 4  # plain transformers, and nobody told it where to stop
