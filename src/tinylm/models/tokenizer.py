"""Loading a tokenizer so that it splits text by the rules of its own tokenizer.json."""

from pathlib import Path
from typing import Any

from tinylm.artifact import optional_json, read_json, write_json
from tinylm.errors import InputError

# Digits, runs of white space, indentation, contractions, other scripts: where rules for splitting
# text differ.
PROBE = (
    "\n\n1984  2\t\t33 \n    return 10**2;  it's ’n’ naïve CamelCase... 東京は日本 "
    " Привет\u00a0end "
)
# by which an added token is found in text otherwise than by its spelling alone
MATCHING_FLAGS = ("lstrip", "rstrip", "single_word")


def check_settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json as it stands, {} without one. InputError for a value of a kind that
    fails later, where nothing names it."""
    path = folder / "tokenizer_config.json"
    settings = optional_json(path)
    for key, value in settings.items():
        if key == "model_max_length":
            good, wanted = isinstance(value, (int, float)), "a number"
        elif key == "added_tokens_decoder":
            good, wanted = isinstance(value, dict), "an object"
        elif key == "chat_template":
            good, wanted = isinstance(value, (str, list, dict)), "a text"
            good = good and all(isinstance(one, dict) for one in value if isinstance(value, list))
        elif key.endswith("_token") and not key.startswith("add_"):
            good, wanted = isinstance(value, (str, dict)), "a text"
        else:
            continue
        if value is not None and not good:
            raise InputError(f"{path}: {key} = {value!r} must be {wanted}")
    return settings


def load_fast(folder: str | Path) -> Any:
    """The fast tokenizer in ``folder``.

    Some classes of transformers 5 build the rules anew instead of reading them: a hub SmolLM2,
    whose class is GPT2Tokenizer, would lose the rule that every digit stands alone. Such a one is
    loaded by the generic class.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = AutoTokenizer.from_pretrained(folder)
    # which reads the file as it is: nothing to compare
    generic = type(tokenizer) is PreTrainedTokenizerFast
    if generic or follows_its_file(tokenizer, folder):
        return tokenizer
    return PreTrainedTokenizerFast.from_pretrained(folder)


def prompt_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text that is to go on: what the tokenizer puts before it and not what it puts
    behind (</s>); one BOS where the text begins with its own."""
    plain = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if plain and plain[0] == tokenizer.bos_token_id:
        return plain
    ids = list(tokenizer(text)["input_ids"])
    return ids[: len(ids) - tokens_behind(tokenizer)]


def start_ids(tokenizer: Any) -> list[int]:
    """The BOS token of models that want one before every text: without it they predict badly."""
    ids = prompt_ids(tokenizer, "")
    return ids if ids == [tokenizer.bos_token_id] else []


def tokens_behind(tokenizer: Any) -> int:
    """How many tokens the tokenizer puts behind every text."""
    ids = list(tokenizer("a")["input_ids"])
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    places = range(len(ids) - len(plain) + 1)
    start = next((at for at in places if ids[at : at + len(plain)] == plain), len(ids) - len(plain))
    return len(ids) - start - len(plain)


def settle_class(folder: Path) -> None:
    """Name the generic class in the tokenizer_config.json of ``folder`` where its own would split
    text otherwise, so that plain `transformers` loads it rightly."""
    from transformers import AutoTokenizer

    if not follows_its_file(AutoTokenizer.from_pretrained(folder), folder):
        settings = read_json(folder / "tokenizer_config.json")
        write_json(
            folder / "tokenizer_config.json",
            settings | {"tokenizer_class": "PreTrainedTokenizerFast"},
        )


def follows_its_file(tokenizer: Any, folder: str | Path) -> bool:
    """Whether ``tokenizer`` gives the tokens of the tokenizer.json in ``folder`` (True when there
    is none)."""
    from tokenizers import Tokenizer

    file = Path(folder) / "tokenizer.json"
    if not file.exists():
        return True
    filed = Tokenizer.from_file(str(file))
    filed.no_truncation()
    filed.no_padding()
    return all(
        filed.encode(text, add_special_tokens=False).ids
        == tokenizer.encode(text, add_special_tokens=False)
        for text in (PROBE, " " + PROBE)
    )
