"""Two engines behind one function: texts -> how often each token id is emitted.

`gigatoken` is the fast one; it is used only while its ids equal those of `tokenizers` on a sample
of every shard. Special tokens are not added; their spelling inside a text is recognised, as
`tokenizers` does.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import regex

from tinylm.models.tokenizer import MATCHING_FLAGS
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
    """Counts shards of texts for one tokenizer. ``name`` says what ran and, when it had to fall
    back, why."""

    def __init__(self, source: Source, fast: bool = True) -> None:
        self.source = source
        self.name = "tokenizers"
        self._fast = None
        if fast:
            self._fast, reason = _gigatoken(source)
            self.name = "gigatoken" if self._fast else f"tokenizers ({reason})"
        self._check(PROBES, "the probe strings")

    def count(self, texts: Sequence[str]) -> np.ndarray:
        """int64[V]: emitted tokens by id."""
        self._check(_sample(texts), "a sample of the text")
        if self._fast:
            return np.bincount(self._fast.ids(texts), minlength=self.source.size)
        counts = np.zeros(self.source.size, dtype=np.int64)
        for start in range(0, len(texts), 256):  # encodings are heavy objects: few at a time
            counts += np.bincount(
                self._reference_ids(texts[start : start + 256]), minlength=self.source.size
            )
        return counts

    def _reference_ids(self, texts: Sequence[str]) -> np.ndarray:
        """int64: the ids of all texts by `tokenizers`, one text after the other."""
        encoded = self.source.fast.encode_batch_fast(list(texts), add_special_tokens=False)
        return np.concatenate(
            [np.zeros(0, dtype=np.int64), *[np.array(one.ids, dtype=np.int64) for one in encoded]]
        )

    def _check(self, texts: Sequence[str], where: str) -> None:
        """Leave the fast engine for good when its ids are not those of `tokenizers`."""
        if self._fast and not np.array_equal(self._fast.ids(texts), self._reference_ids(texts)):
            self._fast, self.name = None, f"tokenizers (gigatoken differed on {where})"


class Gigatoken:
    """The PyPI package `gigatoken`, with two families added that it does not load by itself."""

    def __init__(self, source: Source) -> None:
        import gigatoken

        data, self._digits = _digits_apart(source)
        data, self._size = _all_bytes(source, data)
        self._tokenizer = gigatoken.Tokenizer.from_json(json.dumps(data))

    def ids(self, texts: Sequence[str]) -> np.ndarray:
        """The ids of all texts, one text after the other."""
        import awkward

        parts: list = list(texts)
        if self._digits:  # many short pieces, which pass faster as bytes
            parts = [
                piece.encode() for text in texts for piece in self._digits.split(text) if piece
            ]
        ids = awkward.to_numpy(awkward.flatten(self._tokenizer.encode_batch(parts)))
        return ids if self._size is None else ids[ids < self._size]


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
