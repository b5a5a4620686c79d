"""What the task files need beyond templates: which rows are items, shots of the same subject, ROUGE
for XSum."""

from collections.abc import Sequence
from typing import Any

import datasets
from lm_eval.api.samplers import ContextSampler

from tinylm.errors import InputError


def items(table: datasets.Dataset) -> datasets.Dataset:
    return _rows(table, "item")


def shots(table: datasets.Dataset) -> datasets.Dataset:
    return _rows(table, "shot")


def _rows(table: datasets.Dataset, role: str) -> datasets.Dataset:
    """Items come first and shots after them, so that both are slices and nothing is copied."""
    count = table.data.column("role").to_pylist().count("item")
    chosen = range(count) if role == "item" else range(count, len(table))
    selected = table.select(chosen or [])
    selected.info.description = table.info.description
    return selected


class SameSubject(ContextSampler):
    """The first ``n`` examples of the item's own subject, as in the papers of MMLU, C-Eval and
    CMMLU."""

    def __init__(self, df=None, **options: Any) -> None:
        super().__init__(df, **options)
        self._by_subject: dict[str, list[dict]] = {}
        for row in df or []:
            self._by_subject.setdefault(row["subject"], []).append(row)

    def sample(self, n: int, eval_doc=None, df=None, **kwargs: Any) -> Sequence[dict]:
        subject = eval_doc["subject"] if eval_doc else ""
        pool = self._by_subject.get(subject, [])
        if n > len(pool):
            of = f" for {subject}" if subject else ""
            raise InputError(
                f"--num-fewshot {n}: there are only {len(pool)} examples{of} in this task's files"
            )
        return pool[:n]


def rouge(doc: dict, results: list[str]) -> dict[str, float]:
    """ROUGE-1 and ROUGE-L F-measure (0 to 1), with stemming, of a generated summary."""
    from rouge_score.rouge_scorer import RougeScorer

    scores = RougeScorer(["rouge1", "rougeL"], use_stemmer=True).score(
        doc["summary"], results[0].strip()
    )
    return {name: score.fmeasure for name, score in scores.items()}
