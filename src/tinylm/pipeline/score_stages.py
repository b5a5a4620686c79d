"""The stages that measure the models of a run: held-out text, tasks, samples."""

from pathlib import Path
from typing import Any

from tinylm.corpus.split import read_part, spread
from tinylm.evaluate.bits_per_byte import bits_per_byte
from tinylm.machine import choose_device
from tinylm.models import teacher as teachers
from tinylm.models.generate import generate
from tinylm.pipeline.recipe import Recipe
from tinylm.pipeline.stages import Stages, file_stamps

SAMPLE_TOKENS = 60  # of each generated sample in the report


def score_stage(
    recipe: Recipe, stages: Stages, corpus: Path, name: str, model: Path
) -> dict[str, Any]:
    """Bits per byte of one model on held-out documents."""

    def build(folder: Path) -> dict[str, Any]:
        held_out = spread(read_part(corpus, "valid"), recipe.corpus.eval_bytes)
        return bits_per_byte(
            teachers.load_model(model).to(choose_device()), teachers.load_tokenizer(model), held_out
        )

    inputs = {
        "model": _model_id(stages, name, model),
        "corpus": corpus.name,
        "bytes": recipe.corpus.eval_bytes,
    }
    stages(f"score {name}", inputs, build, kind="score")
    return stages.result(f"score {name}")


def _model_id(stages: Stages, name: str, model: Path) -> str:
    return stages.result("teacher")["fingerprint"] if name == "teacher" else model.parent.name


def tasks_stage(recipe: Recipe, stages: Stages, models: dict[str, Path]) -> dict[str, Any]:
    """Zero-shot tasks of teacher, student and control, when the recipe names some."""
    from tinylm.evaluate.models import evaluate

    config = recipe.evaluate
    if not config.tasks:
        return {}
    scored = {
        name: folder for name, folder in models.items() if name in ("teacher", "student", "control")
    }

    def build(folder: Path) -> dict[str, Any]:
        return evaluate(
            scored, list(config.tasks), task_data=Path(config.task_data), limit=config.limit
        )

    inputs = {
        "models": {name: _model_id(stages, name, folder) for name, folder in scored.items()},
        **{key: value for key, value in vars(config).items() if key != "prompts"},
        "files": file_stamps(
            path for path in sorted(Path(config.task_data).rglob("*")) if path.is_file()
        ),
    }
    stages("tasks", inputs, build)
    return stages.result("tasks")


def samples_stage(recipe: Recipe, stages: Stages, models: dict[str, Path]) -> list[dict[str, str]]:
    def build(folder: Path) -> list[dict[str, str]]:
        samples = []
        for name in ("student", "teacher"):
            model, tokenizer = (
                teachers.load_model(models[name]),
                teachers.load_tokenizer(models[name]),
            )
            for prompt in recipe.evaluate.prompts:
                text = prompt + "".join(generate(model, tokenizer, prompt, SAMPLE_TOKENS))
                samples.append({"model": name, "prompt": prompt, "text": text})
        return samples

    inputs = {"student": models["student"].parent.name, "prompts": recipe.evaluate.prompts}
    stages("samples", inputs, build)
    return stages.result("samples")
