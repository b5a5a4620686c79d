"""`tinylm init`: a first recipe for a teacher, texts and hours, with what was measured and why."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tinylm.architecture.plan import plan
from tinylm.artifact import require_file_name, write_text
from tinylm.corpus.read import documents
from tinylm.errors import InputError
from tinylm.machine import choose_device
from tinylm.models import teacher as teachers
from tinylm.models.parameters import parameters
from tinylm.models.shape import Shape
from tinylm.pipeline.forecast import machine_speed, training_passes
from tinylm.pipeline.recipe import ArchitectureConfig, CorpusConfig, Recipe, read_recipe
from tinylm.pipeline.settings import toml_value
from tinylm.render.numbers import hours as in_hours
from tinylm.render.numbers import millions
from tinylm.train.config import TrainConfig

SHARE = 0.25  # of the teacher's parameters, unless a budget is given
# largest vocabulary for students of so many parameters: it should be no more than about a third
VOCABULARIES = [(10e6, 4096), (30e6, 8192), (150e6, 16384), (600e6, 32768), (float("inf"), 48000)]
ENOUGH = 20  # tokens a parameter: more is not proposed, however many hours there are


def propose(
    teacher: str, corpus: Sequence[str], hours: float, budget: float = 0.0, name: str = "mine"
) -> tuple[Recipe, list[str]]:
    """A recipe whose training takes about ``hours`` on this machine, and what it rests on, in
    words. ``budget``: parameters of the student; 0: a quarter of the teacher's.

    Raises:
        InputError: a teacher or corpus that cannot be read, hours or a budget that fit no student.
    """
    if not hours > 0:
        raise InputError(f"--hours {hours:g} must be more than 0")
    config = teachers.load_config(teachers.resolve(teacher))
    size = parameters(Shape.from_config(config), config)
    if budget and not 1000 <= budget < size:
        raise InputError(
            f"--budget {budget:g} must lie between 1000 and the teacher's {size:,} parameters"
        )
    next(iter(documents(corpus)))  # a corpus without text shows now
    budget = budget or round(SHARE * size, -5 if size > 1e7 else -1)
    known = config.get_text_config()
    vocabulary = next(rows for most, rows in VOCABULARIES if budget <= most)
    on_gpu = choose_device().type == "cuda"
    length = min(2048 if on_gpu else 512, getattr(known, "max_position_embeddings", 0) or 512)
    train = TrainConfig(sequence_length=length, batch_size=32 if on_gpu else 8, steps=1000)
    recipe = Recipe(
        name=name,
        teacher=teacher,
        corpus=CorpusConfig(paths=tuple(corpus)),
        tokenizer=replace(Recipe().tokenizer, vocab_size=min(vocabulary, known.vocab_size)),
        architecture=ArchitectureConfig(budget=budget),
        train=train,
    )
    shape = plan(budget, recipe.tokenizer.vocab_size, teacher=config)[0].shape
    speed = machine_speed()

    def seconds(steps: int) -> float:
        timed = replace(recipe, train=replace(train, steps=steps))
        return steps * 6 * budget * train.tokens_per_batch * training_passes(timed) / speed

    enough = max(1, round(ENOUGH * budget / train.tokens_per_batch))
    # the most steps that fit: seconds grow with them, though the trials' share does not
    steps = bisect_right(range(1, enough + 1), hours * 3600, key=seconds) or 1
    recipe = replace(recipe, train=replace(train, steps=steps))
    words = [
        f"teacher: {millions(size)} parameters, vocabulary {known.vocab_size:,}",
        f"this machine: about {speed / 1e12:.2g} TFLOP/s in training",
        f"student: {millions(budget)} parameters, {shape.num_layers} layers of width"
        f" {shape.hidden_size}",
    ]
    if steps == enough:
        took = in_hours(seconds(enough))
        words.append(f"{ENOUGH} tokens a parameter take {took}: more hours suit a larger student")
    recipe.validate()
    tokens = recipe.train.steps * train.tokens_per_batch
    words.append(f"training: {millions(tokens)} tokens, {tokens / budget:.2g} a parameter")
    if tokens < budget:
        words.append(
            "below 1 a parameter a student stays near what it inherited: more hours, a GPU or a"
            " smaller --budget help"
        )
    return recipe, words


def write_recipe(recipe: Recipe, path: Path, words: Sequence[str], hours: float) -> None:
    """The keys that were chosen, with why, as TOML; InputError where a file is there already."""
    require_file_name(path)
    if path.exists():
        raise InputError(f"{path} exists already: choose another --out or remove it first")
    corpus, train = recipe.corpus, recipe.train
    keys: list[tuple[str, Any, str]] = [
        ("name", recipe.name, ""),
        ("teacher", recipe.teacher, ""),
        ("[corpus]", None, ""),
        ("paths", list(corpus.paths), "files, folders or hub:NAME"),
        ("[tokenizer]", None, ""),
        ("vocab_size", recipe.tokenizer.vocab_size, "of the teacher's tokens; 0: by coverage"),
        ("[architecture]", None, ""),
        ("budget", round(recipe.architecture.budget), "parameters of the student"),
        ("[train]", None, ""),
        ("sequence_length", train.sequence_length, ""),
        ("batch_size", train.batch_size, ""),
        ("steps", train.steps, f"about {hours:g} h here, trials and control included"),
        ("[evaluate]", None, ""),
        ("prompts", list(recipe.evaluate.prompts), "continued in the report"),
    ]
    lines = ["# Made by `tinylm init`:", *(f"# {word}" for word in words), ""]
    for key, value, why in keys:
        line = f"\n{key}" if value is None else f"{key} = {toml_value(value)}"
        lines.append(f"{line:<42}  # {why}" if why else line)
    write_text(path, "\n".join(lines) + "\n")
    read_recipe(path)  # what we write we can read
