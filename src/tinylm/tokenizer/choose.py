"""Which tokens stay. Order: what must stay (with everything it is merged from), then the most
formed.

``Ranking`` is made once from counts; every question about K (coverage, growth, parameters) is then
a cumulative sum.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinylm.artifact import optional_json
from tinylm.errors import InputError
from tinylm.models.token_ids import ids_in
from tinylm.tokenizer.count import Counts
from tinylm.tokenizer.source import Source
from tinylm.tokenizer.splits import Splits, splits_of

# Gemma reserves 6,242 of them; they compete by their counts
PLACEHOLDER = re.compile(r"^<unused_?\d+>$")
# the paper's rule: a compact vocabulary should cover more than 90 % of the corpus
PAPER_RULE = 0.90
LEAST_BYTES = 1_000_000  # of a corpus whose stretches say something about new text


@dataclass(frozen=True)
class Ranking:
    """All tokens, best to keep first. ``order[:K]`` is the vocabulary of size K, for any K >=
    ``forced``.

    emitted, cost: int64[V] over token ids: how often the token came out, and tokens added when it
    goes. new_growth: see :meth:`expected_growth`.
    """

    order: np.ndarray
    forced: int
    emitted: np.ndarray
    cost: np.ndarray
    bytes: int
    new_growth: np.ndarray | None = None  # float64[len(order)]

    def coverage(self) -> np.ndarray:
        """float64[len(order)]: share of the corpus' tokens that are among the first K, for K = 1,
        2, ..."""
        return np.cumsum(self.emitted[self.order]) / max(1, self.emitted.sum())

    def growth(self) -> np.ndarray:
        """float64[len(order)]: tokens after / before of the text that was counted, for K = 1, 2,
        ..."""
        return _growth(self.cost[self.order], int(self.emitted.sum()))

    def expected_growth(self) -> np.ndarray:
        """float64[len(order)]: the same of text that was not: the mean over stretches of the
        corpus, each cut with what is chosen on the others. Of counted text where it is too short
        for that.

        Leaving out an eighth at a time foretells other books and projects (Qwen 3 at 48,000:
        x1.024, measured x1.024, on counted text x1.010); discounting tokens of few documents does
        not choose better ones (docs/tokenizer.md).
        """
        return self.growth() if self.new_growth is None else self.new_growth

    def smallest(self, *, coverage: float | None = None, max_growth: float | None = None) -> int:
        """The smallest K that covers ``coverage`` of the tokens, or lets new text grow at most x
        ``max_growth``."""
        if coverage is not None:
            if not 0 < coverage <= 1:
                raise InputError(
                    f"coverage {coverage} must lie above 0 and at most at 1 (0.98 = 98 %)"
                )
            reached = self.coverage() >= coverage - 1e-12
        else:
            if max_growth is None or not 1 <= max_growth < float("inf"):
                raise InputError(
                    f"max growth {max_growth} must be 1 or more (1.02 = 2 % more tokens)"
                )
            reached = self.expected_growth() <= max_growth + 1e-12
        return max(self.forced, int(np.argmax(reached)) + 1)

    def curve(
        self,
        sizes: Sequence[int],
        hidden_size: int | None = None,
        parameters: int | None = None,
        *,
        tied: bool = True,
    ) -> list[dict[str, float]]:
        """One row per K: vocab_size, coverage, growth, tokens_per_byte (of the counted text),
        expected_growth (of new text) and, with ``hidden_size``, embedding_parameters (embedding +
        head) and their embedding_share of a model of ``parameters``."""
        coverage, growth, expected = self.coverage(), self.growth(), self.expected_growth()
        rows = []
        for size in sizes:
            last = min(size, len(self.order)) - 1
            row: dict[str, float] = {
                "vocab_size": size,
                "coverage": float(coverage[last]),
                "growth": float(growth[last]),
                "expected_growth": float(expected[last]),
                "tokens_per_byte": float(growth[last] * self.emitted.sum() / max(1, self.bytes)),
            }
            if hidden_size:
                row["embedding_parameters"] = size * hidden_size * (1 if tied else 2)
                if parameters:
                    row["embedding_share"] = row["embedding_parameters"] / parameters
            rows.append(row)
        return rows

    def recommended(
        self, parameters: int, hidden_size: int, *, tied: bool = True, multiple_of: int = 128
    ) -> int:
        """The K that makes (parameters outside the vocabulary) / growth largest, for a budget of
        ``parameters``.

        Near the compute-optimal point a model loses about as much from x % fewer body parameters as
        from x % less text seen in its token budget, so the two are traded one for one. A rule of
        thumb, not a measurement.
        """
        per_row = hidden_size * (1 if tied else 2)
        first = -(-self.forced // multiple_of) * multiple_of
        sizes = np.arange(first, len(self.order) + 1, multiple_of)
        body = parameters - sizes * per_row
        if not len(sizes) or body.max() <= 0:
            raise InputError(
                f"{parameters:,} parameters do not hold a vocabulary of {first:,} rows of {per_row}"
            )
        return int(sizes[np.argmax(body / self.expected_growth()[sizes - 1])])


def rank(
    source: Source, counts: Counts, splits: Splits | None = None, rows: int | None = None
) -> Ranking:
    """Rank the tokens of ``source`` by ``counts``. Added tokens without one of the model's
    embedding ``rows`` cannot stay (Gemma 3's text models have none for ``<image_soft_token>``).

    Raises InputError for counts of another tokenizer or of nothing, and for other tokens without a
    row.
    """
    require_counts(source, counts)
    splits = splits or splits_of(source)
    formed, arity = splits.formed(counts.counts), splits.arity()
    last = max((token for token in source.strings if token not in source.added), default=-1)
    if rows is not None and last >= rows:
        raise InputError(
            f"the tokenizer has id {last} but the model only {rows} embedding rows: they do not"
            " belong together"
        )
    usable = {token for token in source.strings if rows is None or token < rows}
    forced = splits.closure(forced_tokens(source, splits)) & usable
    ids = np.array(
        [token for token in source.strings if token in usable and token not in forced],
        dtype=np.int64,
    )

    def ordered(formed: np.ndarray) -> np.ndarray:
        # A single character that falls back to several bytes saves several tokens, and its parents
        # need it.
        key = formed[ids] * np.maximum(1, arity[ids] - 1)
        # Tokens that no merge reaches come last among equals; none of them is part of another token
        dead = ~splits.merged[ids] & (splits.lengths[ids] > 1) & (formed[ids] == 0)
        ranked = ids[np.lexsort((ids, splits.lengths[ids], dead, -key))]
        return np.concatenate([np.array(sorted(forced), dtype=np.int64), ranked])

    new_growth, stretches = None, counts.stretches
    if stretches is not None and len(stretches) > 1 and counts.bytes >= LEAST_BYTES:
        # added tokens by their place in the order that the other stretches give
        cost = np.zeros(len(forced) + len(ids), dtype=np.int64)
        for own in map(splits.formed, stretches):
            cost += (own * (arity - 1))[ordered(formed - own)]
        new_growth = _growth(cost, counts.tokens)
    cost = formed * (arity - 1)
    return Ranking(ordered(formed), len(forced), counts.counts, cost, counts.bytes, new_growth)


def _growth(cost: np.ndarray, tokens: int) -> np.ndarray:
    """Tokens after / before when the first K stay, for every K; ``cost``: of each that goes."""
    return 1 + (cost.sum() - np.cumsum(cost)) / max(1, tokens)


def require_counts(source: Source, counts: Counts) -> None:
    if counts.tokenizer_hash != source.hash:
        raise InputError(
            f"the counts were made with the tokenizer of {counts.tokenizer}, not with that of"
            f" {source.folder}: count again with `tinylm tokenizer count`"
        )
    if not counts.tokens:
        raise InputError("the counts are empty: count a corpus that has text")


def choose_size(
    ranking: Ranking, vocab_size: int | None, coverage: float | None, max_growth: float | None
) -> int:
    """The wanted K by exactly one of the three rules."""
    given = [value for value in (vocab_size, coverage, max_growth) if value is not None]
    if len(given) != 1:
        raise InputError("give exactly one of --vocab-size, --coverage and --max-growth")
    if vocab_size is None:
        return ranking.smallest(coverage=coverage, max_growth=max_growth)
    if vocab_size < ranking.forced:
        raise InputError(
            f"vocabulary of {vocab_size} is too small: bytes, special tokens and chat template need"
            f" {ranking.forced}"
        )
    return vocab_size


def round_up(size: int, multiple_of: int, available: int) -> int:
    """``size`` rounded up to a multiple; when the tokenizer has fewer tokens, down to one (or all
    of them)."""
    if multiple_of < 1:
        raise InputError(f"--multiple-of {multiple_of} must be 1 or more")
    rounded = -(-size // multiple_of) * multiple_of
    if rounded <= available:
        return rounded
    down = available // multiple_of * multiple_of
    return down if down >= size else available


def forced_tokens(source: Source, splits: Splits) -> set[int]:
    """Tokens that stay whatever the counts say: bytes, unk, added tokens, ids that a config names,
    and the literals of the chat template. Without byte fallback also all single characters, or text
    would be lost."""
    forced = set(source.byte_ids.values()) | (
        {source.unk_id} if source.unk_id is not None else set()
    )
    forced |= {
        i
        for i, token in source.added.items()
        if token["special"] or not PLACEHOLDER.match(token["content"])
    }
    forced |= {i for i in _named_ids(source) if i in source.strings}
    if not source.byte_level and not source.byte_fallback:
        prefix = source.model.get("continuing_subword_prefix") or ""
        forced |= {i for i, token in source.strings.items() if len(token.removeprefix(prefix)) == 1}
    return forced | _template_tokens(source)


def _named_ids(source: Source) -> set[int]:
    named: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        named |= set(ids_in(optional_json(source.folder / name)))
    settings = optional_json(source.folder / "tokenizer_config.json")
    settings |= optional_json(source.folder / "special_tokens_map.json")
    for key, value in settings.items():
        for token in value if isinstance(value, list) else [value]:
            content = token.get("content") if isinstance(token, dict) else token
            if (
                key.endswith(("_token", "_tokens"))
                and isinstance(content, str)
                and content in source.ids
            ):
                named.add(source.ids[content])
    return named


def _template_tokens(source: Source) -> set[int]:
    literals = [
        text for template in chat_templates(source.folder) for text in template_literals(template)
    ]
    if not literals:
        return set()
    return {
        i for one in source.fast.encode_batch(literals, add_special_tokens=False) for i in one.ids
    }


def chat_templates(folder: Path) -> list[str]:
    """The chat templates of a tokenizer directory (of the config and of .jinja files)."""
    value: Any = optional_json(folder / "tokenizer_config.json").get("chat_template") or []
    named = [value] if isinstance(value, str) else [one["template"] for one in value]
    files = [
        folder / "chat_template.jinja",
        *sorted((folder / "additional_chat_templates").glob("*.jinja")),
    ]
    return named + [file.read_text(encoding="utf-8") for file in files if file.exists()]


def template_literals(template: str) -> Iterable[str]:
    """The text a Jinja template can write: data between tags, and string constants inside them."""
    import jinja2

    try:
        tokens = list(jinja2.Environment().lexer.tokenize(template))
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"the chat template is not valid Jinja: {error}") from error
    return [
        str(token.value)
        for token in tokens
        if token.type in ("data", "string") and str(token.value)
    ]


@dataclass(frozen=True)
class Cut:
    """A chosen vocabulary. ``kept``: old ids, ascending; position = new id."""

    source: Source
    ranking: Ranking
    kept: np.ndarray

    @property
    def mapping(self) -> dict[int, int]:
        return {int(old): new for new, old in enumerate(self.kept)}
