"""Text from a model: greedy or sampled, streamed as it is made, with the speed of reading and of
writing."""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import torch

from tinylm.artifact import optional_json
from tinylm.errors import InputError
from tinylm.models.config import read_generation
from tinylm.models.tokenizer import prompt_ids


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 keep
    every token."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise InputError(f"--temperature {self.temperature} must be 0 (greedy) or more")
        if self.top_k < 0:
            raise InputError(f"--top-k {self.top_k} must be 0 (off) or more")
        if not 0 < self.top_p <= 1:
            raise InputError(f"--top-p {self.top_p} must be above 0 and at most 1")


@dataclass
class Speed:
    """What one generation cost; filled while it runs."""

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    new_tokens: int = 0
    new_seconds: float = 0.0  # of all new tokens but the first, whose logits came with the prompt
    stopped_by: str = ""  # "end of text", "length" or "context"
    ids: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        reading = self.prompt_tokens / max(self.prompt_seconds, 1e-9)
        writing = (
            (self.new_tokens - 1) / max(self.new_seconds, 1e-9) if self.new_tokens > 1 else 0.0
        )
        return (
            f"{self.prompt_tokens} prompt tokens at {reading:.0f} tokens/s, "
            f"{self.new_tokens} new at {writing:.1f} tokens/s, stopped by {self.stopped_by}"
        )


def generate(
    model: Any,
    tokenizer: Any,
    prompt: str | Sequence[int],
    max_new_tokens: int = 128,
    sampling: Sampling | None = None,
    speed: Speed | None = None,
) -> Iterator[str]:
    """Yield the continuation of ``prompt`` (text or token ids) in pieces of whole characters, as
    they are made.

    Stops at an end-of-text token, after ``max_new_tokens``, or where the model's context ends. Give
    a ``Speed`` to be filled with counts and seconds. Raises InputError for an empty prompt without
    a BOS token to start from, and for a prompt that fills the context.
    """
    sampling, speed = sampling or Sampling(), speed if speed is not None else Speed()
    if max_new_tokens < 1:
        raise InputError(f"--max-new-tokens {max_new_tokens} must be 1 or more")
    ids = prompt_ids(tokenizer, prompt) if isinstance(prompt, str) else list(prompt)
    if not ids and tokenizer.bos_token_id is not None:
        ids = [tokenizer.bos_token_id]
    if not ids:
        raise InputError(
            "the prompt is empty and the tokenizer has no BOS token: give --prompt some text"
        )
    require_rows(model, tokenizer, ids)
    context = model.config.get_text_config().max_position_embeddings
    if len(ids) >= context:
        raise InputError(
            f"the prompt has {len(ids)} tokens, the model's context is {context}: shorten it"
        )
    room = min(max_new_tokens, context - len(ids))
    ends = end_tokens(model, tokenizer)
    text = TextStream(tokenizer)
    for token in _tokens(model, ids, room, sampling, speed):
        speed.ids.append(token)
        if token in ends:
            speed.stopped_by = "end of text"
            break
        piece = text.put(token)
        if piece:
            yield piece
    else:
        speed.stopped_by = "length" if room == max_new_tokens else "context"
    rest = text.finish()
    if rest:
        yield rest


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Ids that end a text: the tokenizer's EOS and those of the model's generation config."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return set(_ids(configured, tokenizer.eos_token_id))


def stops_of(folder: Path, tokenizer: Any) -> list[int]:
    """:func:`end_tokens` of the model in ``folder``, which is not loaded for it; in the order of
    its files."""
    named = read_generation(folder)
    settings = optional_json(folder / "config.json") if named is None else named
    return _ids(settings.get("eos_token_id"), tokenizer.eos_token_id)


def _ids(*named: Any) -> list[int]:
    """Ids named one by one or in lists, each once."""
    flat = [i for one in named for i in (one if isinstance(one, list) else [one])]
    return list(dict.fromkeys(i for i in flat if isinstance(i, int) and i >= 0))


def chat_prompt(tokenizer: Any, messages: Sequence[dict[str, str]]) -> list[int]:
    """Token ids of a conversation ({"role", "content"}) up to where the assistant speaks.

    Uses the tokenizer's chat template; without one, plain lines "User: ..." and "Assistant: ...".
    """
    if tokenizer.chat_template:
        try:
            text = tokenizer.apply_chat_template(
                list(messages),
                chat_template=_template(tokenizer.chat_template),
                tokenize=False,
                add_generation_prompt=True,
            )
        # Gemma 2's has no place for a system message, and says so
        except jinja2.TemplateError as error:
            raise InputError(
                f"the model's chat template refuses these messages ({error})"
            ) from error
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    lines = [f"{message['role'].capitalize()}: {message['content']}\n" for message in messages]
    return prompt_ids(tokenizer, "".join(lines) + "Assistant:")


def _template(templates: Any) -> str:
    """The chat template: the default of several, or the only one."""
    if not isinstance(templates, dict):
        return templates
    if "default" not in templates and len(templates) > 1:
        raise InputError(
            f"the tokenizer has the chat templates {', '.join(templates)} and none called default:"
            " rename the one to use in tokenizer_config.json"
        )
    return templates.get("default") or next(iter(templates.values()))


def require_rows(model: Any, tokenizer: Any, ids: Sequence[int]) -> None:
    """InputError that names the first of ``ids`` without a row in the model's embedding."""
    rows = model.get_input_embeddings().weight.shape[0]
    without = next((i for i in ids if not 0 <= i < rows), None)
    if without is not None:
        raise InputError(
            f"the token {tokenizer.convert_ids_to_tokens(without)!r} (id {without}) has no row in"
            f" the model, whose embedding has {rows}: leave it out of the text, or resize the"
            " embedding"
        )


def until(pieces: Iterator[str], end: str) -> Iterator[str]:
    """``pieces`` of text up to ``end``; what may be the beginning of ``end`` is held back until it
    is known."""
    held = ""
    for piece in pieces:
        held += piece
        if end in held:
            yield held[: held.index(end)]
            return
        keep = next(
            (n for n in range(min(len(end) - 1, len(held)), 0, -1) if held.endswith(end[:n])), 0
        )
        yield held[: len(held) - keep]
        held = held[len(held) - keep :]
    yield held


def fit_context(
    tokenizer: Any, messages: Sequence[dict[str, str]], context: int, reserve: int
) -> tuple[list[int], list[dict[str, str]]]:
    """The prompt ids and messages that leave ``reserve`` tokens free: the oldest go first, a system
    message stays."""
    kept = list(messages)
    ids = chat_prompt(tokenizer, kept)
    first = 1 if kept and kept[0]["role"] == "system" else 0
    while len(ids) > context - reserve and len(kept) > first + 1:
        del kept[first : first + 2]
        ids = chat_prompt(tokenizer, kept)
    return ids, kept


class TextStream:
    """Token ids in, whole characters out: a character split over tokens waits for its last byte."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        # decoding restarts here: the tokens of the last piece, for their effect on spaces
        self._start = 0
        self._shown = 0  # tokens whose text has been given out

    def put(self, token: int) -> str:
        self._ids.append(token)
        return self._new_text(final=False)

    def finish(self) -> str:
        """What is left: the replacement character for bytes that never became a character."""
        return self._new_text(final=True)

    def _new_text(self, final: bool) -> str:
        before = self._tokenizer.decode(self._ids[self._start : self._shown])
        now = self._tokenizer.decode(self._ids[self._start :])
        if len(now) <= len(before) or (now.endswith("�") and not final):
            return ""
        self._start, self._shown = self._shown, len(self._ids)
        return now[len(before) :]


@torch.inference_mode()
def _tokens(
    model: Any, ids: list[int], count: int, sampling: Sampling, speed: Speed
) -> Iterator[int]:
    device = next(model.parameters()).device
    generator = torch.Generator(device="cpu").manual_seed(sampling.seed)
    started = time.perf_counter()
    step = torch.tensor([ids], device=device)
    cache, limit, made = None, longrope_limit(model.config.get_text_config()), list(ids)
    for index in range(count):
        if len(made) == limit + 1 and index:  # the keys kept so far were rotated for short texts
            cache, step = None, torch.tensor([made], device=device)
        output = model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        token = choose(output.logits[0, -1].float().cpu(), sampling, generator)
        elapsed = time.perf_counter() - started
        if index == 0:
            speed.prompt_tokens, speed.prompt_seconds = len(ids), elapsed
        else:
            speed.new_seconds += elapsed
        speed.new_tokens += 1
        made.append(token)
        yield token
        started = time.perf_counter()
        step = torch.tensor([[token]], device=device)


def choose(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The next token from logits [vocab_size]: the likeliest, or one drawn at ``temperature`` among
    top-k and top-p."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    logits = logits / sampling.temperature
    if sampling.top_k:
        lowest = logits.topk(min(sampling.top_k, len(logits))).values[-1]
        logits = logits.masked_fill(logits < lowest, float("-inf"))
    if sampling.top_p < 1:
        ordered, order = logits.softmax(-1).sort(descending=True)
        # the token that crosses the line stays
        outside = ordered.cumsum(-1) - ordered >= sampling.top_p
        logits = logits.index_fill(0, order[outside], float("-inf"))
    return int(torch.multinomial(logits.softmax(-1), 1, generator=generator))


def chat(
    model: Any, tokenizer: Any, system: str | None, max_new_tokens: int, sampling: Sampling
) -> None:
    """A conversation on stdin and stdout until an empty line, the end of the input, or Ctrl-C."""
    messages = [{"role": "system", "content": system}] if system else []
    context = model.config.get_text_config().max_position_embeddings
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            return
        if not line:
            return
        messages.append({"role": "user", "content": line})
        ids, messages = fit_context(tokenizer, messages, context, min(max_new_tokens, context // 2))
        speed, answer = Speed(), ""
        pieces = generate(model, tokenizer, ids, max_new_tokens, sampling, speed)
        for piece in pieces if tokenizer.chat_template else until(pieces, "\nUser:"):
            print(piece, end="", flush=True)
            answer += piece
        print()
        print(speed, file=sys.stderr)
        messages.append({"role": "assistant", "content": answer.strip()})


def longrope_limit(config: Any) -> int:
    """Tokens after which a model with long-range rotary factors (Phi-3 128k) rotates every key
    anew; 0: never."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return 0
    return rope.get("original_max_position_embeddings") or config.original_max_position_embeddings
