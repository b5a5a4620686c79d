"""`tinylm run` with the core package alone, and with the flagship recipe's choices."""

import json
import os
import subprocess
import sys

from test_run import tinylm

from tinylm.pipeline.recipe import read_recipe

CORE = """
import sys
extras = "lm_eval datasets ray xllamacpp onnx onnxruntime onnxruntime_genai gigatoken accelerate"
for name in extras.split():
    sys.modules[name] = None
from tinylm.cli import main
main(sys.argv[1:])
"""


def test_the_core_package_alone_runs_a_recipe(recipe, tmp_path):
    def core(*words) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-c", CORE, *map(str, words)],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            timeout=300,
        )

    length = ("train.steps=0", "train.hours=0.001")  # 4 seconds
    done = core("run", recipe, "--out", tmp_path / "out", "--set", *length)
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "out" / "results.json").read_text())
    steps = made["recipe"]["train"]["steps"]
    assert (
        f"are {steps} steps" in done.stdout + done.stderr and made["recipe"]["train"]["hours"] == 0
    )
    assert made["tokens_at"]["student"] == made["tokens_at"]["control"] == steps * 4 * 32
    again = core("run", recipe, "--out", tmp_path / "out", "--set", *length)
    assert again.returncode == 0 and "timed now" not in again.stderr
    model, text = tmp_path / "out" / "model", recipe.parent / "corpus.jsonl"
    scored = core("evaluate", "--model", model, "--text", text, "--out", tmp_path / "r.json")
    assert scored.returncode == 0, scored.stderr
    for words, what in (
        (("evaluate", "--model", model, "--tasks", "piqa"), "pip install 'tinylm[eval]'"),
        (
            ("run", recipe, "--set", 'evaluate.tasks=["piqa"]', "evaluate.task_data=."),
            "pip install 'tinylm[eval]'",
        ),
        (
            ("corpus", "pack", "--tokenizer", model, "--corpus", "hub:a/b"),
            "pip install 'tinylm[hub]'",
        ),
    ):
        refused = core(*words, "--out", tmp_path / "x" if words[0] != "evaluate" else "x.json")
        assert refused.returncode == 2 and what in refused.stderr, refused.stderr


def test_the_flagship_recipe_runs_with_small_numbers(recipe, teacher_dir, tmp_path):
    """Every key of pangu-pi-1b-pro, the same choices, tiny sizes."""
    sizes = {
        "teacher": teacher_dir,
        "corpus.paths": f'["{recipe.parent / "corpus.jsonl"}"]',
        "corpus.max_bytes": 60_000,
        "corpus.valid_fraction": 0.1,
        "corpus.eval_bytes": 5000,
        "tokenizer.vocab_size": 384,
        "architecture.shape.num_layers": 3,
        "architecture.shape.hidden_size": 48,
        "architecture.shape.intermediate_size": 96,
        "architecture.shape.num_attention_heads": 4,
        "architecture.shape.num_key_value_heads": 2,
        "architecture.shape.head_dim": 16,
        "inherit.calibration_chunks": 16,
        "inherit.calibration_length": 32,
        "train.sequence_length": 32,
        "train.batch_size": 8,
        "train.micro_batch_size": 4,
        "train.steps": 20,
        "train.base_batch_tokens": 256,
        "train.evaluate_every": 10,
        "train.compile": "false",
    }
    words = [f"{key}={value}" for key, value in sizes.items()]
    done = tinylm("run", "pangu-pi-1b-pro", "--out", tmp_path / "out", "--set", *words)
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "out" / "results.json").read_text())["recipe"]
    flagship = read_recipe("pangu-pi-1b-pro").to_dict()
    for key in ("inherit.criterion", "inherit.layers", "train.rounds", "train.sampling_rate"):
        section, name = key.split(".")
        assert made[section][name] == flagship[section][name]
    assert made["train"]["base_lr"] == flagship["train"]["base_lr"]
