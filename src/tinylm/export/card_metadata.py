"""The head of a model card, which the hub reads: licence, base model, data sets, scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from tinylm.corpus.read import hub_parts
from tinylm.models.teacher import DEMO_REPOSITORY, DEMO_TEACHER


def metadata(
    name: str,
    license: str | None,
    teacher: Mapping[str, Any],
    languages: Sequence[str],
    results: Mapping[str, Any],
) -> str:
    """What the hub reads. It takes `model-index` only with a name and at least one result."""
    inherited = is_inherited(results)
    base = _base_model(str(teacher.get("spec") or "")) if inherited else ""
    measured = _measured(results)
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        license=license or "unknown",
        language=list(languages) or None,
        base_model=base or None,
        base_model_relation="finetune" if base else None,
        datasets=_datasets(results) or None,
        tags=["tinylm", *(["pruned"] if inherited else []), "small-language-model"],
        model_name=name if measured else None,
        eval_results=measured or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def is_inherited(results: Mapping[str, Any]) -> bool:
    """Whether the weights come from the teacher; of one from random weights it gave the tokenizer
    alone."""
    return results.get("recipe", {}).get("inherit", {}).get("init") != "random"


def _measured(results: Mapping[str, Any]) -> list[EvalResult]:
    """The student's scores, for `model-index`."""
    rows = [
        (task, task, entry["metric"], entry["score"])
        for model in (results.get("tasks") or {}).get("models", [])
        if model["model"] == "student"
        for task, entry in model["tasks"].items()
    ]
    bits = results.get("bits_per_byte", {}).get("student")
    if bits is not None:
        rows.insert(0, ("text", "held-out part of the corpus", "bits_per_byte", bits))
    return [
        EvalResult("text-generation", kind, name, metric, round(score, 4))
        for kind, name, metric, score in rows
    ]


def _datasets(results: Mapping[str, Any]) -> list[str]:
    """Ids of the hub among the corpus's paths: hub:NAME[@CONFIG][:SPLIT]."""
    paths = results.get("recipe", {}).get("corpus", {}).get("paths", [])
    ids = [hub_parts(path)[0] for path in paths if path.startswith("hub:")]
    return list(dict.fromkeys(ids))


def _base_model(spec: str) -> str:
    """The teacher's id on the hub, "" where it is a local path: the hub refuses a card that names
    anything else."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if spec == DEMO_TEACHER:
        return DEMO_REPOSITORY
    if spec.count("/") != 1 or Path(spec).exists():
        return ""
    try:
        validate_repo_id(spec)
    except HFValidationError:
        return ""
    return spec
