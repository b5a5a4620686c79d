"""The end of a run: the student as an ordinary model directory, checked."""

import shutil
from pathlib import Path

import torch

from tinylm import artifact
from tinylm.errors import WorkError
from tinylm.models import teacher as teachers


def publish_model(student: Path, compact: Path, out: Path, name: str) -> None:
    """Copy the student to ``out/model`` and check it: reloaded logits must equal those of the
    training artifact. ``name`` is what a GGUF of it will be called."""
    with artifact.atomic_directory(out / "model", replace=True) as folder:
        shutil.copytree(student / "model", folder, dirs_exist_ok=True)
        copy_tokenizer(compact / "model", folder)
        facts = artifact.optional_json(folder / "tinylm.json")
        if "published_as" in facts:  # the teacher is one of ours
            facts = {**facts, "name": facts["published_as"], "organization": ""}
        artifact.write_json(folder / "tinylm.json", {**facts, "published_as": name})
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


def copy_tokenizer(source: Path, folder: Path) -> None:
    """The tokenizer's files, what ends a text, and where both came from."""
    names = (
        "tokenizer*",
        "generation_config.json",
        "special_tokens_map.json",
        "tinylm.json",
        "id_map.npy",
        "certificate.json",
    )
    for pattern in names:
        for file in source.glob(pattern):
            shutil.copyfile(file, folder / file.name)
