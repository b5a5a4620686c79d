"""The stages that measure the models of a run: held-out text, tasks, samples."""

from pathlib import Path
from typing import Any

import torch

from tinylm.corpus.split import read_part, spread
from tinylm.corpus.store import open_store
from tinylm.evaluate.bits_per_byte import (
    Scores,
    counted_bytes,
    interleave,
    report,
    score_documents,
    tokenize_documents,
)
from tinylm.evaluate.floors import Counts, floors
from tinylm.evaluate.forward import TEXT_CONTEXT, text_context
from tinylm.evaluate.tasks.catalog import choose
from tinylm.machine import choose_device, fast_dtype
from tinylm.models import teacher as teachers
from tinylm.models.generate import Speed, chat_prompt, generate
from tinylm.models.sentences import in_sentences
from tinylm.pipeline.recipe import Recipe
from tinylm.pipeline.stages import Stages, file_stamps
from tinylm.pipeline.text_stages import has_conversations
from tinylm.train.batches import make_plan
from tinylm.train.rounds import settle_rounds

SAMPLE_TOKENS = 100  # of each generated sample in the report, which ends with a sentence
MOST_DOCUMENTS = 5000  # whose single scores are kept, for comparisons over documents
# of [train]: what decides which tokens are read
PLAN_SETTINGS = ("sequence_length", "batch_size", "steps", "rounds", "sampling_rate", "strategy")


def scored_length(recipe: Recipe, teacher: Path) -> int:
    """Tokens of held-out text that all models of a run see at once: what the teacher has, and what
    the student is trained on. Positions beyond that mean nothing to a student from random weights:
    eight of 0.4M parameters, trained on 256 tokens, lose 0.25 to 0.33 bits per byte when they are
    scored 512 at a time."""
    return min(text_context(teachers.load_config(teacher)), recipe.train.sequence_length)


def score_stage(
    recipe: Recipe, stages: Stages, corpus: Path, name: str, model: Path, context: int
) -> dict[str, Any]:
    """Bits per byte of one model on held-out documents, ``context`` tokens at once."""

    def build(folder: Path) -> dict[str, Any]:
        held_out = spread(read_part(corpus, "valid"), recipe.corpus.eval_bytes)
        device, processes = choose_device(), stages.processes
        share = held_out[processes.rank :: processes.size]

        def scores() -> Scores | None:
            if not any(document.text for document in share) and processes.size > 1:
                return None  # fewer documents than processes
            # in the format it is scored in: a float32 copy first would be the peak of the run
            loaded = teachers.load_model(model, fast_dtype(device)).to(device)
            tokenizer = teachers.load_tokenizer(model)
            return score_documents(loaded, tokenizer, share, context, dtype=None)

        parts = [part for part in processes.gather(scores) if part is not None]
        whole = interleave(parts)
        result = {**report(whole, context), "stride": context}
        if len(whole.bits) <= MOST_DOCUMENTS:
            bits = [round(float(one), 3) for one in whole.bits]
            result["by_document"] = {"bits": bits, "bytes": whole.bytes.tolist()}
        return result

    inputs = {
        "model": _model_id(stages, name, model),
        "corpus": corpus.name,
        "bytes": recipe.corpus.eval_bytes,
        **_said(recipe),
    }
    if context != TEXT_CONTEXT:
        inputs["context"] = context
    stages(f"score {name}", inputs, build, kind="score", together=True)
    return stages.result(f"score {name}")


# training tokens that are counted at most: pairs of more take gigabytes
COUNTED_TOKENS = 100_000_000


def floors_stage(
    recipe: Recipe, stages: Stages, corpus: Path, store: Path, compact: Path
) -> dict[str, float]:
    """Unigram and bigram bits per byte by the student's own training tokens, on the documents that
    all models are scored on."""
    config = recipe.training()

    def build(folder: Path) -> dict[str, Any]:
        tokens, tokenizer = open_store(store / "train"), teachers.load_tokenizer(compact / "model")
        pool = make_plan(settle_rounds(config, tokens.num_tokens), tokens).pool.ravel()
        pool = pool[: COUNTED_TOKENS // config.sequence_length]
        held_out = spread(read_part(corpus, "valid"), recipe.corpus.eval_bytes)
        kept = [document for document in held_out if document.text]
        length = config.sequence_length
        ids, counted = tokenize_documents(tokenizer, kept)
        return floors(
            Counts(
                tokens.windows(pool, length),
                tokens.vocab_size,
                tokens.counted_targets(pool, length),
            ),
            ids,
            counted,
            tokens.separator if tokens.start is None else tokens.start,
            sum(map(counted_bytes, kept)),
        )

    inputs = {
        "store": store.name,
        "corpus": corpus.name,
        "bytes": recipe.corpus.eval_bytes,
        **_said(recipe),
        "seed": config.seed,
        **{key: getattr(config, key) for key in PLAN_SETTINGS},
        **({"mixture": config.mixture} if config.mixture else {}),
    }
    stages("floors", inputs, build)
    return stages.result("floors")


def _said(recipe: Recipe) -> dict[str, int]:
    """Of conversations what counts is scored, which was all of them before."""
    return {"counted": 1} if has_conversations(recipe) else {}


def _model_id(stages: Stages, name: str, model: Path) -> str:
    return stages.result("teacher")["fingerprint"] if name == "teacher" else model.parent.name


def tasks_stage(recipe: Recipe, stages: Stages, models: dict[str, Path]) -> dict[str, Any]:
    """Zero-shot tasks of teacher, student and control, when the recipe names some."""
    from tinylm.evaluate.models import evaluate
    from tinylm.evaluate.results import merge_tasks

    config = recipe.evaluate
    if not config.tasks:
        return {}
    scored = {
        name: folder for name, folder in models.items() if name in ("teacher", "student", "control")
    }

    def build(folder: Path) -> dict[str, Any]:
        processes = stages.processes
        share = choose(config.tasks)[processes.rank :: processes.size]

        def scores() -> dict[str, Any]:
            data = config.task_data or None
            return evaluate(scored, share, task_data=data, limit=config.limit) if share else {}

        return merge_tasks([part for part in processes.gather(scores) if part])

    files = sorted(Path(config.task_data).rglob("*")) if config.task_data else []
    inputs = {
        "models": {name: _model_id(stages, name, folder) for name, folder in scored.items()},
        **{key: value for key, value in vars(config).items() if key != "prompts"},
        "files": file_stamps(path for path in files if path.is_file()),
    }
    stages("tasks", inputs, build, together=True)
    return stages.result("tasks")


def samples_stage(recipe: Recipe, stages: Stages, models: dict[str, Path]) -> list[dict[str, str]]:
    talks = has_conversations(recipe)

    def build(folder: Path) -> list[dict[str, str]]:
        samples = []
        for name in ("student", "teacher"):
            # a teacher of 7B in float32 would be larger than most machines
            model = teachers.load_model(models[name], fast_dtype(torch.device("cpu")))
            tokenizer = teachers.load_tokenizer(models[name])
            for prompt in recipe.evaluate.prompts:
                speed, asked = Speed(), [{"role": "user", "content": prompt}]
                given = chat_prompt(tokenizer, asked) if talks else prompt
                made = generate(model, tokenizer, given, SAMPLE_TOKENS, speed=speed)
                between = "\n\n" if talks else ""
                text = prompt + between + "".join(in_sentences(made, speed))
                samples.append({"model": name, "prompt": prompt, "text": text})
        return samples

    inputs = {
        "student": models["student"].parent.name,
        "prompts": recipe.evaluate.prompts,
        **({"asked": True} if talks else {}),
    }
    stages("samples", inputs, build)
    return stages.result("samples")
