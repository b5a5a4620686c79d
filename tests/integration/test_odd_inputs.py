"""Every command over a table of odd inputs: it does the right thing, or refuses in one line that
names what is wrong. Never a traceback, never a file half-written."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import odd_corpora
import pytest
import torch
from builders import byte_level_tokenizer, corpus_file, random_model
from odd_models import FINE, ROWS, copy
from transformers import AutoModelForCausalLM

from tinylm import cli
from tinylm.artifact import read_json
from tinylm.corpus.read import documents
from tinylm.evaluate.bits_per_byte import bits_per_byte
from tinylm.models.generate import end_tokens
from tinylm.models.teacher import cache_dir, load_tokenizer
from tinylm.models.tokenizer import prompt_ids
from tinylm.tokenizer import certificate
from tinylm.tokenizer.count import Counts, count
from tinylm.tokenizer.source import read_source

SHAPE = """num_layers = 4
hidden_size = 64
intermediate_size = 128
num_attention_heads = 4
num_key_value_heads = 2
head_dim = 16
tie_word_embeddings = true
"""
# name -> words; {m}: the model, {o}: an empty folder for what it writes, {g}: good things beside it
COMMANDS = {
    "generate": "generate --model {m} --prompt river --max-new-tokens 4",
    "plan": "plan --budget 0.1063e6 --vocab-size 504 --teacher {m} --depths 2",
    "inherit": "inherit --teacher {m} --shape {g}/s.toml --criterion l2 --layers first-last"
    " --repair --dtype float32 --out {o}/student",
    "inherit loaded": "inherit --teacher {m} --shape {g}/s.toml --criterion l2 --layers first-last"
    " --repair norms --calibration {g}/c.jsonl --chunks 2 --length 32 --dtype float32"
    " --out {o}/student",
    "compress": "tokenizer compress --model {m} --counts {n} --vocab-size 384"
    " --multiple-of 1 --out {o}/compact",
    "export": "export --model {m} --quantize F32 --out {o}/m.gguf",
    "export f16": "export --model {m} --quantize F16 --no-check --out {o}/m.gguf",
    "evaluate": "evaluate --model {m} --text {g}/c.jsonl --documents 2 --context 64"
    " --dtype float32 --out {o}/r.json",
}


def run(*words):
    """(exit code, stdout, stderr) of the command in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code or 0
    return code, out.getvalue(), err.getvalue()


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def is_refused(code, error, names, folder, before):
    """The refusal is one line, it names the thing, and nothing was left behind."""
    said = [line for line in error.splitlines() if line.startswith("tinylm: ")]
    assert code in (1, 2), error
    assert len(said) == 1 and error.strip().splitlines()[-1] == said[0], error
    assert names in said[0] and len(said[0]) < 700
    assert files(folder) == before


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A good model, a corpus, its counts and a shape."""
    folder = tmp_path_factory.mktemp("good")
    tokenizer = byte_level_tokenizer(500)
    random_model(folder / "m", "llama", tokenizer, vocab_size=504)
    corpus = corpus_file(folder / "c.jsonl", 40)
    count(folder / "m", [str(corpus)]).save(folder / "counts.npz")
    (folder / "s.toml").write_text(SHAPE)
    return folder


def is_other_tokenizer(model, other):
    return read_source(model).hash != read_source(other).hash


def is_right(command, said, out, model, good):
    """The result is that of plain transformers. (compress and export prove theirs themselves, by
    the certificate and by llama.cpp.)"""
    if not command.startswith(("generate", "inherit", "evaluate")):
        return
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    ids = torch.randint(3, 380, (2, 24), generator=torch.Generator().manual_seed(0))
    if command == "generate":
        tokenizer = load_tokenizer(model)
        prompt, ends = prompt_ids(tokenizer, "river"), end_tokens(reference, tokenizer)
        made = list(prompt)
        while len(made) < len(prompt) + 4 and made[-1] not in ends:
            made.append(int(reference(torch.tensor([made])).logits[0, -1].argmax()))
        new = [i for i in made[len(prompt) :] if i not in ends]
        assert said == tokenizer.decode(new) + "\n"
    elif command.startswith("inherit"):  # of the teacher's own shape: the teacher
        student = AutoModelForCausalLM.from_pretrained(out / "student", dtype=torch.float32).eval()
        assert torch.allclose(student(ids).logits, reference(ids).logits, atol=1e-4)
    else:
        texts = list(documents([good / "c.jsonl"]))[:2]
        scored = bits_per_byte(reference, load_tokenizer(model), texts, 64)
        (found,) = read_json(out / "r.json")["models"]
        assert found["bits_per_byte"]["bits_per_byte"] == pytest.approx(
            scored["bits_per_byte"], rel=1e-5
        )


def wanted_of(expected, command):
    if not isinstance(expected, dict):
        return expected
    return expected.get(command, expected.get(command.split()[0], expected.get("", FINE)))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_odd_models(row, command, good, tmp_path, monkeypatch):
    monkeypatch.setattr(certificate, "FUZZ_STRINGS", 200)  # of 10,000: seconds a case
    _, change, expected = row
    model, out = copy(good / "m", tmp_path / "m", change), tmp_path / "out"
    out.mkdir()
    words, wanted = COMMANDS[command].split(), wanted_of(expected, command)
    counts = good / "counts.npz"
    if command == "compress" and wanted == FINE and is_other_tokenizer(model, good / "m"):
        counts = tmp_path / "counts.npz"
        count(model, [str(good / "c.jsonl")]).save(counts)
    code, said, error = run(*[word.format(m=model, o=out, g=good, n=counts) for word in words])
    if wanted == FINE:
        assert code == 0, error
        is_right(command, said, out, model, good)
        assert not [name for name in files(out) if re.search(r"(^|/)\\.", name)]
    else:
        is_refused(code, error, wanted, out, [])


@pytest.mark.parametrize("row", odd_corpora.ROWS, ids=[row[0] for row in odd_corpora.ROWS])
def test_odd_corpora(row, good, tmp_path):
    _, build, expected = row
    (tmp_path / "corpus").mkdir()
    named = build(tmp_path / "corpus")
    corpus = named if isinstance(named, Path) else tmp_path / "corpus"
    for command, out in ODD_CORPUS_COMMANDS.items():
        place = tmp_path / out
        words = [word.format(c=corpus, m=good / "m", o=place) for word in command.split()]
        code, said, error = run(*words)
        if isinstance(expected, str):
            is_refused(code, error, expected, tmp_path / "none", [])
            assert not place.exists()
            continue
        assert code == 0, error
        size = sum(len(text.encode()) for text in expected)
        assert f" {len(expected)} documents" in said, said
        assert f" {size:,} bytes" in said or "count" not in command, said
    if not isinstance(expected, str):
        assert [document.text for document in documents([corpus])] == expected


ODD_CORPUS_COMMANDS = {
    "tokenizer count --tokenizer {m} --corpus {c} --out {o}": "counts.npz",
    "corpus pack --tokenizer {m} --corpus {c} --out {o}": "store",
}


# (--out, what the line must name); {o} is an empty folder
PLACES = [
    ("{o}", "folder"),
    ("/dev/null", "device"),
    ("/dev/full", "device"),
    ("{o}/file/x.json", "file"),
    ("{o}/" + "n" * 300 + ".json", "name"),
    ("{o}/loop/x.json", "loop"),
]
# commands whose result is one file
WRITERS = {
    "tokenizer count": "tokenizer count --tokenizer {m} --corpus {g}/c.jsonl --out {p}",
    "evaluate": "evaluate --model {m} --text {g}/c.jsonl --documents 1 --context 64 --out {p}",
    "export": "export --model {m} --quantize F32 --no-check --out {p}",
}


@pytest.mark.parametrize("command", WRITERS)
@pytest.mark.parametrize(("place", "names"), PLACES, ids=[p[:9] for p, _ in PLACES])
def test_odd_places_are_refused_before_any_work(place, names, command, good, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before, started = files(tmp_path), time.monotonic()
    path = place.format(o=tmp_path)
    words = [word.format(m=good / "m", g=good, p=path) for word in WRITERS[command].split()]
    code, _, error = run(*words)
    is_refused(code, error, names if command == "tokenizer count" else "", tmp_path, before)
    assert (tmp_path / "file").read_text() == "mine"
    assert Path("/dev/null").is_char_device()
    assert time.monotonic() - started < 60


# commands whose result is a folder
MAKERS = {
    "inherit": COMMANDS["inherit"].replace("{o}/student", "{p}"),
    "corpus pack": "corpus pack --tokenizer {m} --corpus {g}/c.jsonl --out {p}",
    "compress": COMMANDS["compress"].replace("{o}/compact", "{p}"),
    "coverage": "tokenizer coverage --counts {n} --out {p}",
    "plan": COMMANDS["plan"] + " --out {p}",
}


@pytest.mark.parametrize("command", MAKERS)
@pytest.mark.parametrize("place", ["{o}/file", "{o}/file/x", "/dev/null", "{o}/" + "n" * 300])
def test_a_folder_is_not_made_where_something_else_is(place, command, good, tmp_path):
    (tmp_path / "file").write_text("mine")
    before, path = files(tmp_path), place.format(o=tmp_path)
    words = MAKERS[command].split()
    words = [word.format(m=good / "m", g=good, n=good / "counts.npz", p=path) for word in words]
    code, _, error = run(*words)
    is_refused(code, error, path[:40], tmp_path, before)
    assert (tmp_path / "file").read_text() == "mine" and Path("/dev/null").is_char_device()


def test_a_result_through_a_link_replaces_what_it_leads_to(good, tmp_path):
    (tmp_path / "real.npz").write_bytes(b"old")
    (tmp_path / "link.npz").symlink_to(tmp_path / "real.npz")
    words = WRITERS["tokenizer count"].format(m=good / "m", g=good, p=tmp_path / "link.npz")
    assert run(*words.split())[0] == 0
    assert (tmp_path / "link.npz").is_symlink()
    assert Counts.load(tmp_path / "real.npz").documents == 40


def test_a_name_that_is_no_utf8_passes_through_every_report(good, tmp_path):
    odd = Path(f"{tmp_path}/\udcffodd")
    odd.mkdir()
    shutil.copy(good / "c.jsonl", odd / "\udcfe.jsonl")
    code, _, error = run(
        *["evaluate", "--model", good / "m", "--text", odd / "\udcfe.jsonl", "--documents", "2"],
        *["--context", "64", "--out", odd / "r.json"],
    )
    assert code == 0, error
    (name,) = read_json(odd / "r.json")["bits_per_byte"]["by_source"]
    assert name == "\udcfe.jsonl"
    assert "udcfe" in (odd / "r.md").read_text("utf-8")
    counted = ["tokenizer", "count", "--tokenizer", good / "m", "--corpus", odd / "\udcfe.jsonl"]
    assert run(*counted, "--out", odd / "counts.npz")[0] == 0


TEXTS = ["caf\xe9 na\xefve \u6587\u672c", "\u201cquotes\u201d \u2014 dashes"]
LOCALES = [
    {"LC_ALL": "en_US.ISO-8859-1", "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
]


@pytest.mark.parametrize("locale", LOCALES, ids=["latin-1", "C", "ascii"])
def test_the_locale_changes_nothing(locale, good, tmp_path):
    """Counts, and a text on the command line and from stdin, are those of UTF-8."""
    corpus = tmp_path / "\u6587\u672c.jsonl"
    corpus.write_text(
        "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in TEXTS), "utf-8"
    )
    expected = count(good / "m", [str(corpus)])
    words = ["tokenizer", "count", "--tokenizer", str(good / "m"), "--corpus", str(corpus)]
    done = tinylm(*words, "--out", str(tmp_path / "n.npz"), env=locale)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(Counts.load(tmp_path / "n.npz").counts, expected.counts)
    asked = ["generate", "--model", str(good / "m"), "--max-new-tokens", "4", "--prompt"]
    here = run(*asked, TEXTS[0])[1]
    # a process takes seconds: of the words of the command line one locale tells enough
    for prompt, given in ((TEXTS[0], None), ("-", TEXTS[0].encode()))[locale is not LOCALES[0] :]:
        done = tinylm(*asked, prompt, env=locale, input=given)
        assert done.returncode == 0, done.stderr
        assert done.stdout.decode("utf-8") == here


def tinylm(*words, env, **settings):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "tinylm", *words]
    encoded = [os.fsencode(word) for word in command]
    return subprocess.run(encoded, env=os.environ | env, capture_output=True, **settings)


@pytest.mark.parametrize("chosen", ["TINYLM_CACHE", "XDG_CACHE_HOME", ""])
def test_a_user_without_a_home(chosen, tmp_path, monkeypatch):
    """Is told where to keep what is converted, and needs a home for nothing else."""

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    for name in ("TINYLM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    if chosen:
        monkeypatch.setenv(chosen, str(tmp_path))
        assert tmp_path in [cache_dir(), cache_dir().parent]
    else:
        (tmp_path / "m.gguf").write_bytes(b"GGUF")
        code, _, error = run("generate", "--model", tmp_path / "m.gguf", "--prompt", "x")
        is_refused(code, error, "TINYLM_CACHE", tmp_path, ["m.gguf"])
