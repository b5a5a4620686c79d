"""A causal model as lm-eval sees one, with the numbers of lm-eval's Hugging Face adapter and a
fraction of its work.

It builds on :class:`lm_eval.api.model.TemplateLM`, the base of that adapter, rather than on the
adapter itself: the latter cannot be imported without `accelerate`, and nothing here is distributed.
Tokenisation and truncation follow the adapter to the letter (:mod:`tinylm.evaluate.encoding`); what
differs is that the requests run as one prefix tree (:mod:`tinylm.evaluate.tree`).
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs, resolve_max_length
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinylm.errors import InputError
from tinylm.evaluate.answers import Answers, answer_key
from tinylm.evaluate.bits_per_byte import batches, split_windows, window_nats
from tinylm.evaluate.continuation import continue_prompts
from tinylm.evaluate.encoding import encode, encode_pairs
from tinylm.evaluate.forward import Scorer, check_context, prefix_token, scoring
from tinylm.evaluate.tree import SIZES, Answer, TreeRunner
from tinylm.evaluate.trie import Scored
from tinylm.terminal import progress_bar

# tokens to score; below that, timing the sizes would cost more than it saves
WORTH_TIMING = 200_000

# of our task names inside lm-eval, so that its own tasks of that name stay reachable
PREFIX = "tinylm_"


class TinyLM(TemplateLM):
    """Scores and generates for lm-eval.

    Args:
        model: any `transformers` causal model.
        tokenizer: its own.
        dtype: precision of the weights while scoring; None: the model's own. Log-softmax is fp32.
        max_length: context in tokens; None: the model's. Longer prompts lose their beginning, as in
            lm-eval.
        batch_size: tokens per forward pass, or "auto": the fastest of a few sizes, timed on this
            machine.
        answers: where answers are kept for resuming.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        dtype: torch.dtype | None = None,
        max_length: int | None = None,
        batch_size: int | str = "auto",
        answers: Path | None = None,
    ) -> None:
        super().__init__()
        self.tokenizer: PreTrainedTokenizerBase = tokenizer
        self.max_length = max_length or resolve_max_length(model.config, tokenizer)
        check_context(model, self.max_length)
        self.scorer = Scorer(model, dtype)
        self.tree = TreeRunner(self.scorer, self.max_length)
        self._prefix = prefix_token(tokenizer)
        self._batch_size = batch_size
        self.answers = Answers(answers)
        self.truncated: Counter[str] = Counter()  # task -> prompts that lost their beginning
        self.computed_tokens = 0
        self.requested_tokens = 0  # of distinct inputs: what one forward pass for each would take

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        return self._prefix

    @property
    def batch_tokens(self) -> int:
        """Tokens per forward pass."""
        if isinstance(self._batch_size, int):
            return self._batch_size
        if self.requested_tokens < WORTH_TIMING:
            return SIZES[1]
        self._batch_size = self.tree.fastest_size()
        return self._batch_size

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        return encode(self.tokenizer, [string], add_special_tokens)[0]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        """Log-likelihood of each continuation after its context, in nats."""
        pairs = encode_pairs(self.tokenizer, [request.args for request in requests])
        self._count_truncated(requests, pairs)
        return self._loglikelihood_tokens(
            [(request.args, *pair) for request, pair in zip(requests, pairs)]
        )

    def _loglikelihood_tokens(self, requests: list, **kwargs: Any) -> list[Answer]:
        keys = [
            answer_key("ll", self.max_length, context, continuation)
            for _, context, continuation in requests
        ]
        todo = {
            key: Scored(
                tuple((context + continuation)[-(self.max_length + 1) :][:-1]), tuple(continuation)
            )
            for key, (_, context, continuation) in zip(keys, requests)
            if self.answers.get(key) is None
        }
        if todo:
            self._score(list(todo), list(todo.values()))
        return [
            (float("nan") if ll is None else ll, greedy)
            for ll, greedy in map(self.answers.get, keys)
        ]

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of whole texts in windows of the context, each token scored once (as
        lm-eval has it: windows do not overlap, but for the last one, which is as long as the
        others)."""
        texts = [request.args[0] for request in requests]
        keys = [answer_key("rolling", self.max_length, text) for text in texts]
        todo = {key: text for key, text in zip(keys, texts) if self.answers.get(key) is None}
        tokens = encode(self.tokenizer, list(todo.values()))
        windows = [
            window
            for number, ids in enumerate(tokens)
            for window in split_windows(
                number, np.array(ids), self._prefix, self.max_length, full=True
            )
        ]
        nats = np.zeros(len(todo))
        total = sum(len(window.targets) for window in windows)
        with scoring(self.scorer.model), progress_bar("texts", total, "tokens") as bar:
            for batch in batches(windows, self.batch_tokens) if windows else ():
                for window, value in zip(batch, window_nats(self.scorer, batch)):
                    nats[window.document] += value.sum()
                bar.advance(sum(len(window.targets) for window in batch))
        self.answers.add({key: -float(value) for key, value in zip(todo, nats)})
        return [self.answers.get(key) for key in keys]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations of prompts, cut at the first stop string."""
        asked = [
            (request.args[0], json.dumps(request.args[1], sort_keys=True)) for request in requests
        ]
        prompts = dict(zip(asked, encode(self.tokenizer, [context for context, _ in asked])))
        keys = {
            (context, options): answer_key("text", self.max_length, context, options)
            for context, options in asked
        }
        todo = [pair for pair in dict.fromkeys(asked) if self.answers.get(keys[pair]) is None]
        todo.sort(key=lambda pair: (pair[1], -len(prompts[pair])))
        for request, pair in zip(requests, asked):
            room = self.max_length - normalize_gen_kwargs(dict(request.args[1]), 256).get(
                "max_gen_toks", 256
            )
            self.truncated[(request.task_name or "").removeprefix(PREFIX)] += (
                len(prompts[pair]) > room
            )
        with scoring(self.scorer.model), progress_bar("answers", len(todo), "texts") as bar:
            while todo:
                options = todo[0][1]
                longest = len(prompts[todo[0]])
                size = max(1, self.batch_tokens // max(longest, 1))
                batch = [pair for pair in todo[:size] if pair[1] == options]
                todo = todo[len(batch) :]
                texts = continue_prompts(
                    self.scorer.model,
                    self.tokenizer,
                    [prompts[pair] for pair in batch],
                    json.loads(options),
                    self.max_length,
                )
                self.answers.add({keys[pair]: text for pair, text in zip(batch, texts)})
                bar.advance(len(batch))
        return [self.answers.get(keys[pair]) for pair in asked]

    def _count_truncated(
        self, requests: Sequence[Instance], pairs: Sequence[tuple[list[int], list[int]]]
    ) -> None:
        """Count prompts that do not fit. If most of a task's do not, the context is too short for
        its examples."""
        names = [(request.task_name or "").removeprefix(PREFIX) for request in requests]
        asked = Counter(names)
        longest: Counter[str] = Counter()
        cut: Counter[str] = Counter()
        for name, (context, continuation) in zip(names, pairs):
            length = len(context) + len(continuation) - 1
            cut[name] += length > self.max_length
            longest[name] = max(longest[name], length)
            if len(continuation) > self.max_length:
                raise InputError(
                    f"{name}: an answer of {len(continuation)} tokens is longer than the context"
                )
        for name, count in cut.items():
            if 2 * count > asked[name]:
                raise InputError(
                    f"{name}: {count} of {asked[name]} prompts do not fit the context of"
                    f" {self.max_length} tokens (the longest has {longest[name]}): use a smaller"
                    " --num-fewshot"
                )
            if count:
                self.truncated[name] += count

    def _score(self, keys: Sequence[str], sequences: Sequence[Scored]) -> None:
        """Run the prefix tree of ``sequences`` and keep an answer for each as soon as it is
        complete."""
        self.requested_tokens += sum(map(len, {sequence.inputs for sequence in sequences}))
        plan, total = self.tree.plan(sequences, self.batch_tokens)
        logprob = np.zeros(len(sequences))
        greedy = np.ones(len(sequences), dtype=bool)
        missing = np.array([len(sequence.targets) for sequence in sequences])
        with scoring(self.scorer.model), progress_bar("items", total, "tokens") as bar:
            # nothing to score
            self.answers.add({keys[int(n)]: [None, False] for n in np.flatnonzero(missing == 0)})
            for step, scores in self.tree.run(plan):
                for target, (value, best) in zip(step.targets, scores):
                    logprob[target.sequence] += value
                    greedy[target.sequence] &= best
                    missing[target.sequence] -= 1
                touched = np.unique([target.sequence for target in step.targets]).astype(int)
                self._keep(keys, touched[missing[touched] == 0], logprob, greedy)
                self.computed_tokens += len(step.tokens)
                bar.advance(len(step.tokens))

    def _keep(
        self, keys: Sequence[str], done: np.ndarray, logprob: np.ndarray, greedy: np.ndarray
    ) -> None:
        """NaN (a model that overflowed) is kept as null: one bad answer is counted later and stops
        nothing."""
        finite = {n: float(logprob[n]) if np.isfinite(logprob[n]) else None for n in done}
        self.answers.add({keys[n]: [finite[n], bool(greedy[n])] for n in done})
