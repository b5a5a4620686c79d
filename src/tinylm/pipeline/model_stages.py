"""The stages that make the student: its shape (formula 2), first weights (3), and training (4)."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tinylm import artifact
from tinylm.architecture.plan import plan, write_plan
from tinylm.corpus.store import open_store
from tinylm.errors import InputError
from tinylm.inherit import bill
from tinylm.inherit.calibration import spread_order
from tinylm.inherit.cut import check_target, student_config
from tinylm.inherit.inheritance import save as save_inherited
from tinylm.inherit.progress import Progress
from tinylm.inherit.run import PROGRESS, inherit_folder
from tinylm.machine import choose_device, fast_dtype
from tinylm.models import block
from tinylm.models import teacher as teachers
from tinylm.models.initialise import random_model
from tinylm.models.parameters import parameters
from tinylm.models.save import save_model
from tinylm.models.shape import Shape, read_shape
from tinylm.pipeline.publish import copy_tokenizer
from tinylm.pipeline.recipe import Recipe
from tinylm.pipeline.stages import Stages
from tinylm.train.distillation import needs_teacher
from tinylm.train.length import FILE as LENGTH
from tinylm.train.loop import train
from tinylm.train.rounds import PAPERS


def shape_stage(recipe: Recipe, stages: Stages, compact: Path) -> Path:
    """Formula 2: the best shape under the budget that can be cut from the teacher."""
    config = teachers.load_config(compact / "model")
    # an InputError here and not after the scoring, when the block does not fit the teacher
    block.config_for(recipe.architecture.block, config)

    def build(folder: Path) -> dict[str, Any]:
        choice = recipe.architecture
        if choice.shape:
            shape = Shape.from_dict(
                {"vocab_size": config.vocab_size, **choice.shape}, "recipe: architecture.shape"
            )
            if recipe.inherit.init == "inherit":
                check_target(Shape.from_config(config), shape)
                student_config(config, shape)
            artifact.write_json(folder / "plan.json", {"candidates": [shape.to_dict()]})
            return shape.to_dict()
        size = parameters(Shape.from_config(config), config)
        if choice.budget > size:
            raise InputError(
                f"recipe: architecture.budget = {choice.budget:.3g} is larger than the teacher with"
                f" its compact tokenizer ({size:.3g} parameters): a student must be smaller"
            )
        depths = choice.depths or None
        candidates = plan(
            choice.budget, config.vocab_size, teacher=config, depths=depths, block=choice.block
        )
        write_plan(
            candidates, folder / "plan", {"budget": choice.budget, "teacher": recipe.teacher}
        )
        shutil.copyfile(folder / "plan" / "plan.json", folder / "plan.json")
        return candidates[0].shape.to_dict()

    inputs = {"compact": compact.name, **vars(recipe.architecture)}
    return stages("architecture", inputs, build)


def settle_length(recipe: Recipe, shape: Path, compact: Path) -> Recipe:
    """``train.tokens_per_parameter`` as steps, now that the shape is known."""
    config = _student_config(recipe, shape, compact)
    size = parameters(Shape.from_config(config), config)
    return dataclasses.replace(recipe, train=recipe.train.settle_length(size))


def settle_hours(recipe: Recipe, trained: Path) -> Recipe:
    """``train.hours`` as the steps that the finished training ``trained`` found them to be."""
    if not recipe.train.hours:
        return recipe
    steps = artifact.read_json(trained / LENGTH)["steps"]
    return dataclasses.replace(
        recipe, train=dataclasses.replace(recipe.train, hours=0.0, steps=steps)
    )


def _student_config(recipe: Recipe, shape: Path, compact: Path) -> Any:
    """The student's config: its shape in the teacher's family, with the recipe's block."""
    config = read_shape(shape / "plan.json").to_config(teachers.load_config(compact / "model"))
    return block.config_for(recipe.architecture.block, config)


def inherit_stage(recipe: Recipe, stages: Stages, compact: Path, shape: Path, store: Path) -> Path:
    """Formula 3: the student before training, cut out of the compact teacher (or random, if the
    recipe says so)."""
    config = recipe.inherit
    if config.init == "random":
        return random_stage(recipe, stages, compact, shape)

    def build(folder: Path) -> dict[str, Any]:
        tokens = open_store(store / "train")
        chunks = _calibration(
            tokens, config.calibration_chunks, config.calibration_length, recipe.seed
        )
        target, device = read_shape(shape / "plan.json"), choose_device()
        job = bill.Job(
            Shape.from_config(teachers.load_config(compact / "model")),
            target,
            fast_dtype(device),
            device,
            chunks=chunks.shape[0],
            length=chunks.shape[1],
            criterion=config.criterion,
            layers=config.layers,
            repair=config.repair,
        )
        progress = Progress(folder / PROGRESS)
        inherited = inherit_folder(
            compact / "model", job, chunks, progress=progress, seed=recipe.seed
        )
        inherited.model = block.apply(recipe.architecture.block, inherited.model, recipe.seed)
        save_inherited(inherited, folder / "model", teachers.load_tokenizer(compact / "model"))
        copy_tokenizer(compact / "model", folder / "model")
        shutil.rmtree(folder / PROGRESS)
        return {
            "kept_layers": [int(layer) for layer in inherited.kept.layers],
            "layer_scores": [float(score) for score in inherited.scores.layers],
            "calibration_tokens": chunks.numel(),
            "repair_losses": inherited.repair_losses,
        }

    inputs = {
        "compact": compact.name,
        "shape": shape.name,
        "store": store.name,
        "seed": recipe.seed,
        **vars(config),
    }
    return stages("inherit", inputs, build, resumable=True)


def _calibration(tokens, chunks: int, length: int, seed: int) -> torch.Tensor:
    """int64[chunks, length] of packed text, spread over the whole store by ``seed``."""
    available = tokens.num_sequences(length)
    places = np.linspace(0, available - 1, min(chunks, available)).astype(np.int64)
    order = places[spread_order(len(places), seed)]
    return torch.from_numpy(tokens.windows(order, length)[:, :-1])


def random_stage(recipe: Recipe, stages: Stages, compact: Path, shape: Path) -> Path:
    def build(folder: Path) -> dict[str, Any]:
        config = _student_config(recipe, shape, compact)
        save_model(random_model(config, recipe.seed, recipe.inherit.scheme), folder / "model")
        copy_tokenizer(compact / "model", folder / "model")
        return {}

    inputs = {
        "compact": compact.name,
        "shape": shape.name,
        "seed": recipe.seed,
        "scheme": recipe.inherit.scheme,
    }
    return stages("random weights", inputs, build, kind="random")


def train_stage(
    recipe: Recipe,
    stages: Stages,
    name: str,
    initial: Path,
    store: Path,
    compact: Path,
    order_from: Path | None = None,
) -> Path:
    """Formula 4: multiple-round training; resumable, so a kill loses at most the steps since the
    last checkpoint."""

    config = recipe.training()

    def build(folder: Path) -> dict[str, Any]:
        model = teachers.load_model(initial / "model", torch.float32)
        valid = open_store(store / "valid")
        return train(
            model,
            open_store(store / "train"),
            config,
            folder,
            teacher=(
                teachers.load_model(compact / "model", torch.float32)
                if needs_teacher(config)
                else None
            ),
            valid_store=valid if valid.num_sequences(config.sequence_length) else None,
            score_valid=config.evaluate_every > 0,  # the whole of it is scored by documents
            tokenizer=teachers.load_tokenizer(compact / "model"),
            order_from=order_from,
        )

    settings = config.to_dict()
    for key in ("hours", "effective_sample"):
        if not settings[key]:
            del settings[key]  # artifacts made before there was such a key
    if config.rounds != "auto" and config.strategy == "auto":
        settings["strategy"] = PAPERS
    inputs = {
        "initial": initial.name,
        "store": store.name,
        "compact": compact.name,
        **settings,
    }
    if order_from is not None:
        inputs["order_from"] = order_from.name
    folder = stages(name, inputs, build, kind="train", resumable=True, together=True)
    # three times the model's size, and done with
    if stages.processes.is_main:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return folder
