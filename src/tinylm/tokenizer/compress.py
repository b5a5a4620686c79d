"""Formula 1: cut a tokenizer (and its model) to the tokens a corpus uses, and prove that nothing
else changed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tinylm.artifact import atomic_directory, optional_json, refuse_filled, write_json
from tinylm.corpus.document import Document
from tinylm.corpus.store import tokenizer_hash
from tinylm.errors import InputError, WorkError
from tinylm.models.teacher import load_tokenizer
from tinylm.terminal import print_table, quiet_transformers
from tinylm.tokenizer import certificate, choose, model_checks
from tinylm.tokenizer.choose import Cut
from tinylm.tokenizer.count import Counts
from tinylm.tokenizer.remap import Expansion
from tinylm.tokenizer.rewrite import write_tokenizer
from tinylm.tokenizer.rows import (
    has_weights,
    require_rows,
    rows_of,
    slice_rows,
    vocabulary_rows,
    write_model,
)
from tinylm.tokenizer.source import Source, read_source
from tinylm.tokenizer.splits import splits_of


def compress(
    model_dir: str | Path,
    counts: Counts,
    *,
    out: str | Path,
    vocab_size: int | None = None,
    coverage: float | None = None,
    max_growth: float | None = None,
    multiple_of: int = 128,
    texts: Iterable[Document] | None = None,
    held_out: Iterable[Document] | None = None,
) -> dict[str, Any]:
    """Write ``out``: the compact tokenizer, the model with its rows cut (if ``model_dir`` has
    weights), certificate.json, id_map.npy (new id -> old id) and expansion.npz (old id -> new ids).
    Returns the certificate.

    Exactly one of vocab_size, coverage (0-1, of corpus tokens) and max_growth (1.02 = 2 % more
    tokens) sets the size, rounded up to ``multiple_of``. ``texts``: words of these are checked one
    by one; ``held_out``: tokens per byte before and after are measured on these, per source. Raises
    InputError for wrong input and WorkError when a line of the certificate fails; then nothing is
    written.
    """
    quiet_transformers()
    model_dir, out = Path(model_dir), Path(out)
    refuse_filled(out)
    with_weights = has_weights(model_dir)
    cut = choose_vocabulary(model_dir, counts, vocab_size, coverage, max_growth, multiple_of)
    with atomic_directory(out) as folder:
        write_tokenizer(cut.source, cut.kept, folder)
        np.save(folder / "id_map.npy", cut.kept)
        child = read_source(folder)
        Expansion.between(cut.source, child, cut.kept).save(folder / "expansion.npz")
        _write_facts(cut, folder)
        lines = certificate.check_tokenizer(cut.source, child, cut.kept, texts)
        if with_weights:
            lines += _cut_model(cut, child, model_dir)
        lines.append(
            certificate.line(
                "size", len(cut.kept) % multiple_of == 0 or _whole(cut), f"{len(cut.kept):,}"
            )
        )
        result = certificate.summary(cut, counts, child, lines, held_out)
        write_json(folder / "certificate.json", result)
        if not result["passed"]:
            failed = "; ".join(
                f"{one['check']}: {one['found']}" for one in lines if not one["passed"]
            )
            raise WorkError(
                f"the compact tokenizer failed its certificate, nothing was written ({failed})"
            )
    return result


def choose_vocabulary(
    model_dir: Path,
    counts: Counts,
    vocab_size: int | None = None,
    coverage: float | None = None,
    max_growth: float | None = None,
    multiple_of: int = 128,
) -> Cut:
    """The old ids that stay, by exactly one of the three size rules."""
    source = read_source(model_dir)
    choose.require_counts(source, counts)
    ranking = choose.rank(
        source, counts, splits_of(source), rows_of(model_dir) if has_weights(model_dir) else None
    )
    size = choose.choose_size(ranking, vocab_size, coverage, max_growth)
    if size > len(ranking.order):
        raise InputError(
            f"vocabulary of {size} is larger than the tokenizer's own {len(ranking.order)} tokens"
        )
    size = choose.round_up(size, multiple_of, len(ranking.order))
    return Cut(source, ranking, np.sort(ranking.order[:size]))


def print_certificate(certificate: dict[str, Any], out: Path) -> None:
    """The certificate as a table, its figures as a line."""
    rows = [
        ("ok" if one["passed"] else "FAILED", one["check"], one["found"])
        for one in certificate["lines"]
    ]
    print_table("Certificate", ["", "check", "found"], rows)
    for source, row in certificate.get("held_out", {}).items():
        print(
            f"held out, {source}: {row['tokens_per_byte_before']:.4f} ->"
            f" {row['tokens_per_byte_after']:.4f} tokens per byte (x{row['growth']:.4f})"
        )
    print(
        f"{certificate['parent_vocab_size']:,} -> {certificate['vocab_size']:,} tokens: new text"
        f" about x{certificate['growth_predicted']:.4f} longer (the counted text"
        f" x{certificate['growth_counted']:.4f}),"
        f" {certificate['tokens_per_byte_predicted']:.4f} tokens per byte, coverage"
        f" {100 * certificate['coverage']:.2f} %, in {out}"
    )


def _cut_model(cut: Cut, child: Source, model_dir: Path) -> list[dict[str, Any]]:
    from tinylm.models.teacher import load_model

    model = load_model(model_dir, dtype=None)
    require_rows(model, cut.kept)
    expected = model_checks.teacher_answers(model, cut.kept)
    rows = vocabulary_rows(model)
    slice_rows(model, cut.kept)
    write_model(model, model_dir, cut.mapping, rows, child.folder)
    del model
    return model_checks.check_model(cut, child, model_dir, expected)


def _write_facts(cut: Cut, folder: Path) -> None:
    """``tinylm.json``: what an export or a person needs to know and the other files do not say."""
    facts = optional_json(cut.source.folder / "tinylm.json")
    facts["parent_vocab_size"] = facts.get("parent_vocab_size") or len(cut.source.strings)
    facts["parent_tokenizer_hash"] = cut.source.hash
    # transformers may not read a bare tokenizer.model
    if (cut.source.folder / "tokenizer.json").exists():
        parent = load_tokenizer(cut.source.folder)
        facts["parent_store_hash"] = tokenizer_hash(parent)  # of stores that `remap` may take
        _name_tokens(cut, folder, parent)
    write_json(folder / "tinylm.json", facts)


def _name_tokens(cut: Cut, folder: Path, parent: Any) -> None:
    """Write down what the parent's tokenizer class names by itself (Gemma's <mask>); ours is the
    plain fast class."""
    settings = optional_json(folder / "tokenizer_config.json")
    for key, token in parent.special_tokens_map.items():
        if isinstance(token, str) and cut.source.ids.get(token) in cut.mapping:
            settings.setdefault(key, token)
    write_json(folder / "tokenizer_config.json", settings)


def _whole(cut: Cut) -> bool:
    return len(cut.kept) == len(cut.ranking.order)
