"""llama.cpp's name for a pre-tokenizer, which a GGUF file must carry and tokenizer.json does not hold."""

import json

from tinylm.tokenizer.source import Source

# A fragment of the split pattern that only this family uses, longest rule first.
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_FRAGMENTS = (
    (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+", "gpt-4o"),
    (_LETTERS + r"|\p{N}{1,3}|", "llama-bpe"),
    (_LETTERS + r"|\p{N}|", "qwen2"),
)


def pretokenizer_name(source: Source) -> str | None:
    """The name llama.cpp knows, or None: SentencePiece models need none, others we do not know."""
    if not source.byte_level:
        return None
    steps = source.data["pre_tokenizer"]
    steps = steps["pretokenizers"] if steps["type"] == "Sequence" else [steps]
    patterns = [step["pattern"].get("Regex", "") for step in steps if step["type"] == "Split"]
    for fragment, name in _FRAGMENTS:
        if any(fragment in pattern for pattern in patterns):
            return name
    kinds = [json.dumps({key: step.get(key) for key in ("type", "individual_digits", "use_regex")}) for step in steps]
    if patterns or not steps[-1].get("use_regex", True):
        return None
    if len(steps) == 1:
        return "gpt-2"
    return "smollm" if '"Digits"' in kinds[0] and steps[0].get("individual_digits") and len(steps) == 2 else None
