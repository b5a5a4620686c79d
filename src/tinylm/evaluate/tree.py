"""Run a prefix tree of token sequences through a model: a header's keys are computed once for all
that share it, and branches stand in one batch behind a mask of their own."""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from tinylm.evaluate.forward import Scorer, scoring
from tinylm.evaluate.trie import MIN_HEADER, Plan, Scored, Step, Target
from tinylm.models.generate import longrope_limit

# tokens of a forward pass that "auto" chooses from; the middle one for small runs
SIZES = (512, 1024, 2048)

# log-likelihood of the continuation in nats, whether greedy decoding would give it
Answer = tuple[float, bool]


class TreeRunner:
    """A model that scores prefix trees.

    Args:
        scorer: the model, split into body and head.
        max_length: context in tokens.
    """

    def __init__(self, scorer: Scorer, max_length: int) -> None:
        self.scorer = scorer
        with scoring(scorer.model):
            self.is_exact = self._is_exact(max_length)

    @property
    def config(self) -> Any:
        return self.scorer.model.config.get_text_config()

    def plan(self, sequences: Sequence[Scored], batch_tokens: int) -> tuple[Iterable[Step], int]:
        """The steps that score ``sequences``, and how many tokens they run."""
        # beyond it all keys of a text change, so nothing can be shared
        limit = longrope_limit(self.config)
        too_long = limit and any(len(sequence.inputs) > limit for sequence in sequences)
        if self.is_exact and not too_long:
            plan = Plan(sequences, batch_tokens)
            return plan, plan.tokens
        return unshared(sequences), sum(len(sequence.inputs) for sequence in sequences)

    def run(self, plan: Iterable[Step]) -> Iterator[tuple[Step, list[Answer]]]:
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
        kinds = sorted(set(getattr(self.config, "layer_types", None) or ()))
        # Mistral 0.1, Phi-3
        everywhere = not kinds and getattr(self.config, "sliding_window", None)
        if not everywhere and "sliding_attention" not in kinds:
            return self._additive(visible)
        positions = step.positions()
        distance = positions[:, None] - np.concatenate([np.arange(step.base), positions])[None]
        near = visible & (distance < self.config.sliding_window)
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

    def _is_exact(self, max_length: int) -> bool:
        """Try the tree on a small made-up case. A model that does not honour custom masks (a
        recurrent one, say) gives other numbers than row by row; its sequences then run one by one,
        slower and right."""
        length = min(2 * MIN_HEADER, max_length - 8)
        if length <= MIN_HEADER:
            return False
        draw = (
            np.random.default_rng(0).integers(0, self.config.vocab_size, size=length + 12).tolist()
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
        for step, scores in self.run(plan):
            for target, (value, _) in zip(step.targets, scores):
                sums[target.sequence] += value
        return sums

    def fastest_size(self) -> int:
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
