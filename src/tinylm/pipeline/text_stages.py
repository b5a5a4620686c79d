"""The stages that make text into tokens: teacher, corpus, compact tokenizer (formula 1), store."""

import shutil
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from tinylm import artifact
from tinylm.corpus.ahead import Reading, Source, read_ahead
from tinylm.corpus.conversation import KEY
from tinylm.corpus.document import Document
from tinylm.corpus.pack import find_separator, pack
from tinylm.corpus.read import expand, is_local
from tinylm.corpus.split import PARTS, read_part, write_split
from tinylm.corpus.store import open_store
from tinylm.errors import InputError
from tinylm.machine import cores
from tinylm.models import teacher as teachers
from tinylm.models.config import read_generation
from tinylm.models.families import family_of
from tinylm.models.generate import stops_of
from tinylm.models.tokenizer import check_settings, settle_class
from tinylm.pipeline.recipe import Recipe
from tinylm.pipeline.stages import Stages, file_stamps
from tinylm.tokenizer.choose import rank
from tinylm.tokenizer.compress import compress
from tinylm.tokenizer.count import Counts, count
from tinylm.tokenizer.encoders import encoder_of
from tinylm.tokenizer.source import read_source

KEEP_TOKENIZER = -1  # as tokenizer.vocab_size in a recipe
# of the report's coverage curve
CURVE_SIZES = [2**k + half for k in range(9, 19) for half in (0, 2 ** (k - 1))]


def teacher_stage(recipe: Recipe, stages: Stages) -> Path:
    """The teacher's directory. Its artifact holds the facts only: converted teachers live in the
    user's cache."""

    def build(folder: Path) -> dict[str, Any]:
        source = teachers.resolve(recipe.teacher)
        return {"fingerprint": teachers.fingerprint(source), **teachers.facts(recipe.teacher)}

    stages("teacher", {"spec": recipe.teacher}, build)
    folder = teachers.resolve(recipe.teacher)
    # an unknown family must not cost the stages before the cut
    family_of(teachers.load_config(folder))
    if teachers.fingerprint(folder) != stages.result("teacher")["fingerprint"]:
        raise InputError(
            f"teacher {recipe.teacher} is not the one this run began with: choose another --out"
        )
    return folder


def corpus_stage(recipe: Recipe, stages: Stages, teacher: Path) -> Path:
    config, chat = recipe.corpus, has_conversations(recipe)
    inputs = {
        "paths": config.paths,
        "files": file_stamps(_local_files(config.paths, config.text_key)),
        "text_key": config.text_key,
        "valid_fraction": config.valid_fraction,
    }
    if config.max_bytes:
        inputs["max_bytes"] = config.max_bytes
    # with weights the paths are told apart, and each has its share of max_bytes
    shares = [weight / sum(config.weights) for weight in config.weights]
    limits = [round(config.max_bytes * share) or bool(config.max_bytes) for share in shares]
    if config.weights:
        inputs["limits"] = limits

    tokenizer = teachers.load_tokenizer(teacher) if chat else None
    if tokenizer is not None:
        inputs |= {"template": tokenizer.chat_template, "loss_on": config.loss_on}

    def build(folder: Path) -> dict[str, Any]:
        reading = Reading(config.text_key, config.valid_fraction, tokenizer, config.loss_on)
        sources = [Source(config.paths, limit=config.max_bytes)]
        if config.weights:
            several = zip(config.paths, limits, config.weights)
            sources = [Source([one[0]], n, one[1], one[2] > 0) for n, one in enumerate(several)]
        # counted while it is written: the text is not read once more for it
        facts = write_split(
            read_ahead(reading, sources, cores()), folder, reader=partial(_count, teacher, folder)
        )
        for number, weight in enumerate(config.weights):
            if weight and not any(facts["paths"][number : number + 1]):
                raise InputError(
                    f"corpus {config.paths[number]} has no document of its own to train on: all are"
                    " held out, or in a path before it; add text or leave it out of the mixture"
                )
        return facts

    return stages("corpus", inputs, build)


def _counts_of(corpus: Path, teacher: Path) -> Path:
    """Where the corpus stage keeps what it counted with the teacher's tokenizer."""
    return corpus / f"counts-{read_source(teacher).hash}.npz"


def _count(teacher: Path, corpus: Path, documents: Iterator[Document]) -> None:
    first = next(documents, None)
    if first is not None:  # an empty corpus is the split's to refuse
        count(teacher, chain([first], documents)).save(_counts_of(corpus, teacher))


def has_conversations(recipe: Recipe) -> bool:
    """Whether the recipe's corpus holds records with messages."""
    return recipe.corpus.text_key == KEY


def _local_files(paths: tuple[str, ...], text_key: str) -> list[Path]:
    return expand([path for path in paths if is_local(path)], text_key)


def compact_stage(recipe: Recipe, stages: Stages, teacher: Path, corpus: Path) -> Path:
    """Formula 1: the teacher with a compact tokenizer, embedding rows sliced by old id."""
    fingerprint = stages.result("teacher")["fingerprint"]

    def count_tokens(folder: Path) -> None:
        known = _counts_of(corpus, teacher)
        if known.exists():  # this corpus was split for this teacher
            shutil.copyfile(known, folder / "counts.npz")
        else:
            count(teacher, read_part(corpus, "train")).save(folder / "counts.npz")

    inputs = {"teacher": fingerprint, "corpus": corpus.name}
    counted = stages("count tokens", inputs, count_tokens, kind="counts")

    def build(folder: Path) -> dict[str, Any]:
        artifact.require_space(
            folder, 2 * sum(f.stat().st_size for f in teacher.glob("*.safetensors"))
        )
        counts, size = Counts.load(counted / "counts.npz"), recipe.tokenizer.vocab_size
        if size == KEEP_TOKENIZER:
            shutil.copytree(teacher, folder / "model")
            settle_class(folder / "model")
            _end_texts(folder / "model", has_conversations(recipe))
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
        _end_texts(folder / "model", has_conversations(recipe))
        source = read_source(teacher)
        curve = rank(source, counts).curve(
            [k for k in CURVE_SIZES if k < len(source.strings)] + [len(source.strings)]
        )
        return {**certificate, "curve": curve}

    inputs = {"teacher": fingerprint, "counts": counted.name, **vars(recipe.tokenizer)}
    return stages("compact tokenizer", inputs, build, kind="compact")


def _end_texts(folder: Path, chat: bool) -> None:
    """What ends a document of the corpus ends a text of the model, for every runtime that reads the
    directory. The teacher's chat template goes where the student sees no conversations."""
    tokenizer = teachers.load_tokenizer(folder)
    ends = [*stops_of(folder, tokenizer), find_separator(tokenizer)]
    generation = read_generation(folder) or {}
    generation["eos_token_id"] = list(dict.fromkeys(ends))
    artifact.write_json(folder / "generation_config.json", generation)
    if chat:
        return
    settings = check_settings(folder)
    settings.pop("chat_template", None)
    artifact.write_json(folder / "tokenizer_config.json", settings)
    for template in folder.glob("*.jinja"):
        template.unlink()
    shutil.rmtree(folder / "additional_chat_templates", ignore_errors=True)


def pack_stage(recipe: Recipe, stages: Stages, corpus: Path, compact: Path) -> Path:
    """Token stores of the train and the valid part."""

    def build(folder: Path) -> dict[str, Any]:
        tokenizer = teachers.load_tokenizer(compact / "model")
        encode, sources = encoder_of(tokenizer), max(1, len(recipe.corpus.weights))
        facts = {}
        for part in PARTS:
            out = folder / part
            done = out.exists()  # by a run that was killed later
            store = (
                open_store(out)
                if done
                else pack(read_part(corpus, part), tokenizer, out, encode=encode, sources=sources)
            )
            facts[part] = {"tokens": store.num_tokens, "bytes": store.text_bytes}
        return facts

    inputs = {"corpus": corpus.name, "tokenizer": compact.name}
    return stages("pack", inputs, build, resumable=True)
