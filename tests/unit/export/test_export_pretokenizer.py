"""llama.cpp's name for the rules that split text."""

import json

import pytest
from tokenizers import Regex, pre_tokenizers

from tinylm.errors import InputError
from tinylm.export.pretokenizer import name_for

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def definition(pre_tokenizer, **model):
    return {"pre_tokenizer": json.loads(pre_tokenizer.__getstate__()), "model": model}


def split(pattern):
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def digits(individual):
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=individual),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )


@pytest.mark.parametrize(
    ("rules", "ignore_merges", "name"),
    [
        (pre_tokenizers.ByteLevel(add_prefix_space=False), False, "gpt-2"),
        (digits(True), False, "smollm"),
        (split(LLAMA3), True, "llama-bpe"),
        (split(LLAMA3), False, "dbrx"),
        (split(LLAMA3.replace("{1,3}", "")), False, "qwen2"),
    ],
)
def test_rules_are_recognised_whatever_the_vocabulary(rules, ignore_merges, name, tmp_path):
    assert name_for(definition(rules, ignore_merges=ignore_merges), tmp_path) == name


@pytest.mark.parametrize(
    "rules",
    [
        digits(False),
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        split(r"\w+"),
        pre_tokenizers.Whitespace(),
    ],
)
def test_unknown_rules_are_a_clear_error(rules, tmp_path):
    with pytest.raises(InputError, match="--pre-tokenizer NAME"):
        name_for(definition(rules), tmp_path)


def test_the_parents_name_comes_before_the_rules_and_an_override_before_both(tmp_path):
    (tmp_path / "tinylm.json").write_text('{"pre_tokenizer": "refact"}')
    rules = definition(digits(True))
    assert name_for(rules, tmp_path) == "refact"
    assert name_for(rules, tmp_path, "smollm") == "smollm"


def test_a_parent_that_did_not_know_does_not_hide_the_rules(tmp_path):
    (tmp_path / "tinylm.json").write_text('{"pre_tokenizer": "default"}')
    assert name_for(definition(digits(True)), tmp_path) == "smollm"
