"""A model as a stack of layers, so that its weights need not be in memory together.

Whatever a teacher is asked (a loss, gradients, what goes into each layer) is a walk through its
layers. With all weights at hand the walk is the model's own. With weights on disk all of the text
goes through one layer before the next one is read: each weight is read once a pass (twice with
gradients), whatever the length of the text, and only the states between layers are kept.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from tinylm.inherit.cut import model_weights
from tinylm.inherit.memory import recomputed_layers
from tinylm.inherit.progress import Progress, Tensors, as_list, numbered
from tinylm.models import families
from tinylm.models.initialise import hollow_model
from tinylm.models.shards import Shards
from tinylm.models.teacher import generation_of, load_config

LAYER = "model.layers.{}."

Call = dict[str, Any]  # how a layer is called beside its state: masks, rotary angles
Tick = Callable[[float], Any]  # told how much more is done


def _silent(amount: float) -> None:
    return None


class Reached(Exception):
    """What we wanted to see has run: the rest of the model is not needed."""


@dataclass(frozen=True)
class Step:
    """One layer of a walk. ``before`` and ``after`` are the residual streams, [B, T, hidden] for
    each batch; ``calls`` go with them."""

    index: int
    layer: Any
    before: list[Tensor]
    after: list[Tensor]
    calls: list[Call]


@dataclass(frozen=True)
class Stack:
    """``model`` and, where its layers hold no weights, the ``weights`` to read them from. What is
    asked of it leaves its ``progress``."""

    model: Any
    weights: Mapping[str, Tensor] | None = None
    progress: Progress = field(default_factory=Progress)

    @staticmethod
    def of(model: "Any | Stack") -> "Stack":
        return model if isinstance(model, Stack) else Stack(model)

    @property
    def layers(self) -> list[Any]:
        """The decoder layers; use :meth:`layer` where one must have its weights."""
        return list(self.model.base_model.layers)

    def tensors(self) -> Mapping[str, Tensor]:
        """The weights by name, whether in memory or read when they are asked for."""
        return model_weights(self.model) if self.weights is None else self.weights

    @property
    def streamed(self) -> bool:
        return self.weights is not None

    def groups(self, batches: Sequence[Tensor]) -> list[list[Tensor]]:
        """``batches`` that go through the layers together: one, or all where each layer is read
        from disk."""
        return [list(batches)] if self.streamed else [[batch] for batch in batches]

    @contextmanager
    def layer(self, index: int) -> Iterator[Any]:
        """The layer, which has its weights inside this context."""
        layer = self.model.base_model.layers[index]
        if self.weights is None:
            yield layer
            return
        prefix, like = LAYER.format(index), self.model.get_input_embeddings().weight
        held = {
            name.removeprefix(prefix): self.weights[name].to(like.device, like.dtype)
            for name in self.weights
            if name.startswith(prefix)
        }
        layer.load_state_dict(held, assign=True)
        del held
        try:
            yield layer
        finally:
            layer.to("meta")

    def walk(
        self,
        batches: Sequence[Tensor],
        skip: frozenset[int] | set[int] = frozenset(),
        start: int = 0,
        states: list[Tensor] | None = None,
    ) -> Iterator[Step]:
        """Every layer but those to ``skip``, front to back, with what goes in and comes out.

        Args:
            batches: int64 [B, T] each.
            start, states: the layer to go on at, and the stream before it.
        """
        entered, every = [], []
        for batch in batches:
            state, by_layer = self.enter(batch)
            entered.append(state)
            every.append(by_layer)
        states = states or entered
        del entered
        for index in range(start, len(self.layers)):
            if index in skip:
                continue
            with self.layer(index) as layer:
                calls = [by_layer[index] for by_layer in every]
                after = [layer(state, **call) for state, call in zip(states, calls, strict=True)]
                yield Step(index, layer, states, after, calls)
            states = after

    def enter(self, ids: Tensor) -> tuple[Tensor, list[Call]]:
        """The stream before the first layer, [B, T, hidden], and how each layer is called."""
        calls: list[Call] = []
        entered: list[Tensor] = []

        def record(hidden_states: Tensor, **call: Any) -> Tensor:
            entered.append(hidden_states)
            calls.append(call)
            if len(calls) == len(self.layers):
                raise Reached
            return hidden_states

        recording = replaced(self.model, dict.fromkeys(range(len(self.layers)), record))
        with recording, suppress(Reached):
            self.model.base_model(input_ids=ids, use_cache=False)
        return entered[0], calls

    @contextmanager
    def leaving(self, state: Tensor) -> Iterator[Any]:
        """Inside, ``model`` is what stands behind its layers: whatever is asked of it, ``state``
        comes out of the last one."""
        last = len(self.layers) - 1
        jumps: dict[int, Callable[..., Tensor]] = dict.fromkeys(range(last), _pass)
        with replaced(self.model, jumps | {last: lambda hidden_states, **call: state}):
            yield self.model

    def forward(self, batches: Sequence[Tensor], tick: Tick = _silent) -> None:
        """Run ``batches`` through the model for the hooks that are on it; no head. ``tick`` is
        told the batches done, in parts."""
        if not self.streamed:
            for batch in batches:
                self.model.base_model(input_ids=batch, use_cache=False)
                tick(1)
            return
        for step in self.walk(batches):
            after = step.after
            tick(len(batches) / len(self.layers))
        for batch, state in zip(batches, after, strict=True):
            with self.leaving(state) as model:
                model.base_model(input_ids=batch, use_cache=False)

    def backward(
        self,
        batches: Sequence[Tensor],
        loss_of: Callable[[Any, Tensor], Tensor],
        *,
        recompute: bool = False,
        begin: Callable[[int], None] = lambda number: None,
        tick: Tick = _silent,
        keep: str = "",
        sums: Tensors = MappingProxyType({}),
    ) -> list[float]:
        """Gradients of ``loss_of(model, batch)`` for every batch; the losses. They reach what is
        hooked into the model, and what its hooks ask gradients of.

        Args:
            loss_of: a sum over the batch's rows, so that it may be called with some of them.
            recompute: with all weights at hand: whether layers run again, to keep less.
            begin: called with a batch's number before anything of it runs with gradients.
            tick: told the batches done, in parts.
            keep: the name of the progress that is left; none without. A pass that goes on tells
                only the losses of its own batches.
            sums: what the hooks add to: part of the progress.
        """
        if self.streamed:
            progress = self.progress if keep else Progress()
            return self._backward_streamed(batches, loss_of, begin, tick, progress, keep, sums)
        losses = []
        known = self.progress.get(keep) if keep else None
        done = _restored(known, sums)
        tick(done)
        with recomputed_layers(self.model, recompute):
            for number, batch in list(enumerate(batches))[done:]:
                begin(number)
                loss = loss_of(self.model, batch)
                loss.backward()
                losses.append(float(loss.detach()))
                tick(1)
                if keep and self.progress.is_due(keep):
                    self.progress.put(keep, {"done": torch.tensor(number + 1), **sums})
        self.progress.drop(keep)
        return losses

    def _backward_streamed(
        self,
        batches: Sequence[Tensor],
        loss_of: Callable[[Any, Tensor], Tensor],
        begin: Callable[[int], None],
        tick: Tick,
        progress: Progress,
        keep: str,
        sums: Tensors,
    ) -> list[float]:
        layers = len(self.layers)
        share = len(batches) / layers / 3  # a layer's way back costs twice its way there
        known = progress.get(f"{keep}-back")
        index = _restored(known, sums) if known else layers
        losses = [0.0] * len(batches)
        calls = [self.enter(batch)[1] for batch in batches]
        if known:
            gradients = as_list(known, "gradient", batches[0])
            tick(share * (3 * layers - 2 * index))
        else:
            self._forward_kept(batches, progress, keep, lambda: tick(share))
            gradients = []
            last = as_list(progress.get(f"{keep}-{layers}") or {}, like=batches[0])
            for number, (batch, state) in enumerate(zip(batches, last, strict=True)):
                begin(number)
                losses[number], gradient = self._backward_head(batch, state, loss_of)
                gradients.append(gradient)
            del last
        while index:
            index -= 1
            inputs = as_list(progress.get(f"{keep}-{index}") or {}, like=batches[0])
            with self.layer(index) as layer:
                for number, state in enumerate(inputs):
                    begin(number)
                    leaf = state.detach().requires_grad_()
                    layer(leaf, **calls[number][index]).backward(gradients[number])
                    assert leaf.grad is not None
                    gradients[number] = leaf.grad
            del inputs
            tick(2 * share)
            if progress.is_due(f"{keep}-back"):
                back = {"done": torch.tensor(index), **numbered(gradients, "gradient"), **sums}
                progress.put(f"{keep}-back", back)
            if progress.folder is None:  # on disk a kill may need it again
                progress.drop(f"{keep}-{index}")
        for number, batch in enumerate(batches):
            begin(number)
            state, _ = self.enter(batch)
            if state.requires_grad:
                state.backward(gradients[number])
        for name in [*range(layers + 1), "back"]:
            progress.drop(f"{keep}-{name}")
        return losses

    def _forward_kept(
        self, batches: Sequence[Tensor], progress: Progress, keep: str, done: Callable[[], None]
    ) -> None:
        """Keep the stream before each layer and after the last one."""
        start, states = 0, None
        with torch.no_grad():
            while progress.has(f"{keep}-{start + 1}"):  # of a pass that was killed
                start += 1
                done()
            if start:
                states = as_list(progress.get(f"{keep}-{start}") or {}, like=batches[0])
            for step in self.walk(batches, start=start, states=states):
                if step.index == 0:
                    progress.put(f"{keep}-0", numbered(step.before))
                progress.put(f"{keep}-{step.index + 1}", numbered(step.after))
                done()

    def _backward_head(
        self, batch: Tensor, state: Tensor, loss_of: Callable[[Any, Tensor], Tensor]
    ) -> tuple[float, Tensor]:
        """The loss of a batch whose ``state`` leaves the last layer, and its gradient there. Row by
        row: the logits of a whole batch would be the largest thing in memory."""
        leaf, total = state.detach().requires_grad_(), 0.0
        for row, ids in zip(leaf.split(1), batch.split(1), strict=True):
            with self.leaving(row) as model:
                loss = loss_of(model, ids)
            total += float(loss.detach())
            loss.backward()
        assert leaf.grad is not None
        return total, leaf.grad


def _restored(known: Tensors | None, sums: Tensors) -> int:
    """How much is done by the progress ``known``, whose sums come back into ``sums``."""
    if known is None:
        return 0
    for name, total in sums.items():
        total.copy_(known[name])
    return int(known["done"])


def checked_weights(folder: Path, config: Any) -> Shards:
    """The weights of ``folder``, which are all that ``config`` and its family call for."""
    weights = Shards(folder, bool(config.tie_word_embeddings))
    families.check_weights(weights.sizes(), config)
    weights.check(config)
    return weights


def streamed_teacher(
    folder: Path, dtype: torch.dtype, device: torch.device, progress: Progress | None = None
) -> Stack:
    """The model of ``folder`` with its layers on disk: embedding, last norm and head are in
    memory.

    Raises:
        InputError: what is not there, damaged, or not what its config.json calls for.
    """
    config = load_config(folder)
    weights = checked_weights(folder, config)
    model = hollow_model(config, dtype)
    outside = {name: weights[name].to(dtype) for name in weights if families.layer_of(name) is None}
    model.load_state_dict(outside, strict=False, assign=True)
    model.tie_weights()
    for name, module in model.named_modules():
        if families.layer_of(f"{name}.") is None and not list(module.children()):
            module.to(device)
    model.generation_config = generation_of(folder) or model.generation_config
    return Stack(model.eval(), weights, progress or Progress())


def _pass(hidden_states: Tensor, *args: Any, **call: Any) -> Tensor:
    return hidden_states


@contextmanager
def replaced(model: Any, jumps: Mapping[int, Callable[..., Tensor]]) -> Iterator[None]:
    """Inside, the layers in ``jumps`` are these functions instead."""
    layers: nn.ModuleList = model.base_model.layers
    try:
        for index, jump in jumps.items():
            layers[index].forward = jump
        yield
    finally:
        for index in jumps:
            del layers[index].forward
