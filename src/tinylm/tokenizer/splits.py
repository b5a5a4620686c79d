"""What each token falls apart into when it leaves the vocabulary, and how many tokens its removal
would cost.

For BPE the split of a token is the *last merge BPE really performs* on its string. A token may be
listed with several merges (all pairs that spell it); in Llama-3 the first listed one is not the
real one for 43 % of the tokens. Because merges that cross a token's border cannot have happened
when the token came out, the split is the same wherever the
token occurs, so counts can be pushed from a token down to its two children exactly::

    formed(t) = emitted(t) + sum of formed(parents of t)

Removing t costs one more token each time it was formed. formed(child) >= formed(parent), so "the K
most formed" is closed under splitting: every kept token can still be built from kept tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tinylm.tokenizer.source import Source

Merges = Mapping[tuple[int, int], tuple[int, int]]  # (left, right) -> (rank, merged)


@dataclass(frozen=True)
class Splits:
    """``pieces[t]``: what replaces token t (empty: nothing can). ``merged[t]``: t is built by a
    merge of its pieces."""

    pieces: list[tuple[int, ...]]
    merged: np.ndarray  # bool[V]
    lengths: np.ndarray  # int32[V], characters of the token's spelling

    def formed(self, emitted: np.ndarray) -> np.ndarray:
        """int64[V]: how often each token is built, counting those that were merged on into longer
        tokens."""
        formed = emitted.astype(np.int64).copy()
        # a piece is shorter than what it is a piece of
        for token in np.argsort(-self.lengths, kind="stable"):
            if self.merged[token] and formed[token]:
                for piece in self.pieces[token]:
                    formed[piece] += formed[token]
        return formed

    def arity(self) -> np.ndarray:
        """int64[V]: number of pieces each token becomes; 1 for tokens that nothing can replace."""
        return np.array([max(1, len(pieces)) for pieces in self.pieces], dtype=np.int64)

    def closure(self, tokens: set[int]) -> set[int]:
        """``tokens`` and everything they are merged from."""
        closed, todo = set(tokens), list(tokens)
        while todo:
            token = todo.pop()
            if self.merged[token]:
                new = [piece for piece in self.pieces[token] if piece not in closed]
                closed.update(new)
                todo.extend(new)
        return closed


def splits_of(source: Source) -> Splits:
    """The split of every token of a tokenizer (2-6 s for 128k-262k tokens, in plain Python)."""
    lengths = np.zeros(source.size, dtype=np.int32)
    for token, string in source.strings.items():
        lengths[token] = len(string)
    if source.kind == "BPE":
        pieces, merged = _bpe_splits(source)
    elif source.kind == "Unigram":
        pieces, merged = _unigram_splits(source), np.zeros(source.size, dtype=bool)
    else:
        pieces, merged = _wordpiece_splits(source), np.zeros(source.size, dtype=bool)
    return Splits(pieces, merged, lengths)


def merge_table(source: Source) -> dict[tuple[int, int], tuple[int, int]]:
    """The merges of a BPE by token ids. A pair listed twice counts with its last rank, as in
    `tokenizers`."""
    ids = source.model_ids
    table = {}
    for rank, (left, right) in enumerate(pairs(source.model["merges"])):
        table[ids[left], ids[right]] = (rank, ids[left + right])
    return table


def pairs(merges: Sequence) -> list[tuple[str, str]]:
    """Merges as pairs; files hold them as "a b" strings or as [a, b]."""
    split = (merge.split(" ") if isinstance(merge, str) else merge for merge in merges)
    return [(left, right) for left, right in split]


def bpe(symbols: Sequence[int], merges: Merges) -> tuple[list[int], tuple[int, int] | None]:
    """Byte-pair encoding of one string: lowest rank first, leftmost first. Returns the tokens and
    the last merge."""
    tokens, last = list(symbols), None
    while len(tokens) > 1:
        best, where = None, -1
        for index in range(len(tokens) - 1):
            found = merges.get((tokens[index], tokens[index + 1]))
            if found is not None and (best is None or found[0] < best[0]):
                best, where = found, index
        if best is None:
            break
        last = (tokens[where], tokens[where + 1])
        tokens[where : where + 2] = [best[1]]
    return tokens, last


def _bpe_splits(source: Source) -> tuple[list[tuple[int, ...]], np.ndarray]:
    merges = merge_table(source)
    pieces: list[tuple[int, ...]] = [()] * source.size
    merged = np.zeros(source.size, dtype=bool)
    for token, string in source.strings.items():
        if len(string) == 1 and token not in source.added:
            pieces[token] = () if source.byte_level else _bytes_of(source, string)
            continue
        symbols = [symbol for letter in string for symbol in _symbols(source, letter)]
        result, last = bpe(symbols, merges)
        if result == [token] and last is not None:
            pieces[token] = last
            # added tokens are matched as text, never merged
            merged[token] = token not in source.added
        elif token not in result:
            pieces[token] = tuple(result)  # merges cannot build it: `ignore_merges`, added, or dead
    return pieces, merged


def _symbols(source: Source, letter: str) -> tuple[int, ...]:
    """What BPE starts from for one character: its token, else its bytes, else unk, else nothing."""
    token = source.model_ids.get(letter)
    if token is not None:
        return (token,)
    if source.byte_fallback and (spelled := _bytes_of(source, letter)):
        return spelled
    return () if source.unk_id is None else (source.unk_id,)


def _bytes_of(source: Source, letter: str) -> tuple[int, ...]:
    """The ``<0xNN>`` pieces of a character, or () when one of them is missing or the model has no
    byte fallback."""
    if not source.byte_fallback:
        return ()
    tokens = [source.byte_ids.get(byte) for byte in letter.encode("utf-8", "surrogatepass")]
    return () if None in tokens else tuple(tokens)  # type: ignore[arg-type]


def _unigram_splits(source: Source) -> list[tuple[int, ...]]:
    """The best segmentation of each piece without the piece itself."""
    scores = dict(source.model["vocab"])
    longest = max(map(len, scores))
    unk_score = min(scores.values()) - 10.0
    pieces: list[tuple[int, ...]] = [()] * source.size
    special = {source.unk_id, *source.byte_ids.values()}
    for token, string in source.strings.items():
        if token in special or not string:
            continue
        if len(string) == 1:
            pieces[token] = _bytes_of(source, string)
        else:
            pieces[token] = _best_path(source, string, scores, longest, unk_score)
    return pieces


def _best_path(
    source: Source, string: str, scores: dict[str, float], longest: int, unk_score: float
):
    best: list[tuple[float, int]] = [(0.0, 0)] + [(-np.inf, 0)] * len(string)
    for end in range(1, len(string) + 1):
        for start in range(max(0, end - longest), end):
            piece = string[start:end]
            if piece == string:
                continue
            score = scores.get(piece, unk_score if end - start == 1 else None)
            if score is not None and best[start][0] + score > best[end][0]:
                best[end] = (best[start][0] + score, start)
    path: list[int] = []
    end = len(string)
    while end:
        start = best[end][1]
        path[:0] = (
            _symbols(source, string[start:end])
            if end - start == 1
            else [source.model_ids[string[start:end]]]
        )
        end = start
    return tuple(path)


def _wordpiece_splits(source: Source) -> list[tuple[int, ...]]:
    """Greedy longest match of each token's text without the token itself."""
    prefix = source.model.get("continuing_subword_prefix", "##")
    pieces: list[tuple[int, ...]] = [()] * source.size
    for token, string in source.strings.items():
        inner = string.startswith(prefix) and len(string) > len(prefix)
        text = string[len(prefix) :] if inner else string
        path: list[int] = []
        start = 0
        while start < len(text):
            for end in range(len(text), start, -1):
                found = source.model_ids.get((prefix if start or inner else "") + text[start:end])
                if found is not None and found != token:
                    path.append(found)
                    break
            else:
                path = []
                break
            start = end
        pieces[token] = tuple(path)
    return pieces
