"""What counting does with the same tokens: bits per byte of unigrams and bigrams, the floors of a
network's score. A network trained from random weights that is not below the bigram has learned
less than a table of pairs holds, and says nothing about shapes, vocabularies or initialisation.

Unigrams are add-``ADDED``; bigrams are absolute-discounted by ``DISCOUNT`` and backed off to them
(Ney, Essen, Kneser 1994).
"""

from collections.abc import Sequence

import numpy as np

ADDED = 0.1
DISCOUNT = 0.75


class Counts:
    """Counts of tokens and of pairs in training windows, int64 [windows, length + 1]: the first
    token of a window is context only. ``counted`` bool [windows, length]: which of the others are
    targets in training; None: all."""

    def __init__(
        self, windows_NT: np.ndarray, vocab_size: int, counted: np.ndarray | None = None
    ) -> None:
        self.vocab_size = vocab_size
        before, after = windows_NT[:, :-1].ravel(), windows_NT[:, 1:].ravel()
        if counted is not None:
            before, after = before[counted.ravel()], after[counted.ravel()]
        unigrams = np.bincount(after, minlength=vocab_size) + ADDED
        self.unigram = unigrams / unigrams.sum()  # float64[vocab_size]
        self.pairs, self.pair_counts = np.unique(before * vocab_size + after, return_counts=True)
        self.begun = np.bincount(before, minlength=vocab_size)  # windows of a token as context
        # different tokens seen after each token
        self.followers = np.bincount(self.pairs // vocab_size, minlength=vocab_size)

    def bits(self, before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """-log2 p of ``after``, int64[n], by unigrams and (after ``before``) by bigrams;
        float64[n] each."""
        unigram = self.unigram[after]
        wanted = before * self.vocab_size + after
        place = np.minimum(np.searchsorted(self.pairs, wanted), len(self.pairs) - 1)
        seen = np.where(self.pairs[place] == wanted, self.pair_counts[place], 0)
        total = np.maximum(self.begun[before], 1)
        kept = np.maximum(seen - DISCOUNT, 0) / total
        rest = np.where(self.begun[before] > 0, DISCOUNT * self.followers[before] / total, 1.0)
        return -np.log2(unigram), -np.log2(kept + rest * unigram)


def floors(
    counts: Counts,
    documents: Sequence[np.ndarray],
    counted: Sequence[np.ndarray],
    prefix: int,
    num_bytes: int,
) -> dict[str, float]:
    """Bits per byte {"unigram", "bigram"} of held-out ``documents`` (token ids, scored as
    :func:`~tinylm.evaluate.bits_per_byte.bits_per_byte` does, each after ``prefix``; of them those
    ``counted``) whose counted text has so many UTF-8 ``num_bytes``."""
    scored = np.concatenate(counted)
    after = np.concatenate([ids for ids in documents if len(ids)])[scored]
    before = np.concatenate([np.r_[prefix, ids[:-1]] for ids in documents if len(ids)])[scored]
    unigram, bigram = counts.bits(before, after)
    return {"unigram": float(unigram.sum() / num_bytes), "bigram": float(bigram.sum() / num_bytes)}
