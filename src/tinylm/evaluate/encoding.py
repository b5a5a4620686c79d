"""Prompts as token ids, to the letter as lm-eval's Hugging Face adapter makes them; but for
tokenizers that put something behind a text (</s>), where its continuations are other tokens."""

from collections.abc import Iterable, Sequence

from lm_eval.models.utils import has_bos_prefix
from transformers import PreTrainedTokenizerBase

from tinylm.evaluate.forward import prefix_token
from tinylm.models.tokenizer import tokens_behind


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], special: bool | None = None
) -> list[list[int]]:
    """Token ids. Unless told otherwise the tokenizer adds what it usually adds before a text, but
    never a second BOS, and nothing behind: the text goes on."""
    bos = tokenizer.decode([prefix_token(tokenizer)])
    groups: dict[bool | None, list[int]] = {}
    behind = tokens_behind(tokenizer) if special is None else 0
    for index, text in enumerate(texts):
        has_bos = special is None and has_bos_prefix(text, bos)
        groups.setdefault(False if has_bos else special, []).append(index)
    ids: list[list[int]] = [[]] * len(texts)
    for add, indices in groups.items():
        options = {} if add is None else {"add_special_tokens": add}
        rows = tokenizer([texts[index] for index in indices], verbose=False, **options)
        for index, row in zip(indices, rows["input_ids"], strict=True):
            ids[index] = row[: len(row) - behind] if add is None else row
    return ids


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]
) -> list[tuple[list[int], list[int]]]:
    """(context ids, continuation ids) as lm-eval splits them: a context's trailing spaces belong to
    the continuation, and both are cut out of the tokens of the whole. Every distinct text is
    tokenised once."""
    prefix, moved = prefix_token(tokenizer), []
    for context, continuation in pairs:
        body = context.rstrip()
        moved.append((body, context[len(body) :] + continuation) if context else ("", continuation))
    whole = [(context, context + continuation) for context, continuation in moved if context]
    ids = _encode_distinct(tokenizer, (text for pair in whole for text in pair))
    bare = _encode_distinct(
        tokenizer, (continuation for context, continuation in moved if not context), False
    )
    result = []
    for context, continuation in moved:
        if context:
            result.append((ids[context], ids[context + continuation][len(ids[context]) :]))
        elif bare[continuation][:1] == [prefix]:
            result.append((bare[continuation][:1], bare[continuation][1:]))
        else:
            result.append(([prefix], bare[continuation]))
    return result


def _encode_distinct(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], special: bool | None = None
) -> dict[str, list[int]]:
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        return {}
    return dict(zip(distinct, encode(tokenizer, distinct, special), strict=True))
