"""Conversations as text: records with ``messages`` written out by a tokenizer's chat template, with
the stretches that the assistant says."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal

from tinylm.corpus.document import Document
from tinylm.errors import InputError

KEY = "messages"  # of a record, and the name of the text that asks for conversations
ASSISTANT = "assistant"
LossOn = Literal["assistant", "all"]  # what of a conversation is learned


def check_messages(messages: Any, where: str) -> list[dict[str, str]]:
    """``messages`` if they are a list of {"role", "content"}, both text; else an InputError."""
    if isinstance(messages, list) and messages and all(map(_is_message, messages)):
        return [{"role": one["role"], "content": one["content"]} for one in messages]
    raise InputError(
        f"{where}: {KEY!r} must be a list of objects with a role and a content, both text"
    )


def _is_message(one: Any) -> bool:
    return isinstance(one, dict) and all(isinstance(one.get(k), str) for k in ("role", "content"))


def render(documents: Iterable[Document], tokenizer: Any, loss_on: str) -> Iterator[Document]:
    """``documents`` with the conversations among them as text; plain ones stay as they are.

    ``loss_on``: "assistant" (what the assistant says counts in training, its end of turn included)
    or "all". Raises InputError for a tokenizer without a chat template, a conversation that it
    refuses, one in which the assistant says nothing.
    """
    from tinylm.corpus.pack import find_start  # numpy, which `--help` need not load

    # what packing puts at the front of every text must not be there twice
    start = "" if find_start(tokenizer) is None else tokenizer.bos_token
    for document in documents:
        yield _written(document, tokenizer, loss_on, start) if document.messages else document


def _written(document: Document, tokenizer: Any, loss_on: str, start: str) -> Document:
    messages = [dict(zip(("role", "content"), one)) for one in document.messages]

    def written(turns: list[dict[str, str]], asked: bool = False) -> str:
        return _template(tokenizer, turns, document.source, asked).removeprefix(start)

    text = written(messages)
    if loss_on == "all":
        return replace(document, text=text, messages=(), taught=((0, len(text)),))
    spans = []
    for place, message in enumerate(messages):
        if message["role"] == ASSISTANT:
            before, through = written(messages[:place], asked=True), written(messages[: place + 1])
            if not (through.startswith(before) and text.startswith(through.rstrip())):
                raise InputError(
                    f"the chat template of {tokenizer.name_or_path} writes a turn differently when"
                    ' more follow it: say corpus.loss_on = "all"'
                )
            spans.append((len(before), len(through.rstrip())))
    if not spans:
        raise InputError(
            f"a conversation in {document.source} has no message of the role {ASSISTANT!r}: nothing"
            ' in it could be learned; leave it out, or say corpus.loss_on = "all"'
        )
    return replace(document, text=text, messages=(), taught=tuple(spans))


def _template(tokenizer: Any, messages: Any, source: str, asked: bool) -> str:
    if not tokenizer.chat_template:
        raise InputError(
            f"{tokenizer.name_or_path} has no chat template, which writes the conversations of"
            f" {source} as text: choose a teacher for chat, or give texts"
        )
    if not messages:
        return ""
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asked)
    except Exception as error:  # templates raise what they like
        raise InputError(
            f"the chat template refuses a conversation in {source}: {str(error).splitlines()[0]}"
        ) from error
