"""Two engines behind one function: texts -> token ids, or how often each is emitted.

`gigatoken` is the fast one; it is used only while its ids equal those of `tokenizers` on a sample
of every shard. Special tokens are not added; their spelling inside a text is recognised, as
`tokenizers` does.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import regex

from tinylm.corpus.pack import Encoded
from tinylm.models.tokenizer import MATCHING_FLAGS
from tinylm.tokenizer.shards import even_places
from tinylm.tokenizer.source import Source, byte_letters

SAMPLE_BYTES = 48_000  # of every shard, checked against `tokenizers`
PROBES = (
    " leading and  double   spaces\t\ttabs\r\n\r\nlines \n",
    "naïve café – “quotes” 1234567890 3.14e-10 don't WON'T ’s  12  ²³½ Ⅷ ١٢٣ 一二",
    "简体中文与English混排，标点。日本語テキスト 한국어 العربية עברית हिन्दी ไทย",
    (
        "e\u0301 e\u0301\u0301 \u212b \ufb01 \u2460 \u00a0\u3000\u200b\u200d 👩‍👩‍👧‍👦 🇩🇪"
        " \U0001d54f\x00\x7f"
    ),
    "def f(x):\n    return {'a': x**2}  # ok\n\n\n<|endoftext|></s><unk><0x41>▁▁",
)


class Engine:
    """Encodes and counts shards of texts for one tokenizer. ``name`` says what ran and, when it had
    to fall back, why."""

    def __init__(self, source: Source, fast: bool = True) -> None:
        self.source = source
        self.name = "tokenizers"
        self._fast = None
        if fast:
            self._fast, reason = _gigatoken(source)
            self.name = "gigatoken" if self._fast else f"tokenizers ({reason})"
        self._check(PROBES, "the probe strings")

    def count(self, texts: Sequence[str], blocks: int = 1) -> np.ndarray:
        """int64[blocks, V]: emitted tokens by id, in consecutive texts of about the same length
        together."""
        self._check(_sample(texts), "a sample of the text")
        counts = np.zeros((blocks, self.source.size), dtype=np.int64)
        lengths = np.array([len(text) for text in texts])
        ends = np.searchsorted(even_places(lengths, blocks), np.arange(blocks), side="right")
        for row, start, end in zip(counts, [0, *ends[:-1]], ends):
            for part in [texts[start:end]] if self._fast else _few(texts[start:end]):
                encode = self._fast.encode if self._fast else self._reference
                row += np.bincount(encode(part)[0], minlength=self.source.size)
        return counts

    def encode(self, texts: Sequence[str]) -> Encoded:
        """The ids of all texts, one text after the other, and how many each has, int64[texts]."""
        self._check(_sample(texts), "a sample of the text")
        if self._fast:
            return self._fast.encode(texts)
        ids, lengths = zip(*[self._reference(part) for part in _few(texts)])
        return np.concatenate(ids), np.concatenate(lengths)

    def _reference(self, texts: Sequence[str]) -> Encoded:
        """:meth:`encode` by `tokenizers`."""
        encoded = self.source.fast.encode_batch_fast(list(texts), add_special_tokens=False)
        rows = [np.array(one.ids, dtype=np.int64) for one in encoded]
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        return np.concatenate([np.zeros(0, dtype=np.int64), *rows]), lengths

    def _check(self, texts: Sequence[str], where: str) -> None:
        """Leave the fast engine for good when its ids are not those of `tokenizers`."""
        if self._fast and not all(
            np.array_equal(ours, theirs)
            for ours, theirs in zip(self._fast.encode(texts), self._reference(texts))
        ):
            self._fast, self.name = None, f"tokenizers (gigatoken differed on {where})"


def engine_of(tokenizer: Any) -> Engine:
    """The fastest exact engine for a fast `transformers` tokenizer in memory."""
    return Engine(source_of(tokenizer))


def source_of(tokenizer: Any) -> Source:
    """What a fast `transformers` tokenizer in memory is made of."""
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    return Source(Path(tokenizer.name_or_path), data)


class Gigatoken:
    """The PyPI package `gigatoken`, with two families added that it does not load by itself."""

    def __init__(self, source: Source) -> None:
        import gigatoken

        data, self._digits = _digits_apart(source)
        data, self._size = _all_bytes(source, data)
        self._tokenizer = gigatoken.Tokenizer.from_json(json.dumps(data))

    def encode(self, texts: Sequence[str]) -> Encoded:
        """The ids of all texts, one text after the other, and how many each has."""
        import awkward

        parts: list = list(texts)
        if self._digits:  # many short pieces, which pass faster as bytes
            pieces = [[p.encode() for p in self._digits.split(text) if p] for text in texts]
            parts = [piece for row in pieces for piece in row]
        rows = self._tokenizer.encode_batch(parts)
        ids = awkward.to_numpy(awkward.flatten(rows))
        lengths = awkward.to_numpy(awkward.num(rows)).astype(np.int64)
        if self._digits:
            lengths = _sums(lengths, np.array([len(row) for row in pieces], dtype=np.int64))
        if self._size is not None:
            known = ids < self._size
            ids, lengths = ids[known], _sums(known, lengths)
        return ids, lengths


def _sums(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sums of consecutive stretches of ``values``, int64[len(lengths)]."""
    running = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    return np.diff(running[np.concatenate([[0], np.cumsum(lengths)])])


def _few(texts: Sequence[str]) -> list[Sequence[str]]:
    """``texts`` in parts: encodings of `tokenizers` are heavy objects, so few at a time."""
    return [texts[start : start + 256] for start in range(0, len(texts), 256)]


def _gigatoken(source: Source) -> tuple[Gigatoken | None, str]:
    """The fast engine, or None and the reason."""
    odd = next((token for token in source.data["added_tokens"] if _is_odd(source, token)), None)
    if odd is not None:  # a text may hold it anywhere: no sample would show the difference
        return None, f"gigatoken does not know the flags of the added token {odd['content']!r}"
    try:
        return Gigatoken(source), ""
    except ImportError:
        return None, "gigatoken is not installed"
    except Exception as error:  # its loader raises many kinds for families it does not know
        return (
            None,
            f"gigatoken does not support this tokenizer: {str(error).splitlines()[0][:120]}",
        )


def _is_odd(source: Source, token: dict[str, Any]) -> bool:
    """Whether an added token is found in text by more than its spelling."""
    flags = any(token.get(flag) for flag in MATCHING_FLAGS)
    return flags or bool(token.get("normalized") and source.data.get("normalizer"))


def _digits_apart(source: Source) -> tuple[dict[str, Any], regex.Pattern | None]:
    """SmolLM's pre-tokenizer puts each digit apart, then splits as GPT-2. We do the first,
    gigatoken the second."""
    data = source.data
    steps = (data.get("pre_tokenizer") or {}).get("pretokenizers") or []
    kinds = [step["type"] for step in steps]
    numbered = any(regex.search(r"\p{N}", token["content"]) for token in data["added_tokens"])
    if (
        kinds != ["Digits", "ByteLevel"]
        or not steps[0]["individual_digits"]
        or numbered
        or data.get("normalizer")
    ):
        return data, None
    return data | {"pre_tokenizer": steps[1]}, regex.compile(r"(\p{N})")


def _all_bytes(source: Source, data: dict[str, Any]) -> tuple[dict[str, Any], int | None]:
    """A token for every byte, which gigatoken insists on. `tokenizers` drops bytes that have none
    (SmolLM2 lacks 21); the ids invented for them start at the returned size and are dropped after
    encoding."""
    missing = [letter for letter, byte in byte_letters().items() if byte not in source.byte_ids]
    if not missing or not source.byte_level or source.kind != "BPE":
        return data, None
    vocab = source.model["vocab"] | {
        letter: source.size + index for index, letter in enumerate(missing)
    }
    return data | {"model": source.model | {"vocab": vocab}}, source.size


def _sample(texts: Sequence[str]) -> list[str]:
    """Beginnings and middles of texts spread over the shard, about SAMPLE_BYTES in all."""
    count = min(len(texts), 24)
    size = SAMPLE_BYTES // max(1, 2 * count)
    picked = [texts[index * len(texts) // count] for index in range(count)]
    return [
        text[start : start + size] for text in picked for start in (0, max(size, len(text) // 2))
    ]
