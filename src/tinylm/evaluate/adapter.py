"""A causal model as lm-eval sees one, with the numbers of lm-eval's Hugging Face adapter and a
fraction of its work.

It builds on :class:`lm_eval.api.model.TemplateLM`, the base of that adapter, rather than on the
adapter itself: the latter cannot be imported without `accelerate`, and nothing here is distributed.
Tokenisation and truncation follow the adapter to the letter; what differs is that the requests run
as one prefix tree (:mod:`tinylm.evaluate.trie`).
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
    resolve_max_length,
)
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from tinylm.errors import InputError
from tinylm.evaluate.bits_per_byte import batches, split_windows, window_nats
from tinylm.evaluate.forward import Scorer, check_context, prefix_token, scoring
from tinylm.evaluate.trie import MIN_HEADER, Plan, Scored, Step, Target
from tinylm.models.generate import longrope_limit
from tinylm.terminal import progress_bar

# tokens of a forward pass that "auto" chooses from; the middle one for small runs
SIZES = (512, 1024, 2048)
VERSION = 2  # of the way answers are computed; kept ones of another are not used
# tokens to score; below that, timing the sizes would cost more than it saves
WORTH_TIMING = 200_000

# of our task names inside lm-eval, so that its own tasks of that name stay reachable
PREFIX = "tinylm_"

# log-likelihood of the continuation in nats, whether greedy decoding would give it
Answer = tuple[float, bool]


class Responses:
    """Answers on disk, one JSON line each, so that an interrupted run goes on where it stopped."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, Any] = {}
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    key, value = json.loads(line)
                except (json.JSONDecodeError, ValueError):
                    continue  # the line that was being written when the run was stopped
                self._known[key] = value

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> Any:
        return self._known.get(key)

    def add(self, answers: dict[str, Any]) -> None:
        self._known.update(answers)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a", encoding="utf-8") as file:
                file.writelines(json.dumps([key, value]) + "\n" for key, value in answers.items())


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
        responses: where answers are kept for resuming.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        dtype: torch.dtype | None = None,
        max_length: int | None = None,
        batch_size: int | str = "auto",
        responses: Path | None = None,
    ) -> None:
        super().__init__()
        self.tokenizer: PreTrainedTokenizerBase = tokenizer
        self.max_length = max_length or resolve_max_length(model.config, tokenizer)
        check_context(model, self.max_length)
        with scoring(model):
            self.scorer = Scorer(model, dtype)
            self.tree_is_exact = self._tree_is_exact()
        self._prefix = prefix_token(tokenizer)
        self._batch_size = batch_size
        self.responses = Responses(responses)
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
        self._batch_size = self._fastest_size()
        return self._batch_size

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        return self._encode([string], add_special_tokens)[0]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        """Log-likelihood of each continuation after its context, in nats."""
        pairs = self._encode_pairs([request.args for request in requests])
        self._count_truncated(requests, pairs)
        return self._loglikelihood_tokens(
            [(request.args, *pair) for request, pair in zip(requests, pairs)]
        )

    def _loglikelihood_tokens(self, requests: list, **kwargs: Any) -> list[Answer]:
        keys = [
            _key("ll", self.max_length, context, continuation)
            for _, context, continuation in requests
        ]
        todo = {
            key: Scored(
                tuple((context + continuation)[-(self.max_length + 1) :][:-1]), tuple(continuation)
            )
            for key, (_, context, continuation) in zip(keys, requests)
            if self.responses.get(key) is None
        }
        if todo:
            self._score(list(todo), list(todo.values()))
        return [
            (float("nan") if ll is None else ll, greedy)
            for ll, greedy in map(self.responses.get, keys)
        ]

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of whole texts in windows of the context, each token scored once (as
        lm-eval has it: windows do not overlap, but for the last one, which is as long as the
        others)."""
        texts = [request.args[0] for request in requests]
        keys = [_key("rolling", self.max_length, text) for text in texts]
        todo = {key: text for key, text in zip(keys, texts) if self.responses.get(key) is None}
        tokens = self._encode(list(todo.values()))
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
        self.responses.add({key: -float(value) for key, value in zip(todo, nats)})
        return [self.responses.get(key) for key in keys]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations of prompts, cut at the first stop string."""
        asked = [
            (request.args[0], json.dumps(request.args[1], sort_keys=True)) for request in requests
        ]
        prompts = dict(zip(asked, self._encode([context for context, _ in asked])))
        keys = {
            (context, options): _key("text", self.max_length, context, options)
            for context, options in asked
        }
        todo = [pair for pair in dict.fromkeys(asked) if self.responses.get(keys[pair]) is None]
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
                texts = self._generate([prompts[pair] for pair in batch], json.loads(options))
                self.responses.add({keys[pair]: text for pair, text in zip(batch, texts)})
                bar.advance(len(batch))
        return [self.responses.get(keys[pair]) for pair in asked]

    def _generate(self, prompts: list[list[int]], options: dict) -> list[str]:
        from lm_eval.models.utils_hf import stop_sequences_criteria

        settings = normalize_gen_kwargs(options, 256)
        stop = handle_stop_sequences(
            settings.pop("until", None), eos=self.tokenizer.decode([self.eot_token_id])
        )
        new_tokens = settings.pop("max_gen_toks")
        room = self.max_length - new_tokens
        if room < 1:
            raise InputError(
                f"context {self.max_length} has no room for a prompt and {new_tokens} generated"
                " tokens"
            )
        if settings.get("do_sample"):
            raise InputError(
                "sampled generation is not scored here: set do_sample to false in the task"
            )
        prompts = [prompt[-room:] for prompt in prompts]
        longest = max(map(len, prompts))
        # padding on the left, hidden by the mask
        inputs = torch.full((len(prompts), longest), self.eot_token_id)
        mask = torch.zeros((len(prompts), longest), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            inputs[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        output = self.scorer.model.generate(  # type: ignore[operator]
            inputs.to(self.scorer.device),
            attention_mask=mask.to(self.scorer.device),
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=self.eot_token_id,
            stopping_criteria=stop_sequences_criteria(self.tokenizer, stop, longest, len(prompts)),
        )
        texts = self.tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True)
        return [postprocess_generated_text(text, stop, None) for text in texts]

    def _encode(
        self, texts: Sequence[str], add_special_tokens: bool | None = None
    ) -> list[list[int]]:
        """Token ids. Unless told otherwise the tokenizer adds what it usually adds, but never a
        second BOS."""
        bos = self.tokenizer.decode([self._prefix])
        groups: dict[bool | None, list[int]] = {}
        for index, text in enumerate(texts):
            has_bos = add_special_tokens is None and has_bos_prefix(text, bos)
            groups.setdefault(False if has_bos else add_special_tokens, []).append(index)
        ids: list[list[int]] = [[]] * len(texts)
        for special, indices in groups.items():
            options = {} if special is None else {"add_special_tokens": special}
            rows = self.tokenizer([texts[index] for index in indices], verbose=False, **options)[
                "input_ids"
            ]
            for index, row in zip(indices, rows):
                ids[index] = row
        return ids

    def _encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """(context ids, continuation ids) as lm-eval splits them: a context's trailing spaces
        belong to the continuation, and both are cut out of the tokens of the whole. Every distinct
        text is tokenised once."""
        moved = []
        for context, continuation in pairs:
            body = context.rstrip()
            moved.append(
                (body, context[len(body) :] + continuation) if context else ("", continuation)
            )
        with_context = [
            (context, context + continuation) for context, continuation in moved if context
        ]
        ids = self._encode_distinct(text for pair in with_context for text in pair)
        bare = self._encode_distinct(
            (continuation for context, continuation in moved if not context), False
        )
        result = []
        for context, continuation in moved:
            if context:
                result.append((ids[context], ids[context + continuation][len(ids[context]) :]))
            elif bare[continuation][:1] == [self._prefix]:
                result.append((bare[continuation][:1], bare[continuation][1:]))
            else:
                result.append(([self._prefix], bare[continuation]))
        return result

    def _encode_distinct(
        self, texts: Iterable[str], special: bool | None = None
    ) -> dict[str, list[int]]:
        distinct = list(dict.fromkeys(texts))
        return dict(zip(distinct, self._encode(distinct, special))) if distinct else {}

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
        # beyond it all keys of a text change, so nothing can be shared
        limit = longrope_limit(self._config)
        if not self.tree_is_exact or (
            limit and any(len(sequence.inputs) > limit for sequence in sequences)
        ):
            plan: Iterable[Step] = unshared(sequences)
            total = sum(len(sequence.inputs) for sequence in sequences)
        else:
            plan = Plan(sequences, self.batch_tokens)
            total = plan.tokens
        logprob = np.zeros(len(sequences))
        greedy = np.ones(len(sequences), dtype=bool)
        missing = np.array([len(sequence.targets) for sequence in sequences])
        with scoring(self.scorer.model), progress_bar("items", total, "tokens") as bar:
            # nothing to score
            self.responses.add({keys[int(n)]: [None, False] for n in np.flatnonzero(missing == 0)})
            for step, scores in self._run(plan):
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
        self.responses.add({keys[n]: [finite[n], bool(greedy[n])] for n in done})

    def _run(self, plan: Iterable[Step]) -> Iterator[tuple[Step, list[Answer]]]:
        """Each step with (log-probability, is first choice) of its targets, in the plan's order."""
        cache = DynamicCache()  # without a config: no layer forgets, so that it can be cropped back
        for step in plan:
            surplus = cache.get_seq_length() - step.base
            if surplus:
                cache.crop(-surplus)
            features = self._forward(step, cache)
            yield step, self._scores(step, features)

    def _forward(self, step: Step, cache: DynamicCache) -> torch.Tensor:
        """What the head needs for each token of the step, [rows, width]. A header's keys stay in
        ``cache``."""
        inputs: dict[str, Any] = {"use_cache": False}
        if step.base or step.header:
            inputs = {"past_key_values": cache, "use_cache": True}
        if step.base or not step.linear:
            inputs["attention_mask"] = self._mask(step)
            inputs["position_ids"] = torch.from_numpy(step.positions())[None].to(self.scorer.device)
        features = self.scorer.features(
            torch.tensor([step.tokens], device=self.scorer.device), **inputs
        )
        return features[0]

    def _scores(self, step: Step, features: torch.Tensor) -> list[Answer]:
        if not step.targets:
            return []
        rows = torch.tensor([target.row for target in step.targets], device=self.scorer.device)
        wanted = torch.tensor([target.token for target in step.targets], device=self.scorer.device)
        scores = self.scorer.score(features[rows], wanted)
        return list(zip(scores.logprob.double().tolist(), scores.greedy.tolist()))

    def _mask(self, step: Step) -> Any:
        """Additive attention mask [1, 1, rows, base + rows], one for each kind of layer where a
        model has several."""
        visible = step.visible()
        kinds = sorted(set(getattr(self._config, "layer_types", None) or ()))
        # Mistral 0.1, Phi-3
        everywhere = not kinds and getattr(self._config, "sliding_window", None)
        if not everywhere and "sliding_attention" not in kinds:
            return self._additive(visible)
        positions = step.positions()
        distance = positions[:, None] - np.concatenate([np.arange(step.base), positions])[None]
        near = visible & (distance < self._config.sliding_window)
        if everywhere:
            return self._additive(near)
        return {
            kind: self._additive(near if kind == "sliding_attention" else visible) for kind in kinds
        }

    def _additive(self, visible: np.ndarray) -> torch.Tensor:
        dtype = self.scorer.model.dtype
        mask = torch.zeros(visible.shape, dtype=dtype).masked_fill_(
            ~torch.from_numpy(visible), torch.finfo(dtype).min
        )
        return mask[None, None].to(self.scorer.device)

    @property
    def _config(self) -> Any:
        return self.scorer.model.config.get_text_config()

    def _tree_is_exact(self) -> bool:
        """Try the tree on a small made-up case. A model that does not honour custom masks (a
        recurrent one, say) gives other numbers than row by row; its sequences then run one by one,
        slower and right."""
        length = min(2 * MIN_HEADER, self.max_length - 8)
        if length <= MIN_HEADER:
            return False
        draw = (
            np.random.default_rng(0).integers(0, self._config.vocab_size, size=length + 12).tolist()
        )
        sequences = [
            Scored((*draw[:length], *draw[length + n : length + n + 4]), tuple(draw[n : n + 6]))
            for n in range(5)
        ]
        try:
            together, alone = (
                self._sums(plan, len(sequences))
                for plan in (Plan(sequences, MIN_HEADER), unshared(sequences))
            )
        except (TypeError, ValueError, AttributeError, RuntimeError, NotImplementedError):
            return False
        allowed = 1e-3 if self.scorer.model.dtype == torch.float32 else 0.05
        return bool(np.abs(together - alone).max() < allowed * (1 + np.abs(alone).max()))

    def _sums(self, plan: Iterable[Step], count: int) -> np.ndarray:
        sums = np.zeros(count)
        for step, scores in self._run(plan):
            for target, (value, _) in zip(step.targets, scores):
                sums[target.sequence] += value
        return sums

    def _fastest_size(self) -> int:
        """Of a few sizes of a forward pass, the one with the most tokens a second here; halved
        where memory ends."""
        best, best_speed = SIZES[0], 0.0
        with scoring(self.scorer.model):
            for size in SIZES:
                step = Step(
                    0, False, [0] * size, [row - 1 if row % 64 else -1 for row in range(size)]
                )
                try:
                    self._forward(step, DynamicCache())
                    start = time.perf_counter()
                    self._forward(step, DynamicCache())
                    speed = size / (time.perf_counter() - start)
                except (torch.OutOfMemoryError, MemoryError):
                    break
                if speed > best_speed:
                    best, best_speed = size, speed
        return best


def unshared(sequences: Sequence[Scored]) -> Iterator[Step]:
    """Every sequence by itself: the plan for models that cannot run a tree."""
    for number, sequence in enumerate(sequences):
        length, offset = len(sequence.inputs), len(sequence.inputs) - len(sequence.targets)
        targets = [Target(offset + k, token, number) for k, token in enumerate(sequence.targets)]
        yield Step(0, False, list(sequence.inputs), list(range(-1, length - 1)), targets)


def _key(kind: str, *parts: Any) -> str:
    parts = (kind, VERSION, *parts)
    return hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogatepass")).hexdigest()[:24]
