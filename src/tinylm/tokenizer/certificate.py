"""The certificate: everything that must hold of a compact tokenizer and model, checked on the files
as written."""

import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylm.corpus.document import Document
from tinylm.tokenizer.choose import chat_templates
from tinylm.tokenizer.count import Counts
from tinylm.tokenizer.fuzz import unicode_strings
from tinylm.tokenizer.heldout import growth_by_source
from tinylm.tokenizer.remap import Expansion
from tinylm.tokenizer.source import Source

if TYPE_CHECKING:
    from tinylm.tokenizer.choose import Cut

FUZZ_STRINGS = 10_000
# of the corpus, searched for distinct words: minutes, and some GB for the words
WORD_BYTES = 1_000_000_000
STALE = ("vocab.json", "merges.txt", "added_tokens.json", "vocab.txt", "spiece.model")
WORD = re.compile(r"\s*\S+|\s+")


def line(check: str, passed: bool, found: str) -> dict[str, Any]:
    """One line of the certificate."""
    return {"check": check, "passed": bool(passed), "found": found}


def check_tokenizer(
    parent: Source, child: Source, kept: np.ndarray, texts: Iterable[Document] | None
) -> list[dict[str, Any]]:
    """All lines about the tokenizer ``child``, as read back from disk."""
    folder = child.folder
    mapping = {int(old): new for new, old in enumerate(kept)}
    words = list(distinct_words(texts)) if texts is not None else []
    fuzz = unicode_strings(FUZZ_STRINGS, parent)
    return [
        _check_ids(parent, child, mapping),
        _check_special(parent, child, mapping),
        _check_post_processor(parent, child, mapping),
        _check_chat_template(parent, child, mapping),
        _check_reachable(parent, child, mapping),
        _check_lost_text(parent, child, fuzz),
        (
            _check_same_ids("words of the corpus", parent, child, mapping, words)
            if texts is not None
            else line(
                "same ids: words of the corpus",
                True,
                "NOT CHECKED: the counted corpus is not where it was",
            )
        ),
        _check_same_ids(
            "fuzz and token strings", parent, child, mapping, fuzz + _spellings(parent)
        ),
        _check_stale(parent, folder),
        _check_transformers(parent, child, mapping, fuzz[:500]),
        *_check_sentencepiece(parent, child, fuzz),
    ]


def distinct_words(texts: Iterable[Document]) -> Iterator[str]:
    """Distinct words with the white space before them, of the first WORD_BYTES of text."""
    seen: set[str] = set()
    size = 0
    for document in texts:
        encoded = document.text.encode("utf-8", "replace")
        seen.update(WORD.findall(encoded.decode()))
        size += len(encoded)
        if size > WORD_BYTES:
            break
    return iter(sorted(seen))


def _check_ids(parent: Source, child: Source, mapping: dict[int, int]) -> dict[str, Any]:
    fast, expected = child.fast, {parent.strings[old]: new for old, new in mapping.items()}
    loaded = fast.get_vocab(with_added_tokens=True)
    wrong = [token for token, new in expected.items() if loaded.get(token) != new]
    extra = len(loaded) - len(expected)
    return line(
        "token ids",
        not wrong and not extra,
        f"{len(expected):,} tokens, {len(wrong)} wrong, {extra} extra",
    )


def _check_special(parent: Source, child: Source, mapping: dict[int, int]) -> dict[str, Any]:
    """Added tokens keep their flags, and are found in the middle of text where they were before."""
    wrong = []
    for old, token in parent.added.items():
        if old not in mapping:
            continue
        new = child.added.get(mapping[old], {})
        text = f"a{token['content']}b"
        before, after = (
            one.fast.encode(text, add_special_tokens=False).ids for one in (parent, child)
        )
        found = (old in before) == (mapping[old] in after)
        if {**new, "id": old} != token or not found:
            wrong.append(token["content"])
    kept = sum(old in mapping for old in parent.added)
    return line(
        "added and special tokens",
        not wrong,
        f"{kept} of {len(parent.added)} kept, {len(wrong)} wrong {wrong[:3]}",
    )


def _check_post_processor(parent: Source, child: Source, mapping: dict[int, int]) -> dict[str, Any]:
    """What is put around a text and around a pair of texts is the same, up to the map."""
    word = _kept_words(parent, mapping, 2)
    old_fast, new_fast = parent.fast, child.fast
    wrong = 0
    for texts in ((word[0],), (word[0], word[1])):
        old, new = old_fast.encode(*texts).ids, new_fast.encode(*texts).ids
        wrong += [mapping.get(i) for i in old] != new
    return line("post-processor", not wrong, f"{wrong} of 2 templates differ")


def _check_chat_template(parent: Source, child: Source, mapping: dict[int, int]) -> dict[str, Any]:
    templates = chat_templates(parent.folder)
    if not templates:
        return line("chat template", True, "none")
    if chat_templates(child.folder) != templates:
        return line("chat template", False, "the template itself changed")
    from tinylm.tokenizer.chat import render

    words = _kept_words(parent, mapping, 3)
    old_fast, new_fast = parent.fast, child.fast
    wrong = shown = 0
    for template in templates:
        text = render(template, parent.folder, words)
        if text is None:
            continue
        shown += 1
        old = old_fast.encode(text, add_special_tokens=False).ids
        new = new_fast.encode(text, add_special_tokens=False).ids
        mapped = [mapping.get(i) for i in old]
        same = mapped == new if None not in mapped else old_fast.decode(old) == new_fast.decode(new)
        wrong += not same
    unseen = "" if shown == len(templates) else "; the text of the others was compared"
    return line(
        "chat template", not wrong, f"{shown} of {len(templates)} rendered, {wrong} differ{unseen}"
    )


def _check_reachable(parent: Source, child: Source, mapping: dict[int, int]) -> dict[str, Any]:
    """Tokens that the parent's model can produce and the child's cannot (merges alone, then as
    whole pre-tokens)."""
    models = (parent.fast.model, child.fast.model)
    lost = _unreachable(parent, mapping, *models)
    if parent.model.get("ignore_merges"):
        for model in models:
            model.ignore_merges = False
        lost += _unreachable(parent, mapping, *models)
        for model in models:
            model.ignore_merges = True
    return line("newly unreachable tokens", lost == 0, str(lost))


def _unreachable(parent: Source, mapping: dict[int, int], old_model, new_model) -> int:
    lost = 0
    for token, old in parent.model_ids.items():
        if old in mapping and [one.id for one in old_model.tokenize(token)] == [old]:
            lost += [one.id for one in new_model.tokenize(token)] != [mapping[old]]
    return lost


def _check_lost_text(parent: Source, child: Source, fuzz: list[str]) -> dict[str, Any]:
    """Text that the parent gives back must come back from the child as well."""
    old_fast, new_fast = parent.fast, child.fast
    old = old_fast.encode_batch(fuzz, add_special_tokens=False)
    new = new_fast.encode_batch(fuzz, add_special_tokens=False)
    before = old_fast.decode_batch([one.ids for one in old], skip_special_tokens=False)
    after = new_fast.decode_batch([one.ids for one in new], skip_special_tokens=False)
    unknown = [
        (_times(one.ids, parent.unk_id), _times(two.ids, child.unk_id))
        for one, two in zip(old, new)
    ]
    lost = sum(
        text != again or one < two for text, again, (one, two) in zip(before, after, unknown)
    )
    return line("lost text", lost == 0, f"{lost} of {len(fuzz):,} fuzzed strings")


def _times(ids: list[int], token: int | None) -> int:
    return 0 if token is None else ids.count(token)


def _check_same_ids(
    name: str, parent: Source, child: Source, mapping: dict[int, int], strings: list[str]
):
    """Strings whose old tokens are all kept must get exactly the mapped ids."""
    old_fast, new_fast = parent.fast, child.fast
    table = np.full(parent.size, -1, dtype=np.int64)
    table[list(mapping)] = list(mapping.values())
    checked = differ = 0
    for start in range(0, len(strings), 20_000):
        batch = strings[start : start + 20_000]
        old = old_fast.encode_batch_fast(batch, add_special_tokens=False)
        new = new_fast.encode_batch_fast(batch, add_special_tokens=False)
        for before, after in zip(old, new):
            mapped = table[before.ids] if before.ids else np.zeros(0, dtype=np.int64)
            if (mapped >= 0).all():
                checked += 1
                differ += mapped.tolist() != after.ids
    passed = differ == 0 and (checked > 0 or not strings)
    return line(
        f"same ids: {name}",
        passed,
        f"{differ} differ of {checked:,} kept-only ({len(strings):,} in all)",
    )


def _check_stale(parent: Source, folder: Path) -> dict[str, Any]:
    left = [name for name in STALE if (folder / name).exists()]
    return line("no stale vocabulary files", not left, ", ".join(left) or "none left")


def _check_transformers(
    parent: Source, child: Source, mapping: dict[int, int], strings: list[str]
) -> dict[str, Any]:
    """`transformers` loads the directory and gives the ids of tokenizer.json; bos, eos, pad, unk
    and what is put around a text are those of the parent."""
    from transformers import AutoTokenizer

    loaded, fast = AutoTokenizer.from_pretrained(child.folder), child.fast
    wrong = sum(
        loaded(text, add_special_tokens=False)["input_ids"]
        != fast.encode(text, add_special_tokens=False).ids
        for text in strings
    )
    named = _named_tokens(loaded)
    strange = {
        key
        for key, token in named.items()
        if child.ids.get(token) != loaded.convert_tokens_to_ids(token)
    }
    # transformers may not read a bare tokenizer.model
    if (parent.folder / "tokenizer.json").exists():
        before = AutoTokenizer.from_pretrained(parent.folder)
        kept = {
            key: token
            for key, token in _named_tokens(before).items()
            if parent.ids.get(token) in mapping
        }
        strange |= {key for key in kept.keys() | named.keys() if named.get(key) != kept.get(key)}
        for word in _kept_words(parent, mapping, 2):
            if [mapping.get(i) for i in before(word)["input_ids"]] != loaded(word)["input_ids"]:
                strange.add(f"around {word!r}")
    passed = not wrong and not strange and len(loaded) == len(child.strings)
    return line(
        "loads in transformers",
        passed,
        f"{len(loaded):,} tokens, {wrong} texts differ, wrong: {sorted(strange)}",
    )


def _named_tokens(tokenizer: Any) -> dict[str, str]:
    return {
        key: token for key, token in tokenizer.special_tokens_map.items() if isinstance(token, str)
    }


def _check_sentencepiece(parent: Source, child: Source, strings: list[str]) -> list[dict[str, Any]]:
    if not (child.folder / "tokenizer.model").exists():
        return []
    from tinylm.tokenizer.sentencepiece import differences

    return [line("tokenizer.model", *differences(parent, child, strings[:3000]))]


def summary(
    cut: "Cut", counts: Counts, child: Source, lines: list[Any], held_out: Iterable[Document] | None
) -> dict[str, Any]:
    """certificate.json: the lines and the figures of the choice."""
    size = len(cut.kept)
    row = cut.ranking.curve([size])[0]
    growth = Expansion.load(child.folder).growth(counts.counts)
    expected = growth if cut.ranking.new_growth is None else row["expected_growth"]
    reachable = next(one for one in lines if one["check"] == "newly unreachable tokens")
    result = {
        "passed": all(one["passed"] for one in lines),
        "vocab_size": size,
        "parent_vocab_size": len(cut.source.strings),
        "forced": cut.ranking.forced,
        "unreachable": int(reachable["found"]),
        "coverage": row["coverage"],
        "growth_counted": growth,
        "growth_predicted": expected,
        "tokens_per_byte_before": counts.tokens_per_byte,
        "tokens_per_byte_predicted": counts.tokens_per_byte * expected,
        "counted": {"bytes": counts.bytes, "documents": counts.documents, "tokens": counts.tokens},
        "lines": lines,
    }
    if held_out is not None:
        result["held_out"] = growth_by_source(cut.source, child, held_out)
    return result


def _spellings(parent: Source) -> list[str]:
    """The text of every token that is text by itself."""
    spelled = parent.fast.decode_batch([[i] for i in parent.strings], skip_special_tokens=False)
    return [text for text in spelled if text]


def _kept_words(parent: Source, mapping: dict[int, int], number: int) -> list[str]:
    """Short texts made of kept tokens only."""
    fast = parent.fast
    candidates = ["hello", "a", "b", "c", "e", "1", "the", "x", "0"]
    drawn = random.Random(0).sample(sorted(parent.strings.values()), min(500, len(parent.strings)))
    found = []
    for text in candidates + drawn:
        ids = fast.encode(text, add_special_tokens=False).ids
        if ids and all(i in mapping and i != parent.unk_id and i not in parent.added for i in ids):
            found.append(text)
        if len(found) == number:
            return found
    return [*found, *[""] * number][:number]
