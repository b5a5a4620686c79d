"""The forward pass that all measures share: log-probabilities of given tokens, without ever holding
all the logits.

A vocabulary of 49152 times 8192 positions is 1.6 GB of fp32 logits. Here the body of the model runs
on the whole batch, the head runs on a few rows at a time that fit in cache, and only the rows that
are scored at all.
"""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinylm.errors import InputError
from tinylm.models.logits import scale_and_cap

# elements of one slice of logits: 8 MB in bf16, about what stays in the CPU's cache
LOGITS_AT_ONCE = 4 << 20

TEXT_CONTEXT = 512  # context of bits per byte unless --context says otherwise


@dataclass(frozen=True)
class TokenScores:
    """Per scored position: natural log-probability (fp32) and whether the token is the model's
    first choice."""

    logprob: Tensor
    greedy: Tensor


class Scorer:
    """A causal model split into body and head, in the precision it is scored in.

    Args:
        model: any `transformers` causal language model.
        dtype: precision of the weights while scoring. A model of another dtype is copied, never
            changed. None: as is.
    """

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> None:
        if dtype is not None and model.dtype != dtype:
            model = _copy_as(model, dtype)
        self.model = model
        self.device = model.device
        self.body: nn.Module = model.base_model
        self.head: nn.Module | None = model.get_output_embeddings()
        with scoring(model):
            if not self._split_is_exact():
                self.head = None

    def _split_is_exact(self) -> bool:
        """False for models that do more than :meth:`logits` after their body: they run whole."""
        if self.head is None or self.body is self.model:
            return False
        probe = (
            torch.arange(4, device=self.device)[None]
            % self.model.config.get_text_config().vocab_size
        )
        whole = self.model(input_ids=probe, use_cache=False).logits.float()
        parts = self.logits(self.body(input_ids=probe, use_cache=False).last_hidden_state).float()
        return parts.shape == whole.shape and torch.allclose(parts, whole, atol=1e-2, rtol=1e-2)

    def features(self, input_ids: Tensor, **inputs: object) -> Tensor:
        """What :meth:`score` needs for each position, [batch, time, width]. ``inputs`` go to the
        model as they are."""
        if self.head is None:
            return self.model(input_ids=input_ids, **inputs).logits
        return self.body(input_ids=input_ids, **inputs).last_hidden_state

    def logits(self, features: Tensor) -> Tensor:
        """Logits of ``features``; scaled as Granite's, capped as Gemma 2's."""
        if self.head is None:
            return features
        scale, cap = scale_and_cap(self.model.config)
        logits = self.head(features)
        logits = logits if scale == 1 else logits * scale
        return logits if not cap else cap * torch.tanh(logits / cap)

    def score(self, features: Tensor, targets: Tensor) -> TokenScores:
        """Log-softmax in fp32 at ``targets`` [rows] of ``features`` [rows, width], a cache-sized
        slice at a time."""
        vocab_size = self.model.config.get_text_config().vocab_size
        rows = max(1, LOGITS_AT_ONCE // vocab_size)
        logprob, greedy = [], []
        for part, wanted in zip(features.split(rows), targets.split(rows)):
            logits = self.logits(part).float()
            best = logits.argmax(-1)
            logprob.append(logits.gather(-1, wanted[:, None])[:, 0] - logits.logsumexp(-1))
            greedy.append(best == wanted)
        return TokenScores(torch.cat(logprob), torch.cat(greedy))


@contextlib.contextmanager
def scoring(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside, whatever mode the model was in afterwards."""
    was_training = model.training
    model.eval()
    try:
        # not inference_mode: a buffer made inside would break a later training step
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def prefix_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that stands before the first one of a text: BOS, or end-of-text in models that have
    no BOS."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise InputError(
        "the tokenizer has neither a BOS nor an EOS token, so a text's first token cannot be scored"
    )


def text_context(config: Any) -> int:
    """Tokens at once while text is scored: ``TEXT_CONTEXT``, or what the model has."""
    return min(TEXT_CONTEXT, positions(config) or TEXT_CONTEXT)


def positions(config: Any) -> int | None:
    """Tokens that a model can see at once; None where its config sets no limit."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def check_context(model: PreTrainedModel, context: int) -> None:
    """InputError when ``context`` tokens do not fit the model's positions."""
    limit = positions(model.config)
    if context < 2 or (limit is not None and context > limit):
        raise InputError(
            f"context {context} does not fit this model: choose 2 to {limit or 'any number'} tokens"
        )


def check_vocabulary(model: PreTrainedModel, largest_id: int) -> None:
    """InputError when the tokenizer makes an id that the model has no embedding for: they do not
    belong together."""
    size = model.config.get_text_config().vocab_size
    if largest_id >= size:
        raise InputError(
            f"the tokenizer made token {largest_id}, the model has {size}: use the model's own"
            " tokenizer"
        )


def _copy_as(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A copy with weights in ``dtype``. Buffers stay: rotary frequencies lose distant positions in
    bf16."""
    twin = copy.deepcopy(model)
    for parameter in twin.parameters():
        parameter.data = parameter.data.to(dtype)
    return twin
