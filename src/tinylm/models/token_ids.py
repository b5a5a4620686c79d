"""Token ids in a model's settings, and the one old -> new map that a smaller vocabulary takes them
all through."""

from collections.abc import Iterator, Mapping
from typing import Any

IdMap = Mapping[int, int]  # old id -> new id

ID_SUFFIXES = ("_token_id", "_token_ids", "_token_index", "_token_indices")

# ids that must not come out: removed ones cannot
SUPPRESSED = ("suppress_tokens", "begin_suppress_tokens")

ID_LISTS = ("bad_words_ids", "force_words_ids")  # lists of lists of ids


def cut_config(config: Any, mapping: IdMap, rows: int) -> Any:
    """A config (or generation config) with every token id mapped, at any depth, and ``rows``, the
    old number of embedding rows, replaced by the new one wherever it stands as a vocab_size.

    Ids of removed tokens are dropped from lists and become None where a single id stood.
    """
    if not isinstance(config, dict):
        return config
    result = {}
    for key, value in config.items():
        if is_id_key(key):
            result[key] = _mapped(value, mapping)
        elif key == "vocab_size" and value == rows:
            result[key] = len(mapping)
        elif key in ID_LISTS and value:
            result[key] = [
                [mapping[i] for i in word] for word in value if all(i in mapping for i in word)
            ] or None
        elif key == "forced_decoder_ids" and value:
            result[key] = [
                [position, mapping.get(i) if i is not None else None] for position, i in value
            ]
        elif key == "sequence_bias" and value:
            result[key] = [
                [[mapping[i] for i in word], bias]
                for word, bias in value
                if all(i in mapping for i in word)
            ]
        else:
            result[key] = cut_config(value, mapping, rows)
    return result


def ids_in(config: Any) -> Iterator[int]:
    """Every token id that a config names and that must therefore stay (suppressed ids need not)."""
    for key, value in (config or {}).items():
        if isinstance(value, dict):
            yield from ids_in(value)
        elif is_id_key(key) and key not in SUPPRESSED:
            yield from (
                i for i in (value if isinstance(value, list) else [value]) if isinstance(i, int)
            )
        elif key == "forced_decoder_ids":
            yield from (i for _, i in value or [] if isinstance(i, int))


def is_id_key(key: str) -> bool:
    return key.endswith(ID_SUFFIXES) or key in SUPPRESSED


def _mapped(value: Any, mapping: IdMap) -> Any:
    if isinstance(value, list):
        return [mapping[i] for i in value if i in mapping]
    return mapping.get(value) if isinstance(value, int) and value >= 0 else value
