"""How much longer does text that was not counted become, and is it foretold?

    python benchmarks/expected_growth.py --tokenizer DIR... --corpus FILE=HELD_OUT...

The first HELD_OUT documents of each file are held out (whole books and projects: documents lie side
by side), the others counted. For each tokenizer and size, tokens after / before: of the counted
text, as expected of new text (an eighth of the corpus left out at a time), and of the held-out
text. Then the last for other ways to choose: counts damped by stretch, the largest stretches left
out, a prior by the tokens' rank. `ratio` is the largest difference of expected and held out, over
that of counted and held out: below 1 is better.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from tinylm.corpus.document import Document
from tinylm.corpus.read import documents
from tinylm.tokenizer.choose import Ranking, rank
from tinylm.tokenizer.count import count
from tinylm.tokenizer.source import read_source
from tinylm.tokenizer.splits import Splits, splits_of

# formed counts by stretch, int64[stretches, V] -> what tokens are ranked by, float64[V]
RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "square roots": lambda formed: np.sqrt(formed).sum(0),
    "power 3/4": lambda formed: (formed**0.75).sum(0),
    "without the largest": lambda formed: np.sort(formed, 0)[:-1].sum(0) + 1e-6 * formed.sum(0),
    "without the two largest": lambda formed: np.sort(formed, 0)[:-2].sum(0) + 1e-6 * formed.sum(0),
    "times rank^-1/4": lambda formed: formed.sum(0) * (300.0 + np.arange(formed.shape[1])) ** -0.25,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", nargs="+", required=True)
    parser.add_argument("--corpus", nargs="+", required=True)
    parser.add_argument("--vocab-size", type=int, nargs="+", default=[16_384, 32_768, 48_000])
    options = parser.parse_args()
    corpus = [
        (name, int(held)) for name, _, held in (one.rpartition("=") for one in options.corpus)
    ]

    def texts(held: bool) -> Iterator[Document]:
        for name, number in corpus:
            first, last = (0, number) if held else (number, None)
            yield from islice(documents([name]), first, last)

    rows = []
    for folder in options.tokenizer:
        source = read_source(folder)
        splits = splits_of(source)
        counts = count(folder, texts(held=False))
        chosen, new = rank(source, counts), rank(source, count(folder, texts(held=True)))
        for size in options.vocab_size:
            row = {
                "tokenizer": folder,
                "vocab_size": size,
                "counted": float(chosen.growth()[size - 1]),
                "expected": float(chosen.expected_growth()[size - 1]),
                "held_out": growth(new, chosen.order[:size]),
            }
            assert counts.stretches is not None
            formed = np.stack([splits.formed(stretch) for stretch in counts.stretches])
            for name, rule in RULES.items():
                order = ordered(chosen, splits, rule(formed))
                row[name] = growth(new, order[:size])
            rows.append(row)
            print(json.dumps(row), flush=True)
    worst = {
        key: max(abs(row[key] - row["held_out"]) for row in rows) for key in ("expected", "counted")
    }
    print(json.dumps({"ratio": worst["expected"] / worst["counted"], "worst": worst}))


def ordered(ranking: Ranking, splits: Splits, values: np.ndarray) -> np.ndarray:
    """The tokens of ``ranking`` by other values; what must stay stays first."""
    rest = ranking.order[ranking.forced :]
    key = values * np.maximum(1, splits.arity() - 1)
    return np.concatenate(
        [ranking.order[: ranking.forced], rest[np.argsort(-key[rest], kind="stable")]]
    )


def growth(ranking: Ranking, kept: np.ndarray) -> float:
    """Tokens after / before of the text of ``ranking``, with the vocabulary ``kept``."""
    gone = ~np.isin(np.arange(len(ranking.emitted)), kept)
    return float(1 + ranking.cost[gone].sum() / ranking.emitted.sum())


if __name__ == "__main__":
    main()
