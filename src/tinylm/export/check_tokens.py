"""Does another runtime split text as the tokenizer does, and end it at the same tokens?"""

import json
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from tinylm.errors import WorkError
from tinylm.export import hard_text
from tinylm.export.llamacpp import Llama
from tinylm.models.generate import stops_of
from tinylm.models.tokenizer import MATCHING_FLAGS

ADDED = 64  # added tokens looked at, from either end of their list
UNMADE = 512  # pieces looked at that no merge makes


def compare_tokens(
    llama: Llama | Any, tokenizer: Any, texts: Sequence[str] | None = None
) -> dict[str, Any]:
    """llama.cpp's token ids of hard text against the tokenizer's. Returns {"texts", "ids",
    "known_differences"}."""
    prepare, known = _comparable(tokenizer)
    texts = hard_text.TEXTS + hard_text.random_texts(300) if texts is None else texts
    rows = getattr(llama, "vocab_size", len(tokenizer))
    added = [token.content for i, token in tokenizer.added_tokens_decoder.items() if i < rows]
    written = [
        text
        for token in [*added[:ADDED], *added[-ADDED:]]
        for text in (token, f"one{token}two", f"{token}\n{token}", f"one {token} two")
    ] + _unmade(tokenizer)
    if _prepends_once(tokenizer):
        known.append("llama.cpp puts a space after a special token too: not compared there")
        written = []
    count = 0
    for text in [prepare(text) for text in [*texts, *written]]:
        ours, theirs = tokenizer(text, add_special_tokens=False)["input_ids"], llama.tokenize(text)
        if ours != theirs:
            at = next(
                (i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b),
                min(len(ours), len(theirs)),
            )
            raise WorkError(
                f"{llama.runtime} tokenizes {text!r:.80} differently from token {at} on:"
                f" {tokenizer.convert_ids_to_tokens(theirs[at : at + 4])} instead of"
                f" {tokenizer.convert_ids_to_tokens(ours[at : at + 4])} ({_why(tokenizer, text)})"
            )
        count += len(ours)
    ours, theirs = tokenizer("a b")["input_ids"], llama.tokenize("a b", add_special=True)
    if ours != theirs:
        raise WorkError(
            f"{llama.runtime} puts other special tokens around a text: {theirs} instead of {ours}"
        )
    return {"texts": len(texts) + len(written), "ids": count, "known_differences": known}


def compare_ends(llama: Llama, model_dir: Path, tokenizer: Any) -> list[str]:
    """The tokens that end a text there and here. WorkError where llama.cpp runs on, or ends at a
    token of ordinary text; ends that it knows beyond the model's are told."""
    theirs = {i for i in range(llama.vocab_size) if llama.is_end(i)}
    ours = {i for i in stops_of(model_dir, tokenizer) if i < llama.vocab_size}
    silent = set(tokenizer.added_tokens_decoder) | set(range(len(tokenizer), llama.vocab_size))
    for wrong, what in (
        (ours - theirs, "does not end a text at"),
        (theirs - ours - silent, "ends a text at"),
    ):
        if wrong:
            token = tokenizer.convert_ids_to_tokens(min(wrong))
            raise WorkError(
                f"{llama.runtime} {what} {token!r} (id {min(wrong)}), the model's files"
                " say otherwise (eos_token_id in generation_config.json)"
            )
    extra = [tokenizer.convert_ids_to_tokens(i) for i in sorted(theirs - ours)]
    return [f"{llama.runtime} also ends a text at {', '.join(map(str, extra))}"] if extra else []


def _comparable(tokenizer: Any) -> tuple[Callable[[str], str], list[str]]:
    """What to do to a text before llama.cpp can be expected to agree, and how to say it."""
    backend = tokenizer.backend_tokenizer
    if type(backend.normalizer).__name__ in ("NFC", "NFKC", "NFD", "NFKD"):
        form = type(backend.normalizer).__name__
        return backend.normalizer.normalize_str, [
            f"llama.cpp does not bring text to {form}: compared on text in {form}"
        ]
    if (
        type(backend.pre_tokenizer).__name__ == "Metaspace"
        and backend.pre_tokenizer.prepend_scheme != "never"
    ):
        known = (
            "llama.cpp puts a space even before a text that begins with one: compared on text that"
            " does not"
        )
        return lambda text: text.lstrip(" "), [known]
    return lambda text: text, []


def _why(tokenizer: Any, text: str) -> str:
    """The likeliest reason why another runtime splits ``text`` otherwise."""
    for token in tokenizer.added_tokens_decoder.values():
        flags = [flag for flag in MATCHING_FLAGS if getattr(token, flag)]
        if flags and token.content in text:
            return f"it does not know the {' and '.join(flags)} of {token.content!r}"
    return "a wrong pre-tokenizer? see --pre-tokenizer"


def _unmade(tokenizer: Any) -> list[str]:
    """Texts of pieces that are in the vocabulary and that no merge makes: `tokenizers` never gives
    them, and llama.cpp may."""
    backend = tokenizer.backend_tokenizer
    model = json.loads(backend.to_str())["model"]
    made = {
        merge.replace(" ", "", 1) if isinstance(merge, str) else "".join(merge)
        for merge in model.get("merges") or []
    }
    added = set(tokenizer.get_added_vocab())
    pieces = (
        (i, piece)
        for piece, i in model["vocab"].items()
        if len(piece) > 1 and piece not in made and piece not in added
    )
    texts = (tokenizer.decode([i]) for i, piece in pieces if not piece.startswith("<0x"))
    return [text for text in islice(texts, UNMADE) if text and "\ufffd" not in text]


def _prepends_once(tokenizer: Any) -> bool:
    return getattr(tokenizer.backend_tokenizer.pre_tokenizer, "prepend_scheme", None) == "first"
