"""What a vocabulary of K tokens costs the teacher itself: bits per byte of held-out text with each
size. Text that grows by 1 % can cost far more than 1 % (docs/tokenizer.md)."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinylm.corpus.document import Document
from tinylm.errors import InputError
from tinylm.evaluate.bits_per_byte import Scores, paired_difference, report, score_documents
from tinylm.evaluate.forward import text_context
from tinylm.machine import choose_device, fast_dtype
from tinylm.models.teacher import load_config, load_model, load_tokenizer
from tinylm.terminal import print_table, progress_bar, quiet_transformers
from tinylm.tokenizer.compress import compress
from tinylm.tokenizer.count import Counts
from tinylm.tokenizer.rows import has_weights

MEASURED_BYTES = 100_000  # of held-out text


def measure_sizes(
    model_dir: Path, counts: Counts, sizes: Sequence[int], documents: Sequence[Document]
) -> list[dict[str, Any]]:
    """The whole vocabulary and each smaller size, largest first: {"vocab_size", "bits_per_byte",
    "cost", "cost_low", "cost_high"}. The cost is over the whole vocabulary's on the same documents,
    with its 95 % interval.

    Raises InputError for a folder without weights.
    """
    if not has_weights(model_dir):
        raise InputError(
            f"--measure scores the model, and {model_dir} has no weights: give --tokenizer MODEL"
        )
    quiet_transformers()
    context = text_context(load_config(model_dir))
    rows = load_config(model_dir).get_text_config().vocab_size
    wanted = sorted({size for size in sizes if size < min(rows, len(counts.counts))})
    with progress_bar("scoring vocabularies", 1 + len(wanted), "sizes") as bar:
        whole = _score(model_dir, documents, context)
        found = [_row(rows, whole, whole, context)]
        bar.advance(1)
        for size in reversed(wanted):
            with tempfile.TemporaryDirectory(prefix="tinylm-vocabulary-") as scratch:
                out = Path(scratch) / "compact"
                compress(model_dir, counts, out=out, vocab_size=size, multiple_of=1)
                found.append(_row(size, _score(out, documents, context), whole, context))
            bar.advance(1)
    return found


def _score(folder: Path, documents: Sequence[Document], context: int) -> Scores:
    device = choose_device()
    model = load_model(folder, fast_dtype(device)).to(device)
    return score_documents(model, load_tokenizer(folder), documents, context, dtype=None)


def _row(size: int, scores: Scores, whole: Scores, context: int) -> dict[str, Any]:
    bits = report(scores, context)["bits_per_byte"]
    difference = paired_difference(scores, whole)
    return {
        "vocab_size": size,
        "bits_per_byte": bits,
        "cost": difference["difference"],
        "cost_low": difference["low"],
        "cost_high": difference["high"],
    }


def print_costs(rows: Sequence[dict[str, Any]]) -> None:
    """The sizes as a table."""
    cells = [
        [
            f"{row['vocab_size']:,}",
            f"{row['bits_per_byte']:.4f}",
            f"{row['cost']:+.4f}",
            f"{row['cost_low']:+.4f} to {row['cost_high']:+.4f}",
        ]
        for row in rows
    ]
    print_table(
        "the teacher with each vocabulary, held-out text",
        ["vocabulary", "bits per byte", "cost", "95 % interval"],
        cells,
    )
