"""The stages in order; the only module that knows them all.

Each stage is one artifact under ``work``, named by the hash of what made it: a second run finds
them and is done in seconds, a killed one goes on where it was, and runs of a study that share
``work`` compute shared stages once.
"""

import dataclasses
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tinylm import artifact
from tinylm.architecture.plan import plan, write_plan
from tinylm.corpus.pack import pack
from tinylm.corpus.read import documents, expand, first_bytes
from tinylm.corpus.split import read_part, spread, write_split
from tinylm.corpus.store import open_store
from tinylm.errors import InputError, WorkError
from tinylm.evaluate.bits_per_byte import bits_per_byte
from tinylm.export.card import write_card
from tinylm.inherit.inheritance import inherit
from tinylm.inherit.inheritance import save as save_inherited
from tinylm.machine import choose_device
from tinylm.models import gguf
from tinylm.models import teacher as teachers
from tinylm.models.families import family_of
from tinylm.models.generate import generate
from tinylm.models.pangu import from_llama, pangu_config
from tinylm.models.parameters import parameters_by_part
from tinylm.models.shape import Shape, read_shape
from tinylm.models.tokenizer import settle_class
from tinylm.pipeline.recipe import Recipe
from tinylm.pipeline.report import headline, write_report
from tinylm.pipeline.results import collect
from tinylm.pipeline.stages import Stages
from tinylm.terminal import print_table, quiet_transformers
from tinylm.tokenizer.choose import rank
from tinylm.tokenizer.compress import compress
from tinylm.tokenizer.count import Counts, count
from tinylm.tokenizer.source import read_source
from tinylm.train.loop import train

SAMPLE_TOKENS = 60  # of each generated sample in the report
KEEP_TOKENIZER = -1  # as tokenizer.vocab_size in a recipe
# of the report's coverage curve
CURVE_SIZES = [2**k + half for k in range(9, 19) for half in (0, 2 ** (k - 1))]


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
        The content of results.json.

    Raises:
        InputError: wrong input, one clear line. WorkError: a check of the result did not hold.
    """
    recipe.validate()
    quiet_transformers()
    if recipe.evaluate.tasks:  # a wrong name or file must not cost a training
        from tinylm.evaluate.tasks import load_tasks

        load_tasks(recipe.evaluate.tasks, recipe.evaluate.task_data)
    work = work or out / "work"
    with artifact.alone_in(out):
        stages = Stages(work)
        teacher = _teacher(recipe, stages)
        corpus = _corpus(recipe, stages)
        compact = _compact(recipe, stages, teacher, corpus)
        shape = _shape(recipe, stages, compact)
        store = _store(stages, corpus, compact)
        initial = _initial(recipe, stages, compact, shape, store)
        student = _train(recipe, stages, "train", initial, store, compact)
        models = {
            "teacher": teacher,
            "compact": compact / "model",
            "inherited": initial / "model",
            "student": student / "model",
        }
        if recipe.has_control():
            random = _random(recipe, stages, compact, shape)
            control = _train(recipe, stages, "control", random, store, compact, order_from=student)
            models["control"] = control / "model"
        scores = {
            name: _scores(recipe, stages, corpus, name, folder) for name, folder in models.items()
        }
        tasks = _tasks(recipe, stages, models)
        samples = _samples(recipe, stages, models)
        _publish_model(student, compact, out)
        results = collect(recipe, stages, models, scores, tasks, samples, recipe_path)
        artifact.write_json(out / "results.json", results)
        shutil.copyfile(student / "metrics.jsonl", out / "metrics.jsonl")
        write_report(results, out)
        write_card(out / "model", overwrite=True, results=results)
    return results


def _teacher(recipe: Recipe, stages: Stages) -> Path:
    """The teacher's directory. Its artifact holds the facts only: converted teachers live in the
    user's cache."""

    def build(folder: Path) -> dict[str, Any]:
        source = teachers.resolve(recipe.teacher)
        return {"fingerprint": teachers.fingerprint(source), **teachers.facts(recipe.teacher)}

    converted = (
        {"method": gguf.METHOD} if recipe.teacher.endswith((".gguf", teachers.DEMO_TEACHER)) else {}
    )
    stages("teacher", {"spec": recipe.teacher, **converted}, build)
    folder = teachers.resolve(recipe.teacher)
    # an unknown family must not cost the stages before the cut
    family_of(teachers.load_config(folder))
    if teachers.fingerprint(folder) != stages.result("teacher")["fingerprint"]:
        raise InputError(
            f"teacher {recipe.teacher} is not the one this run began with: choose another --out"
        )
    return folder


def _corpus(recipe: Recipe, stages: Stages) -> Path:
    config = recipe.corpus
    inputs = {
        "paths": config.paths,
        "files": _stamps(_local_files(config.paths)),
        "text_key": config.text_key,
        "valid_fraction": config.valid_fraction,
    }
    if config.max_bytes:
        inputs["max_bytes"] = config.max_bytes

    def build(folder: Path) -> dict[str, Any]:
        read = first_bytes(documents(config.paths, config.text_key), config.max_bytes)
        return write_split(read, folder, config.valid_fraction)

    return stages("corpus", inputs, build)


def _stamps(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Name, size and time of change of each file: other content is another stage."""
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def _local_files(paths: tuple[str, ...]) -> list[Path]:
    return expand([path for path in paths if path != "embedded" and not path.startswith("hub:")])


def _compact(recipe: Recipe, stages: Stages, teacher: Path, corpus: Path) -> Path:
    """Formula 1: the teacher with a compact tokenizer, embedding rows sliced by old id."""
    fingerprint = stages.result("teacher")["fingerprint"]
    counted = stages(
        "count tokens",
        {"teacher": fingerprint, "corpus": corpus.name},
        lambda folder: count(teacher, read_part(corpus, "train")).save(folder / "counts.npz"),
        kind="counts",
    )

    def build(folder: Path) -> dict[str, Any]:
        artifact.require_space(
            folder, 2 * sum(f.stat().st_size for f in teacher.glob("*.safetensors"))
        )
        counts, size = Counts.load(counted / "counts.npz"), recipe.tokenizer.vocab_size
        if size == KEEP_TOKENIZER:
            shutil.copytree(teacher, folder / "model")
            settle_class(folder / "model")
            return {
                "passed": True,
                "vocab_size": teachers.load_config(teacher).vocab_size,
                "curve": [],
            }
        certificate = compress(
            teacher,
            counts,
            out=folder / "model",
            vocab_size=size or None,
            coverage=None if size else recipe.tokenizer.coverage,
            texts=read_part(corpus, "train"),
            held_out=read_part(corpus, "valid"),
        )
        source = read_source(teacher)
        curve = rank(source, counts).curve(
            [k for k in CURVE_SIZES if k < len(source.strings)] + [len(source.strings)]
        )
        return {**certificate, "curve": curve}

    inputs = {"teacher": fingerprint, "counts": counted.name, **vars(recipe.tokenizer)}
    return stages("compact tokenizer", inputs, build, kind="compact")


def _shape(recipe: Recipe, stages: Stages, compact: Path) -> Path:
    """Formula 2: the best shape under the budget that can be cut from the teacher."""
    config = teachers.load_config(compact / "model")
    if recipe.architecture.block == "pangu-pi":
        # an InputError here and not after the scoring, when the teacher is no Llama
        pangu_config(config)

    def build(folder: Path) -> dict[str, Any]:
        choice = recipe.architecture
        if choice.shape:
            shape = Shape.from_dict(
                {"vocab_size": config.vocab_size, **choice.shape}, "recipe: architecture.shape"
            )
            artifact.write_json(folder / "plan.json", {"candidates": [shape.to_dict()]})
            return shape.to_dict()
        if choice.budget > _size(Shape.from_config(config), config):
            raise InputError(
                f"recipe: architecture.budget = {choice.budget:.3g} is larger than the teacher with"
                f" its compact tokenizer ({_size(Shape.from_config(config), config):.3g}"
                " parameters): a student must be smaller"
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


def _size(shape: Shape, config: Any) -> int:
    return sum(parameters_by_part(shape, config).values())


def _store(stages: Stages, corpus: Path, compact: Path) -> Path:
    """Token stores of the train and the valid part."""

    def build(folder: Path) -> dict[str, Any]:
        tokenizer = teachers.load_tokenizer(compact / "model")
        stores = {
            part: pack(read_part(corpus, part), tokenizer, folder / part)
            for part in ("train", "valid")
        }
        return {
            part: {"tokens": store.num_tokens, "bytes": store.text_bytes}
            for part, store in stores.items()
        }

    return stages("pack", {"corpus": corpus.name, "tokenizer": compact.name}, build)


def _initial(recipe: Recipe, stages: Stages, compact: Path, shape: Path, store: Path) -> Path:
    """Formula 3: the student before training, cut out of the compact teacher (or random, if the
    recipe says so)."""
    config = recipe.inherit
    if config.init == "random":
        return _random(recipe, stages, compact, shape)

    def build(folder: Path) -> dict[str, Any]:
        tokens = open_store(store / "train")
        chunks = _calibration(
            tokens, config.calibration_chunks, config.calibration_length, recipe.seed
        )
        inherited = inherit(
            # 8 times faster than float32 with AMX
            teachers.load_model(compact / "model", torch.bfloat16),
            read_shape(shape / "plan.json"),
            chunks,
            criterion=config.criterion,
            layers=config.layers,
            repair=config.repair,
            seed=recipe.seed,
        )
        if recipe.architecture.block == "pangu-pi":
            inherited = dataclasses.replace(
                inherited, model=from_llama(inherited.model, seed=recipe.seed)
            )
        save_inherited(inherited, folder / "model", teachers.load_tokenizer(compact / "model"))
        _copy_tokenizer(compact / "model", folder / "model")
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
    learns = "learned" in (config.criterion, config.layers)
    # 1: units at random by seed 0 always; 2: masks over all heads of a layer
    inputs["method"] = 3 if learns else 2
    return stages("inherit", inputs, build)


def _calibration(tokens, chunks: int, length: int, seed: int) -> torch.Tensor:
    """int64[chunks, length] of packed text, spread over the whole store by ``seed``."""
    available = tokens.num_sequences(length)
    if available == 0:
        raise InputError(
            f"the corpus holds {tokens.num_tokens} tokens, less than one calibration chunk of"
            f" {length}"
        )
    order = np.random.default_rng(seed).permutation(available)[:chunks]
    return torch.from_numpy(tokens.windows(np.sort(order), length)[:, :-1])


def _random(recipe: Recipe, stages: Stages, compact: Path, shape: Path) -> Path:
    from tinylm.models.initialise import initialise

    def build(folder: Path) -> dict[str, Any]:
        from transformers import AutoModelForCausalLM

        config = read_shape(shape / "plan.json").to_config(teachers.load_config(compact / "model"))
        if recipe.architecture.block == "pangu-pi":
            config = pangu_config(config)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        initialise(model, recipe.inherit.scheme, seed=recipe.seed)
        model.save_pretrained(folder / "model")
        _copy_tokenizer(compact / "model", folder / "model")
        return {}

    inputs = {
        "compact": compact.name,
        "shape": shape.name,
        "seed": recipe.seed,
        "scheme": recipe.inherit.scheme,
    }
    return stages("random weights", inputs, build, kind="random")


def _train(
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

    config = dataclasses.replace(recipe.train, seed=recipe.train.seed or recipe.seed)

    def build(folder: Path) -> dict[str, Any]:
        model = teachers.load_model(initial / "model", torch.float32)
        wants_teacher = recipe.train.distillation != "none"
        return train(
            model,
            open_store(store / "train"),
            config,
            folder,
            teacher=(
                teachers.load_model(compact / "model", torch.float32) if wants_teacher else None
            ),
            valid_store=open_store(store / "valid") if config.evaluate_every else None,
            tokenizer=teachers.load_tokenizer(compact / "model"),
            order_from=order_from,
        )

    inputs = {
        "initial": initial.name,
        "store": store.name,
        "compact": compact.name,
        **config.to_dict(),
    }
    if order_from is not None:
        inputs["order_from"] = order_from.name
    folder = stages(name, inputs, build, kind="train", resumable=True)
    # three times the model's size, and done with
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return folder


def _scores(recipe: Recipe, stages: Stages, corpus: Path, name: str, model: Path) -> dict[str, Any]:
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


def _tasks(recipe: Recipe, stages: Stages, models: dict[str, Path]) -> dict[str, Any]:
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
        "files": _stamps(
            path for path in sorted(Path(config.task_data).rglob("*")) if path.is_file()
        ),
    }
    stages("tasks", inputs, build)
    return stages.result("tasks")


def _samples(recipe: Recipe, stages: Stages, models: dict[str, Path]) -> list[dict[str, str]]:
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


def _publish_model(student: Path, compact: Path, out: Path) -> None:
    """Copy the student to ``out/model`` and check it: reloaded logits must equal those of the
    training artifact."""
    with artifact.atomic_directory(out / "model", replace=True) as folder:
        shutil.copytree(student / "model", folder, dirs_exist_ok=True)
        _copy_tokenizer(compact / "model", folder)
        tokenizer = teachers.load_tokenizer(folder)
        ids = tokenizer("A tiny model is an ordinary model.", return_tensors="pt").input_ids
        with torch.no_grad():
            published, trained = (
                teachers.load_model(model)(ids).logits for model in (folder, student / "model")
            )
        if not torch.isfinite(published).all() or not torch.equal(published, trained):
            raise WorkError(
                "the published model does not give the trained model's logits after a reload"
            )
        if len(tokenizer) > published.shape[-1]:
            raise WorkError(
                f"the tokenizer has {len(tokenizer)} tokens, the model {published.shape[-1]} rows"
            )


def _copy_tokenizer(source: Path, folder: Path) -> None:
    names = (
        "tokenizer*",
        "*.jinja",
        "special_tokens_map.json",
        "tinylm.json",
        "id_map.npy",
        "certificate.json",
    )
    for pattern in names:
        for file in source.glob(pattern):
            shutil.copyfile(file, folder / file.name)


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
    print(headline(results))
    print(f"model: {out / 'model'}   report: {out / 'report.html'}")
