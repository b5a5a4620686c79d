"""Splits, formed counts and closure against brute force on small random BPEs."""

from collections import Counter
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_builders import random_bpe, random_strings

from tinylm.tokenizer.choose import rank
from tinylm.tokenizer.count import Counts
from tinylm.tokenizer.rewrite import cut
from tinylm.tokenizer.source import Source
from tinylm.tokenizer.splits import pairs, splits_of

seeds = st.integers(0, 10**6)
few = settings(max_examples=40, deadline=None)


def every_token_formed(
    text: str, source: Source
) -> tuple[list[str], Counter, tuple[str, str] | None]:
    """Plain BPE on strings: the result, how often each token came to be on the way, and the last
    merge."""
    ranks = {pair: rank for rank, pair in enumerate(pairs(source.model["merges"]))}
    parts, last = list(text), None
    formed = Counter(parts)
    while True:
        candidates = [(ranks[pair], at) for at, pair in enumerate(pairwise(parts)) if pair in ranks]
        if not candidates:
            return parts, formed, last
        _, at = min(candidates)
        last = (parts[at], parts[at + 1])
        parts[at : at + 2] = ["".join(last)]
        formed[parts[at]] += 1


def counts_of(source: Source, strings: list[str]) -> Counts:
    ids = [i for text in strings for i in source.fast.encode(text).ids]
    return Counts(
        np.bincount(ids, minlength=source.size),
        sum(map(len, strings)),
        len(strings),
        source.hash,
        "random",
    )


@few
@given(seeds)
def test_split_is_the_last_merge_that_bpe_performs(seed):
    source = random_bpe(seed)
    splits = splits_of(source)
    for i, token in source.strings.items():
        parts, _, last = every_token_formed(token, source)
        reachable = parts == [token] and len(token) > 1
        assert bool(splits.merged[i]) == reachable
        if reachable:
            assert tuple(source.strings[piece] for piece in splits.pieces[i]) == last
        elif len(token) > 1:
            assert [source.strings[piece] for piece in splits.pieces[i]] == parts


@few
@given(seeds)
def test_formed_counts_every_merge_of_the_corpus(seed):
    source, strings = random_bpe(seed), random_strings(seed)
    expected: Counter = Counter()
    for text in strings:
        parts, formed, _ = every_token_formed(text, source)
        assert parts == source.fast.encode(text).tokens  # `tokenizers` does the same
        expected += formed
    formed = splits_of(source).formed(counts_of(source, strings).counts)
    assert {token: int(formed[i]) for i, token in source.strings.items() if formed[i]} == dict(
        expected
    )


@few
@given(seeds, st.integers(3, 40))
def test_any_number_of_best_tokens_is_closed_and_encodes_kept_text_the_same(seed, size):
    source, strings = random_bpe(seed), random_strings(seed)
    ranking = rank(source, counts_of(source, strings))
    kept = np.sort(ranking.order[: max(size, ranking.forced)])
    mapping = {int(old): new for new, old in enumerate(kept)}
    child = Source(source.folder, cut(source, mapping))
    for i in mapping:
        if splits_of(source).merged[i]:
            assert child.fast.encode(source.strings[i]).ids == [mapping[i]]
    for text in strings + random_strings(seed + 1):
        old = source.fast.encode(text).ids
        if all(i in mapping for i in old):
            assert child.fast.encode(text).ids == [mapping[i] for i in old]
        assert "".join(child.fast.encode(text).tokens) == text


@few
@given(seeds, st.integers(3, 40))
def test_predicted_growth_counts_the_pieces_that_removed_tokens_become(seed, size):
    source, strings = random_bpe(seed), random_strings(seed)
    counts = counts_of(source, strings)
    ranking = rank(source, counts)
    size = max(size, ranking.forced)
    kept, splits = set(ranking.order[:size].tolist()), splits_of(source)

    def pieces(token: int) -> int:
        return 1 if token in kept else sum(map(pieces, splits.pieces[token]))

    after = sum(int(number) * pieces(token) for token, number in enumerate(counts.counts) if number)
    assert ranking.growth()[size - 1] == np.float64(after / counts.tokens) or np.isclose(
        ranking.growth()[size - 1], after / counts.tokens
    )


@few
@given(seeds, st.integers(256, 296))
def test_with_byte_fallback_too_no_kept_token_becomes_unreachable(seed, size):
    """Letters are not forced here: ties among tokens that were never formed must not separate a
    token from them."""
    source = random_bpe(seed, byte_fallback=True)
    ranking = rank(source, counts_of(source, random_strings(seed, number=2)))
    kept = np.sort(ranking.order[: max(size, ranking.forced)])
    mapping = {int(old): new for new, old in enumerate(kept)}
    child, splits = Source(source.folder, cut(source, mapping)), splits_of(source)
    for i in mapping:
        if splits.merged[i]:
            assert child.fast.encode(source.strings[i]).ids == [mapping[i]]


def test_a_token_with_a_misleading_first_merge():
    """ "abc" is listed as a+bc first, but "ab" merges before "bc", so ab+c is what happens."""
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4, "abc": 5}}
    model["merges"] = [["a", "b"], ["a", "bc"], ["b", "c"], ["ab", "c"]]
    empty = dict.fromkeys(
        ("normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding")
    )
    source = Source(
        random_bpe(0).folder, {"version": "1.0", "added_tokens": [], "model": model, **empty}
    )
    assert splits_of(source).pieces[5] == (3, 2)
