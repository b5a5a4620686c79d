"""A study of real runs: tiny random teacher, tiny corpus, the whole pipeline."""

import json

import pytest
from builders import corpus_file

from tinylm import cli

STUDY = """
title = "Inheritance in the small"
claim = "None: this one tests the machinery."
kind = "list"
seeds = [0]
noise_seeds = []
base = "base.toml"

[[variation]]
name = "inherited"

[[variation]]
name = "impossible"
set.inherit.calibration_length = 100000
"""
BASE = """
teacher = "{teacher}"
[corpus]
paths = ["{corpus}"]
valid_fraction = 0.2
eval_bytes = 5000
[tokenizer]
vocab_size = 400
[architecture.shape]
num_layers = 2
hidden_size = 32
intermediate_size = 64
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 16
[inherit]
criterion = "l2"
layers = "first-last"
calibration_chunks = 4
calibration_length = 32
[train]
sequence_length = 32
batch_size = 4
steps = 6
bf16 = false
compile = false
[control]
enabled = false
"""


def test_a_study_of_the_pipeline(tmp_path, teacher_dir, capsys):
    corpus = corpus_file(tmp_path / "texts.jsonl")
    (tmp_path / "base.toml").write_text(BASE.format(teacher=teacher_dir, corpus=corpus))
    (tmp_path / "tiny.toml").write_text(STUDY)
    out = tmp_path / "out"
    command = [
        "study",
        "run",
        str(tmp_path / "tiny.toml"),
        "--out",
        str(out),
        "--set",
        "train.log_every=2",
    ]
    with pytest.raises(SystemExit) as stop:
        cli.main(command)
    assert stop.value.code == 1
    assert "1 of 2 runs failed (tiny-impossible-s0)" in capsys.readouterr().err
    results = json.loads((out / "results.json").read_text())
    assert results["state"] == {"finished": 1, "failed": 1, "to do": 0}
    assert results["verdicts"] == {"impossible": "not measured"}
    assert "inherit.calibration_length = 100000" in results["runs"][1]["error"]
    inherited = results["rungs"][0]
    assert inherited["bits_per_byte"] > 0 and inherited["evaluation_error"] > 0
    assert inherited["tokens_trained"] == 6 * 4 * 32 and inherited["parameters"] > 10_000
    assert results["by_source"] and results["versions"]["torch"] and results["machine"]
    made = [
        path.name.rpartition("-")[0]
        for path in (out / "work").iterdir()
        if not path.name.startswith(".")
    ]
    counts = {kind: made.count(kind) for kind in ("corpus", "counts", "compact", "pack", "train")}
    assert set(counts.values()) == {1}, "what both runs need is made once"

    before = {path: path.stat().st_mtime_ns for path in (out / "records").iterdir()}
    with pytest.raises(SystemExit):
        # leaves no time to try the impossible one again
        cli.main([*command, "--max-hours", "1e-9"])
    assert {path: path.stat().st_mtime_ns for path in (out / "records").iterdir()} == before
    assert "1 of 1 runs not started" in capsys.readouterr().err
    whole = (out / "results.json").read_text()
    cli.main(["study", "report", str(out)])
    assert (out / "results.json").read_text() == whole and "inherited" in capsys.readouterr().out
