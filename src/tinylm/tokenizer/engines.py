"""Two engines behind one function: texts -> how often each token id is emitted.

`gigatoken` is the fast one; it is used only while its ids equal those of `tokenizers` on a sample of every shard.
Special tokens are not added; their spelling inside a text is recognised, as `tokenizers` does.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinylm.tokenizer.source import Source, byte_letters

SAMPLE_BYTES = 48_000  # of every shard, checked against `tokenizers`
PROBES = (
    " leading and  double   spaces\t\ttabs\r\n\r\nlines \n",
    "naïve café – “quotes” 1234567890 3.14e-10 don't WON'T ’s",
    "简体中文与English混排，标点。日本語テキスト 한국어 العربية עברית हिन्दी ไทย",
    "e\u0301 e\u0301\u0301 \u212b \ufb01 \u2460 \u00a0\u3000\u200b\u200d 👩‍👩‍👧‍👦 🇩🇪 \U0001d54f\x00\x7f",
    "def f(x):\n    return {'a': x**2}  # ok\n\n\n<|endoftext|></s><unk><0x41>▁▁",
)


class Engine:
    """Counts shards of texts for one tokenizer. ``name`` says what ran and, when it had to fall back, why."""

    def __init__(self, source: Source, engine: str = "auto") -> None:
        self.size = source.size
        self.reference = source.fast()
        self.name = "tokenizers"
        self._gigatoken = None
        if engine != "tokenizers":
            self._gigatoken, reason = _load_gigatoken(source)
            self.name = "gigatoken" if self._gigatoken else f"tokenizers ({reason})"
        if self._gigatoken and not self._agrees(PROBES):
            self._fall_back("gigatoken differed on the probe strings")

    def count(self, texts: Sequence[str]) -> np.ndarray:
        """int64[V]: emitted tokens by id."""
        if self._gigatoken and not self._agrees(_sample(texts)):
            self._fall_back("gigatoken differed on a sample of the text")
        if self._gigatoken:
            return self._gigatoken_counts(texts)
        return self._reference_counts(texts)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text by the reference engine."""
        encoded = self.reference.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids, dtype=np.int64) for one in encoded]

    def _reference_counts(self, texts: Sequence[str]) -> np.ndarray:
        counts = np.zeros(self.size, dtype=np.int64)
        for start in range(0, len(texts), 256):  # encodings are heavy objects: few at a time
            ids = self.encode(texts[start : start + 256])
            counts += np.bincount(np.concatenate(ids), minlength=self.size)
        return counts

    def _gigatoken_counts(self, texts: Sequence[str]) -> np.ndarray:
        import awkward

        rows = self._gigatoken.encode_batch([text.encode() for text in texts])  # type: ignore[union-attr]
        return np.bincount(awkward.to_numpy(awkward.flatten(rows)), minlength=self.size)[: self.size]

    def _agrees(self, texts: Sequence[str]) -> bool:
        rows = self._gigatoken.encode_batch([text.encode() for text in texts])  # type: ignore[union-attr]
        found = (np.asarray(row) for row in rows)
        return all(np.array_equal(row[row < self.size], ids) for row, ids in zip(found, self.encode(texts)))

    def _fall_back(self, reason: str) -> None:
        self._gigatoken, self.name = None, f"tokenizers ({reason})"


def _load_gigatoken(source: Source):
    """The fast engine, or None and the reason."""
    try:
        import gigatoken
    except ImportError:
        return None, "gigatoken is not installed"
    try:
        return gigatoken.Tokenizer.from_json(json.dumps(_with_all_bytes(source))), ""
    except Exception as error:  # its loader raises many kinds for families it does not know
        return None, f"gigatoken does not support this tokenizer: {str(error)[:120]}"


def _with_all_bytes(source: Source) -> dict[str, Any]:
    """tokenizer.json with a token for every byte, which gigatoken insists on. `tokenizers` drops bytes that have none
    (SmolLM2 lacks 21); the ids invented for them lie past the end and are dropped after encoding."""
    if not source.byte_level or source.kind != "BPE":
        return source.data
    missing = [letter for letter, byte in byte_letters().items() if byte not in source.byte_ids]
    vocab = source.model["vocab"] | {letter: source.size + index for index, letter in enumerate(missing)}
    return source.data | {"model": source.model | {"vocab": vocab}}


def _sample(texts: Sequence[str]) -> list[str]:
    """Beginnings of texts spread over the shard, about SAMPLE_BYTES in all."""
    count = min(len(texts), 24)
    picked = [texts[index * len(texts) // count] for index in range(count)] if count else []
    return [text[: SAMPLE_BYTES // count] for text in picked]
