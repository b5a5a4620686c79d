"""A stand-in for the pipeline: milliseconds instead of minutes, failures on demand, importable by
child processes."""

import os
import signal
import time
from pathlib import Path

import numpy as np

from tinylm.errors import WorkError
from tinylm.pipeline.recipe import Recipe

STUDY = """
title = "A small study"
claim = "More rounds help."
kind = "list"
seeds = [0, 1, 2]
noise_seeds = [10, 11]
base = "base.toml"

[[variation]]
name = "one"

[[variation]]
name = "two rounds"
set.train.rounds = 2

[[variation]]
name = "five rounds"
set.train.rounds = 5
"""
BASE = "[architecture]\nbudget = 1e6\n[train]\nrounds = 1\nsteps = 20\n[control]\nenabled = false\n"


def fake_pipeline(recipe: Recipe, out: Path, work: Path) -> dict:
    """Bits per byte that fall by 0.1 a round, plus what the seed does to all and a little that it
    does to each."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "calls", "a") as file:
        file.write(f"{os.getpid()}\n")
    if recipe.train.rounds == 5 and recipe.train.log_every == 13:
        raise WorkError("training diverged: on request")
    if recipe.train.rounds == 5 and recipe.train.log_every == 14:
        os.kill(os.getpid(), signal.SIGKILL)
    if recipe.train.log_every == 16 and recipe.train.base_lr == 1e-1:
        raise WorkError("training diverged: the rate is mad")
    if recipe.train.log_every == 15:
        time.sleep(0.7)
    shared, own = (
        np.random.default_rng(recipe.seed),
        np.random.default_rng([recipe.seed, recipe.train.rounds]),
    )
    value = 1.6 - 0.1 * recipe.train.rounds + 0.05 * shared.normal() + 0.004 * own.normal()
    if recipe.train.base_lr != "auto":  # the more rounds, the higher the best rate
        value += abs(np.log10(recipe.train.base_lr / (1e-3 * recipe.train.rounds)))
    threads = int(os.environ.get("OMP_NUM_THREADS", 0))
    return {
        "bits_per_byte": {"teacher": 1.0, "student": value, "threads": threads},
        "bits_per_byte_stderr": {"student": 0.01},
        "parameters": {"student": 1_000_000},
        "tokens_trained": 40_960,
        "scores": {
            "student": {
                "by_source": {
                    "law": {"bits_per_byte": value},
                    "plots": {"bits_per_byte": value + 1},
                },
                "by_document": {"bits": [900 * value, 1100 * value], "bytes": [1000, 1000]},
            }
        },
        "versions": {"tinylm": "0"},
        "machine": {"short": "a machine"},
    }


def fake_pipeline_on(processor: str, recipe: Recipe, out: Path, work: Path) -> dict:
    return fake_pipeline(recipe, out, work) | {"machine": {"cpu": processor}}
