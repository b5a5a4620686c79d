"""Which of llama.cpp's named pre-tokenizers splits text as a `tokenizer.json` does.

llama.cpp does not read the splitting rules of a BPE tokenizer: it knows a list of names. Its own
converter finds the name by hashing the token ids of a test text, which a pruned vocabulary can
never match. The rules themselves survive pruning, so the name is found from them here (or carried
in `tinylm.json` from the parent). A wrong name loads silently and is wrong only on digits and runs
of spaces; `check.py` compares on such text.
"""

import json
from pathlib import Path
from typing import Any

from tinylm.artifact import optional_json
from tinylm.errors import InputError

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_CL100K = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_TAIL}"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_TAIL}"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_O200K = (
    "|".join(
        rf"[^\r\n\p{{L}}\p{{N}}]?{word}{_CONTRACTIONS}?"
        for word in (f"{_UPPER}*{_LOWER}+", f"{_UPPER}+{_LOWER}*")
    )
    + rf"|\p{{N}}{{1,3}}|{_CASED_TAIL}"
)
_TEKKEN = (
    "|".join(
        rf"[^\r\n\p{{L}}\p{{N}}]?{word}" for word in (f"{_UPPER}*{_LOWER}+", f"{_UPPER}+{_LOWER}*")
    )
    + rf"|\p{{N}}|{_CASED_TAIL}"
)

_GPT2 = ("bytes-gpt2",)
_DIGITS = ("digits",)
# The steps of a pre-tokenizer, and whether a whole word found in the vocabulary skips the merges ->
# llama.cpp's name.
_NAMES: dict[tuple[tuple[str, ...], bool], str] = {
    (_GPT2, False): "gpt-2",
    # SmolLM2; the same rules as StarCoder's and Granite's ("refact")
    (_DIGITS + _GPT2, False): "smollm",
    ((_CL100K, "bytes"), True): "llama-bpe",  # Llama 3, SmolLM3
    ((_CL100K, "bytes"), False): "dbrx",  # OLMo 2
    ((_QWEN2, "bytes"), False): "qwen2",  # Qwen 2, 2.5 and 3
    ((_O200K, "bytes"), False): "gpt-4o",
    ((_TEKKEN, "bytes"), True): "tekken",  # Mistral NeMo and later
    ((_TEKKEN, "bytes"), False): "tekken",
}


def name_for(tokenizer_json: dict[str, Any], model_dir: Path, override: str | None = None) -> str:
    """llama.cpp's name of the pre-tokenizer: ``override``, else the parent's (`tinylm.json`), else
    from the rules.

    Raises InputError when the rules match no known name.
    """
    if override:
        return override
    carried = optional_json(Path(model_dir) / "tinylm.json").get("pre_tokenizer")
    if carried and carried != "default":
        return carried
    steps = _steps(tokenizer_json.get("pre_tokenizer"))
    name = _NAMES.get((steps, bool(tokenizer_json["model"].get("ignore_merges"))))
    if name is None:
        raise InputError(
            f"{model_dir}: llama.cpp has no pre-tokenizer known to split text by"
            f" {' then '.join(steps) or 'nothing'}; if you know its name there, give"
            " --pre-tokenizer NAME (the check then compares the tokens)"
        )
    return name


def _steps(node: dict[str, Any] | None) -> tuple[str, ...]:
    """The pre-tokenizer as a flat tuple of what each step does; order kept."""
    if node is None:
        return ()
    if node["type"] == "Sequence":
        return tuple(step for child in node["pretokenizers"] for step in _steps(child))
    if node["type"] == "Digits" and node.get("individual_digits"):
        return _DIGITS
    if node["type"] == "ByteLevel" and not node.get("add_prefix_space"):
        return _GPT2 if node.get("use_regex", True) else ("bytes",)
    if node["type"] == "Split" and node.get("behavior") == "Isolated" and not node.get("invert"):
        pattern = node["pattern"]
        return (pattern.get("Regex") or repr(pattern.get("String")),)
    return (json.dumps(node, sort_keys=True),)
