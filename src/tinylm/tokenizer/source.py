"""A tokenizer as data: the JSON of a fast tokenizer, its tokens by id, and what kind of model it
holds."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from tinylm.artifact import hash_of, read_json
from tinylm.errors import InputError
from tinylm.models.tokenizer import check_settings

# tokens that tokenizer_config.json may name and tokenizer.json lack
SPECIAL = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "pad", "sep", "cls", "mask"))
KINDS = ("BPE", "Unigram", "WordPiece")


@dataclass(frozen=True)
class Source:
    """A tokenizer read from ``folder``. ``data`` is tokenizer.json as parsed; nothing here changes
    it."""

    folder: Path
    data: dict[str, Any]

    @property
    def model(self) -> dict[str, Any]:
        return self.data["model"]

    @property
    def kind(self) -> str:
        """BPE, Unigram or WordPiece."""
        return self.model["type"]

    @cached_property
    def strings(self) -> dict[int, str]:
        """id -> token as the file spells it, model tokens and added tokens, in the order of the
        ids."""
        vocab = self.model["vocab"]
        tokens = (
            dict(enumerate(piece for piece, _ in vocab))
            if self.kind == "Unigram"
            else invert(vocab)
        )
        tokens.update({token["id"]: token["content"] for token in self.data["added_tokens"]})
        return dict(sorted(tokens.items()))

    @cached_property
    def model_ids(self) -> dict[str, int]:
        """token -> id, the model's own vocabulary only."""
        vocab = self.model["vocab"]
        return {piece: i for i, (piece, _) in enumerate(vocab)} if self.kind == "Unigram" else vocab

    @cached_property
    def ids(self) -> dict[str, int]:
        """token -> id; added tokens win over model tokens of the same spelling."""
        return {token: i for i, token in self.strings.items()}

    @cached_property
    def added(self) -> dict[int, dict[str, Any]]:
        return {token["id"]: token for token in self.data["added_tokens"]}

    @property
    def size(self) -> int:
        """Length of a vector indexed by token id: highest id + 1 (ids may have holes)."""
        return max(self.strings) + 1

    @property
    def byte_level(self) -> bool:
        """True when text becomes the 256 byte letters before the model sees it (GPT-2, Llama-3,
        Qwen)."""
        steps = [*_steps(self.data.get("pre_tokenizer")), *_steps(self.data.get("normalizer"))]
        return any(step["type"] == "ByteLevel" for step in steps)

    @property
    def byte_fallback(self) -> bool:
        """True when characters without a token become ``<0xNN>`` pieces (SentencePiece models)."""
        return bool(self.model.get("byte_fallback"))

    @cached_property
    def byte_ids(self) -> dict[int, int]:
        """byte value -> token id, of the byte letters (byte-level) or of the ``<0xNN>`` pieces."""
        if self.byte_level:
            spelled = {byte: letter for letter, byte in byte_letters().items()}
        else:
            spelled = {byte: f"<0x{byte:02X}>" for byte in range(256)}
        return {
            byte: self.model_ids[token]
            for byte, token in spelled.items()
            if token in self.model_ids
        }

    @cached_property
    def unk_id(self) -> int | None:
        if self.kind == "Unigram":
            return self.model.get("unk_id")
        return self.model_ids.get(self.model.get("unk_token") or "")

    @cached_property
    def hash(self) -> str:
        """Names what decides the ids of a text; file formatting, post-processor and templates do
        not count."""
        parts = {
            key: self.data.get(key)
            for key in ("model", "added_tokens", "normalizer", "pre_tokenizer")
        }
        return hash_of(parts)

    @cached_property
    def fast(self) -> tokenizers.Tokenizer:
        """The tokenizer at work (no truncation, no padding). Built once: up to 2 s for 262k
        tokens."""
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(self.data))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer


def read_source(folder: str | Path) -> Source:
    """The tokenizer of a model directory. Without a (complete) tokenizer.json `transformers`
    converts what is there.

    Raises InputError when there is none, or when it is of a kind whose vocabulary cannot be cut
    exactly.
    """
    folder = Path(folder)
    path = folder / "tokenizer.json"
    data = read_json(path) if path.exists() else _converted(folder)
    if not isinstance(data, dict) or not isinstance(data.get("model"), dict):
        raise InputError(f"{path} is no tokenizer file: it has no model")
    data["added_tokens"] = data.get("added_tokens") or []
    _require_tokens(path, data)
    if _unknown_added(folder, data):
        data = _converted(folder)
    data["model"].setdefault("type", _guess_kind(data["model"]))
    _require_known(folder, data["model"])
    source = Source(folder, data)
    try:
        source.fast  # noqa: B018 - builds it
    except Exception as error:  # the tokenizers library raises bare Exception
        raise InputError(f"{path} is not a usable tokenizer: {error}") from error
    return source


def byte_letters() -> dict[str, int]:
    """The letter that byte-level tokenizers write for each byte (GPT-2's table): printable bytes
    stay themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    letters.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return letters


def invert(vocab: dict[str, int]) -> dict[int, str]:
    return {i: token for token, i in vocab.items()}


def _steps(part: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The leaf steps of a normalizer or pre-tokenizer that may be a (nested) Sequence."""
    if part is None:
        return
    if part.get("type") == "Sequence":
        for step in part.get("pretokenizers") or part.get("normalizers") or []:
            yield from _steps(step)
    else:
        yield part


def _guess_kind(model: dict[str, Any]) -> str:
    return (
        "BPE"
        if "merges" in model
        else "Unigram"
        if isinstance(model.get("vocab"), list)
        else "WordPiece"
    )


def _require_tokens(path: Path, data: dict[str, Any]) -> None:
    """InputError where tokens are not written as tokens are."""
    added, vocab = data["added_tokens"], data["model"].get("vocab")
    good = isinstance(added, list) and all(
        isinstance(token, dict)
        and isinstance(token.get("content"), str)
        and type(token.get("id")) is int
        for token in added
    )
    if not good:
        raise InputError(f"{path} is no tokenizer file: added_tokens must name a content and an id")
    if isinstance(vocab, dict):
        good = all(type(i) is int and i >= 0 for i in vocab.values())
    else:
        good = isinstance(vocab, list) and all(
            isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)
            for entry in vocab
        )
    if not good or not vocab:
        raise InputError(f"{path} is no tokenizer file: its model has no vocabulary")


def _require_known(folder: Path, model: dict[str, Any]) -> None:
    if model["type"] not in KINDS:
        raise InputError(
            f"tokenizer of {folder} is of type {model['type']}: only {', '.join(KINDS)}"
            " vocabularies can be cut"
        )
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model["type"] == "BPE" and model.get(key):
            raise InputError(
                f"tokenizer of {folder} is a BPE with {key} {model[key]!r}: that variant is not"
                " supported"
            )
    if model.get("dropout"):
        raise InputError(
            f"tokenizer of {folder} uses BPE dropout: its output is random, so nothing can be"
            " certified"
        )


def _unknown_added(folder: Path, data: dict[str, Any]) -> bool:
    """True when tokenizer_config.json adds tokens that tokenizer.json does not hold (older
    repositories)."""
    settings = check_settings(folder)
    known = {token["content"] for token in data["added_tokens"]}
    decoder = (settings.get("added_tokens_decoder") or {}).values()
    named = [value for key, value in settings.items() if key in SPECIAL]
    vocab = data["model"]["vocab"]
    pieces = vocab if isinstance(vocab, dict) else {piece for piece, _ in vocab}
    if any(one.get("content") not in known for one in decoder if isinstance(one, dict)):
        return True
    spelled = (one.get("content") if isinstance(one, dict) else one for one in named if one)
    return any(content not in known and content not in pieces for content in spelled)


def _converted(folder: Path) -> dict[str, Any]:
    from transformers import AutoTokenizer

    from tinylm.terminal import quiet_transformers

    quiet_transformers()
    try:
        return json.loads(AutoTokenizer.from_pretrained(folder).backend_tokenizer.to_str())
    # transformers raises many kinds for a folder without a usable tokenizer
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise InputError(
            f"{folder} holds no tokenizer.json and no tokenizer that converts to one ({reason})"
        ) from error
