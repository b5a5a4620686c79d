"""The stages in order; the only module that knows them all.

Each stage is one artifact under ``work``, named by the hash of what made it: a second run finds
them and is done in seconds, a killed one goes on where it was, and runs of a study that share
``work`` compute shared stages once.
"""

import shutil
from pathlib import Path
from typing import Any

import torch

from tinylm import artifact
from tinylm.evaluate.tasks.catalog import choose, require_lm_eval
from tinylm.export.card import write_card
from tinylm.pipeline.conditions import check_data, check_model, check_tasks
from tinylm.pipeline.forecast import expected_seconds, with_steps
from tinylm.pipeline.launch import Processes, launched
from tinylm.pipeline.model_stages import (
    inherit_stage,
    random_stage,
    settle_hours,
    settle_length,
    shape_stage,
    train_stage,
)
from tinylm.pipeline.publish import publish_model
from tinylm.pipeline.recipe import Recipe
from tinylm.pipeline.report import write_report
from tinylm.pipeline.results import collect
from tinylm.pipeline.score_stages import (
    floors_stage,
    samples_stage,
    score_stage,
    scored_length,
    tasks_stage,
)
from tinylm.pipeline.stages import Stages
from tinylm.pipeline.text_stages import compact_stage, corpus_stage, pack_stage, teacher_stage
from tinylm.pipeline.verdict import headline, next_steps, outlook
from tinylm.terminal import print_table, quiet_transformers
from tinylm.train.inputs import check_batch


def run(
    recipe: Recipe, out: Path, work: Path | None = None, recipe_path: str = ""
) -> dict[str, Any]:
    """Run ``recipe`` to its end, or go on where an earlier run of it stopped.

    Args:
        out: gets results.json, report.html, report.md, figures/, metrics.jsonl and model/ (a plain
            HF directory with its model card).
        work: folder of artifacts; runs that share it share equal stages. Default: ``out/work``.
        recipe_path: what the user called the recipe, for the report's repeat line.

    Returns:
        The content of results.json; {} in the other processes of a run by torchrun.

    Raises:
        InputError: wrong input, one clear line. WorkError: a check of the result did not hold.
    """
    quiet_transformers()
    check(recipe)
    with launched() as processes, artifact.alone_in(out, processes.is_main):
        return _run(recipe, out, work or out / "work", recipe_path, processes)


def check(recipe: Recipe) -> None:
    """InputError for what is wrong with ``recipe`` before anything is read: a wrong value, a task
    or its file that is not there must not cost a training."""
    recipe.validate()
    if recipe.evaluate.tasks:
        require_lm_eval()
        from tinylm.evaluate.tasks.run import load_tasks

        load_tasks(choose(recipe.evaluate.tasks), recipe.evaluate.task_data)


def _run(
    recipe: Recipe, out: Path, work: Path, recipe_path: str, processes: Processes
) -> dict[str, Any]:
    processes.alone(check_batch, recipe.train)
    expected = expected_seconds(recipe) if processes.size == 1 else {}
    stages = Stages(work, count_stages(recipe), processes, expected)
    teacher = teacher_stage(recipe, stages)
    processes.alone(check_model, recipe, teacher)
    corpus = corpus_stage(recipe, stages, teacher)
    compact = compact_stage(recipe, stages, teacher, corpus)
    processes.alone(check_model, recipe, compact / "model")  # its prompts are longer
    processes.alone(check_tasks, recipe, compact / "model")
    shape = shape_stage(recipe, stages, compact)
    recipe = settle_length(recipe, shape, compact)
    store = pack_stage(recipe, stages, corpus, compact)
    processes.alone(check_data, with_steps(recipe), store, compact / "model")
    initial = inherit_stage(recipe, stages, compact, shape, store)
    models = {"teacher": teacher, "compact": compact / "model", "inherited": initial / "model"}
    context = scored_length(recipe, teacher)

    def scored() -> dict[str, Any]:
        return {
            name: score_stage(recipe, stages, corpus, name, folder, context)
            for name, folder in models.items()
        }

    scored()  # what cannot be scored must not cost a training
    student = train_stage(recipe, stages, "train", initial, store, compact)
    recipe = settle_hours(recipe, student)
    models["student"] = student / "model"
    if recipe.has_control():
        random = random_stage(recipe, stages, compact, shape)
        control = train_stage(recipe, stages, "control", random, store, compact, order_from=student)
        models["control"] = control / "model"
    scores = scored()
    floors = floors_stage(recipe, stages, corpus, store, compact)
    tasks = tasks_stage(recipe, stages, models)
    samples = samples_stage(recipe, stages, models)
    if not processes.is_main:
        return {}
    publish_model(student, compact, out, recipe.name)
    results = collect(recipe, stages, models, scores, floors, tasks, samples, recipe_path)
    artifact.write_json(out / "results.json", results)
    shutil.copyfile(student / "metrics.jsonl", out / "metrics.jsonl")
    write_report(results, out)
    write_card(out / "model", overwrite=True, results=results)
    return results


def count_stages(recipe: Recipe) -> int:
    """How many stages a run of ``recipe`` has, as it tells them."""
    text = ["teacher", "corpus", "count tokens", "compact tokenizer", "architecture", "pack"]
    models = ["inherit", "score teacher", "score compact", "score inherited", "train"]
    models += ["random weights", "control", "score control"] if recipe.has_control() else []
    ends = ["score student", "floors", *(["tasks"] if recipe.evaluate.tasks else []), "samples"]
    return len(text + models + ends)


def use_threads(count: int) -> None:
    """Use ``count`` CPU threads for arithmetic."""
    torch.set_num_threads(count)


def print_results(results: dict[str, Any], out: Path) -> None:
    """The end of `tinylm run` on the terminal."""
    rows = [
        (name, f"{value:.4f}", f"{results['bits_per_byte_stderr'][name] or 0:.4f}")
        for name, value in results["bits_per_byte"].items()
    ]
    print_table("held-out text", ["model", "bits per byte", "standard error"], rows)
    print(f"{headline(results)} {outlook(results)}".strip())
    print(f"model: {out / 'model'}   report: {out / 'report.html'}")
    for why, command in next_steps(results, str(out / "model")):
        print(f"  {command}   # {why}")
