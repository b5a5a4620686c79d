"""results.json of a run: everything its report shows, as plain data."""

import platform
from pathlib import Path
from typing import Any

import torch

from tinylm import __version__, artifact
from tinylm.machine import cpu_name, peak_memory
from tinylm.models import teacher as teachers
from tinylm.models.parameters import parameters_by_part
from tinylm.models.shape import Shape
from tinylm.pipeline.recipe import Recipe, to_toml
from tinylm.pipeline.stages import Stages
from tinylm.train.metrics import read as read_metrics


def collect(
    recipe: Recipe, stages: Stages, models, scores, floors, tasks, samples, recipe_path: str
) -> dict[str, Any]:
    """Everything the report shows, as plain data."""
    configs = {
        name: teachers.load_config(models[name]) for name in ("teacher", "compact", "student")
    }
    shapes = {name: Shape.from_config(config) for name, config in configs.items()}
    parts = {name: parameters_by_part(shapes[name], configs[name]) for name in configs}
    certificate = stages.result("compact tokenizer")
    logs = {
        name: _log(stages.folders[name], recipe.train.tokens_per_batch)
        for name in ("train", "control")
        if name in stages.folders
    }
    bpb = {name: score["bits_per_byte"] for name, score in scores.items()}
    tokens: dict[str, int] = {name: stages.result(name)["tokens_trained"] for name in logs}
    return {
        "name": recipe.name,
        "recipe": recipe.to_dict(),
        "recipe_toml": to_toml(recipe),
        "recipe_path": recipe_path,
        "bits_per_byte": bpb,
        "bits_per_byte_stderr": {name: score["stderr"] for name, score in scores.items()},
        "scores": scores,
        "floors": floors,
        "gain_over_control": _gain(bpb, tokens),
        "parameters": {name: sum(part.values()) for name, part in parts.items()},
        "parts": parts,
        "shapes": {name: shape.to_dict() for name, shape in shapes.items()},
        "seconds": stages.seconds(),
        "tokens_trained": tokens["train"],
        "tokens_at": {"inherited": 0, "student": tokens["train"], "control": tokens.get("control")},
        "teacher": {"spec": recipe.teacher, **stages.result("teacher")},
        "corpus": stages.result("corpus"),
        "tokenizer": certificate,
        "inherit": stages.result("inherit") if "inherit" in stages.folders else {},
        "train": {name: stages.result(name) for name in logs},
        "losses": {
            ("student" if name == "train" else name): log["losses"] for name, log in logs.items()
        },
        "round_starts": logs["train"]["round_starts"],
        "validation": {
            ("student" if name == "train" else name): log["validation"]
            for name, log in logs.items()
        },
        "looks": {
            ("student" if name == "train" else name): log["looks"] for name, log in logs.items()
        },
        "forgetting": _forgetting(stages.folders["train"] / "rounds"),
        "tasks": tasks,
        "samples": samples,
        "versions": _versions(),
        "machine": _machine(),
        "artifacts": {name: folder.name for name, folder in stages.folders.items()},
    }


def _gain(bpb: dict[str, float], tokens: dict[str, int]) -> dict[str, float] | None:
    if "control" not in bpb:
        return None
    percent = round(100 * (1 - bpb["student"] / bpb["control"]), 3)
    return {
        "tokens": tokens["control"],
        "student": bpb["student"],
        "control": bpb["control"],
        "percent": percent,
    }


def _log(folder: Path, tokens_per_batch: int) -> dict[str, Any]:
    """Losses over tokens, on training and on held-out text (the whole of it, and the little that
    guards the run), and where rounds begin, from metrics.jsonl."""
    losses, validation, looks, starts, last_round = [], [], [], [], -1
    for row in read_metrics(folder):
        if "valid_loss" in row:
            validation.append([row["step"] * tokens_per_batch, round(row["valid_loss"], 5)])
        if "held_out_loss" in row:
            looks.append([row["step"] * tokens_per_batch, round(row["held_out_loss"], 5)])
        if "loss" not in row:
            continue
        losses.append([(row["step"] + 1) * tokens_per_batch, round(row["loss"], 5)])
        if row["round"] != last_round:
            starts.append(row["step"] * tokens_per_batch)
            last_round = row["round"]
    return {"losses": losses, "validation": validation, "looks": looks, "round_starts": starts}


def _forgetting(rounds: Path) -> list[dict[str, Any]]:
    """What each round forgot, where ``train.forgetting`` asked for it."""
    return [artifact.read_json(file) for file in sorted(rounds.glob("forgetting-*.json"))]


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    packages = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
    return {
        "tinylm": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def _machine() -> dict[str, Any]:
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{torch.get_num_threads()} CPU cores"
    )
    return {
        "short": device,
        "system": platform.platform(),
        "cpu": cpu_name(),
        "peak_memory_gib": round(peak_memory(torch.device("cpu")) / 2**30, 2),
    }
