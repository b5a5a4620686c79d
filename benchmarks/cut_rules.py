"""Published rules of structured pruning, small and honest, for `after_cut.py`: FLAP, SliceGPT,
MoDeGPT, ShortGPT.

Each takes a teacher in memory, calibration chunks and the share of the non-embedding parameters to
remove, and gives (a model, the share removed). What they make is no plain `transformers` model
(biases, adapters, widths that differ by layer and by head), so nothing is cut out: what is removed
is set to zero or projected away in a copy of full size, which computes the same function, and the
parameters are counted as each paper stores them.
"""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tinylm.inherit.depth import similarity
from tinylm.inherit.inheritance import inherit
from tinylm.inherit.stack import Stack
from tinylm.models import families
from tinylm.models.parameters import parameters_by_part
from tinylm.models.shape import Shape

BATCH = 4
RIDGE = 1e-4  # of the mean power, so that a Gram matrix can be inverted
MOST = 0.85  # of a layer that MoDeGPT's allocation may remove


class NotApplicableError(Exception):
    """The rule cannot be used on this teacher."""


def count(shape: Shape) -> int:
    """Non-embedding parameters of ``shape``, without norms."""
    parts = parameters_by_part(shape)
    return parts["attention"] + parts["ffn"]


def shortgpt(teacher: Any, chunks: Tensor, share: float) -> tuple[Any, float]:
    """ShortGPT (arXiv 2403.03853): the layers of least block influence go, nothing is repaired."""
    shape = Shape.from_config(teacher.config)
    kept = shape.num_layers - round(share * shape.num_layers)
    target = dataclasses.replace(shape, num_layers=kept)
    cut = inherit(teacher, target, chunks, "random", "similarity", repair=())
    return cut.model, 1 - count(target) / count(shape)


@torch.no_grad()
def flap(teacher: Any, chunks: Tensor, share: float) -> tuple[Any, float]:
    """FLAP (arXiv 2312.11983), its best setting: fluctuation of each input of o_proj and down_proj
    times the norm of its column, standardised in each matrix, one threshold for all; the mean of
    what is removed becomes a bias. Heads go by key-value group, so that a group's cache goes too.
    """
    model, shape = copy.deepcopy(teacher), Shape.from_config(teacher.config)
    sums: dict[nn.Module, list[Tensor]] = {}
    layers = model.base_model.layers
    heads: list[Any] = [layer.self_attn.o_proj for layer in layers]
    modules: list[Any] = heads + [layer.mlp.down_proj for layer in layers]
    handles = [
        m.register_forward_pre_hook(lambda m, args: _add_moments(sums, m, args[0])) for m in modules
    ]
    for batch in chunks.split(BATCH):
        model.base_model(input_ids=batch, use_cache=False)
    for handle in handles:
        handle.remove()
    tokens = chunks.numel()
    means = {m: first / tokens for m, (first, _) in sums.items()}
    units: list[tuple[float, int, Any, slice]] = []  # score, parameters, matrix, columns
    for place, m in enumerate(modules):
        variance = sums[m][1] / tokens - means[m].square()
        score = variance * m.weight.float().square().sum(0)
        score = (score - score.mean()) / score.std()
        width, cost = 1, 3 * shape.hidden_size
        if place < len(heads):
            width = shape.heads_per_group * shape.head_dim
            cost = shape.hidden_size * (2 * width + 2 * shape.head_dim)
        for number, value in enumerate(score.view(-1, width).mean(1).tolist()):
            units.append((value, cost, m, slice(number * width, (number + 1) * width)))
    biases: dict[Any, Tensor] = {m: torch.zeros(m.out_features) for m in modules}
    goal, removed = share * count(shape), -sum(map(len, biases.values()))
    for _, cost, m, columns in sorted(units, key=lambda unit: unit[0]):
        if removed >= goal:
            break
        biases[m] += m.weight[:, columns].float() @ means[m][columns]
        m.weight[:, columns] = 0
        removed += cost
    for m in modules:
        m.bias = nn.Parameter(biases[m].to(m.weight.dtype))
    return model, removed / count(shape)


def _add_moments(sums: dict, module: nn.Module, x: Tensor) -> None:
    flat = x.float().flatten(0, -2)
    found = [flat.sum(0), flat.square().sum(0)]
    sums[module] = [a + b for a, b in zip(sums[module], found)] if module in sums else found


class Sliced(nn.Module):
    """A layer of SliceGPT: the stream is projected before attention and before the FFN. As stored
    by the paper: rotated, ``rank`` numbers wide, with an adapter of rank x rank between."""

    def __init__(self, layer: Any, before: Tensor, middle: Tensor) -> None:
        super().__init__()
        self.layer, self.before, self.middle = layer, before, middle

    def forward(self, hidden_states: Tensor, **call: Any) -> Tensor:
        layer, state = self.layer, projected(hidden_states, self.before)
        state = state + layer.self_attn(hidden_states=layer.input_layernorm(state), **call)[0]
        state = projected(state, self.middle)
        return state + layer.mlp(layer.post_attention_layernorm(state))


@torch.no_grad()
def slicegpt(teacher: Any, chunks: Tensor, share: float) -> tuple[Any, float]:
    """SliceGPT (arXiv 2401.15024): principal components of the normalised stream before each block,
    one rotation a block, the least components cut off. Adapters are counted; the head is sliced."""
    if families.family_of(teacher.config).output_norms:
        raise NotApplicableError(
            "norms stand between its blocks and the stream: no rotation passes them"
        )
    model, shape = copy.deepcopy(teacher), Shape.from_config(teacher.config)
    rank = next(
        r
        for r in range(shape.hidden_size, 0, -1)
        if _sliced(shape, r) <= (1 - share) * count(shape)
    )
    stack, layers = Stack.of(model), model.base_model.layers
    entered = [stack.enter(batch) for batch in chunks.split(BATCH)]
    states = [state for state, _ in entered]
    for index, layer in enumerate(list(layers)):
        calls = [call[index] for _, call in entered]
        before = _projection(states, rank)
        middles = []
        for state, call in zip(states, calls, strict=True):
            state = projected(state, before)
            middles.append(
                state + layer.self_attn(hidden_states=layer.input_layernorm(state), **call)[0]
            )
        layers[index] = Sliced(layer, before, _projection(middles, rank))
        states = [layers[index](state, **call) for state, call in zip(states, calls, strict=True)]
    last = _projection(states, rank)
    model.base_model.norm.register_forward_pre_hook(lambda norm, args: projected(args[0], last))
    return model, 1 - _sliced(shape, rank) / count(shape)


def _sliced(shape: Shape, rank: int) -> int:
    """Parameters at ``rank``: matrices that lose one side, and two adapters a layer."""
    return round(count(shape) * rank / shape.hidden_size) + 2 * shape.num_layers * rank**2


def _projection(states: list[Tensor], rank: int) -> Tensor:
    """Onto the ``rank`` largest principal components of the normalised ``states``, float32 [H,
    H]."""
    gram = torch.zeros(states[0].shape[-1], states[0].shape[-1])
    for state in states:
        flat = state.float().flatten(0, -2)
        flat = flat * torch.rsqrt(flat.square().mean(-1, keepdim=True).clamp_min(1e-12))
        gram += flat.T @ flat
    vectors = torch.linalg.eigh(gram.double()).eigenvectors[:, -rank:]
    return (vectors @ vectors.T).float()


def projected(state: Tensor, onto: Tensor) -> Tensor:
    """In float32: in bfloat16 the few huge numbers of a stream would leak into all others, which
    they do not in the rotated, narrower stream that the paper stores."""
    return (state.float() @ onto).to(state.dtype)


@torch.no_grad()
def modegpt(
    teacher: Any, chunks: Tensor, share: float, temperature: float = 0.1, ridge: float = 0.1
) -> tuple[Any, float]:
    """MoDeGPT (arXiv 2408.09632): FFN units by ridge leverage with the Nystrom map, rotary pairs of
    queries and keys by CR, values and outputs by SVD, layer by layer on what the layers before have
    left; what a layer loses follows its block influence.

    Norms of queries and keys (Qwen 3, Gemma 3) run over all numbers of a head: there queries and
    keys stay whole and the other two give what is asked.
    """
    model, shape = copy.deepcopy(teacher), Shape.from_config(teacher.config)
    whole_qk = hasattr(model.base_model.layers[0].self_attn, "q_norm")
    stack, layers = Stack.of(model), model.base_model.layers
    matrices = shape.head_dim * (shape.num_attention_heads + shape.num_key_value_heads)
    parts = {"qk": matrices, "vo": matrices, "ffn": 3 * shape.intermediate_size}
    reachable = (sum(parts.values()) - (parts["qk"] if whole_qk else 0)) / sum(parts.values())
    shares = _allocation(similarity(teacher, chunks[:16]), share / reachable, temperature)
    entered = [stack.enter(batch) for batch in chunks.split(BATCH)]
    states, removed = [state for state, _ in entered], 0
    for index, layer in enumerate(layers):
        calls = [call[index] for _, call in entered]
        grams = _grams(layer, states, calls)
        a_head = shape.head_dim * float(shares[index])
        dropped = {
            "vo": round(a_head),
            "ffn": round(shape.intermediate_size * float(shares[index])),
        }
        dropped["qk"] = 0 if whole_qk else 2 * round(a_head / 2)
        root, inverse = _root(grams["attention"])
        if dropped["qk"]:
            _keep_rotary_pairs(layer.self_attn, root, shape, shape.head_dim - dropped["qk"])
        _keep_values(layer.self_attn, root, inverse, shape, shape.head_dim - dropped["vo"])
        _nystrom(layer.mlp.down_proj, grams["ffn"], shape.intermediate_size - dropped["ffn"], ridge)
        heads = shape.num_attention_heads + shape.num_key_value_heads
        removed += shape.hidden_size * (
            heads * (dropped["qk"] + dropped["vo"]) + 3 * dropped["ffn"]
        )
        states = [layer(state, **call) for state, call in zip(states, calls, strict=True)]
    return model, removed / count(shape)


def _allocation(influence: Tensor, share: float, temperature: float) -> Tensor:
    """The share that each layer loses: softmax of -influence / temperature, at most ``MOST``, with
    the asked mean."""
    weights, low, high = torch.softmax(-influence.double() / temperature, 0), 0.0, 1e6
    for _ in range(100):  # bisection: what one layer may not lose, the others do
        middle = (low + high) / 2
        below = float((weights * middle).clamp(max=MOST).mean()) < share
        low, high = (middle, high) if below else (low, middle)
    return (weights * high).clamp(max=MOST)


def _grams(layer: Any, states: list[Tensor], calls: list[dict]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def add(name: str) -> Callable[[nn.Module, tuple], None]:
        def hook(module: nn.Module, args: tuple) -> None:
            flat = args[0].float().flatten(0, -2)
            found[name] = found.get(name, 0) + flat.T @ flat

        return hook

    handles = [
        layer.self_attn.q_proj.register_forward_pre_hook(add("attention")),
        layer.mlp.down_proj.register_forward_pre_hook(add("ffn")),
    ]
    for state, call in zip(states, calls, strict=True):
        layer(state, **call)
    for handle in handles:
        handle.remove()
    return {name: gram.double() for name, gram in found.items()}


def _root(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The square root of ``gram`` and its inverse, float64."""
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(0) + RIDGE * values.mean()
    return (vectors * values.sqrt()) @ vectors.T, (vectors * values.rsqrt()) @ vectors.T


def _keep_rotary_pairs(attention: Any, root: Tensor, shape: Shape, kept: int) -> None:
    """In each key-value group the ``kept`` numbers (whole rotary pairs) whose queries and keys are
    largest on the text."""
    size, half = shape.head_dim, shape.head_dim // 2
    power = {
        name: (root @ getattr(attention, name).weight.double().T).square().sum(0)
        for name in ("q_proj", "k_proj")
    }
    queries = power["q_proj"].view(shape.num_key_value_heads, -1, size).sum(1).sqrt()
    keys = power["k_proj"].view(shape.num_key_value_heads, size).sqrt()
    score = (queries * keys).view(-1, 2, half).sum(1)
    for group, row in enumerate(score):
        out = torch.argsort(row)[: half - kept // 2]
        out = torch.cat([out, out + half])
        attention.k_proj.weight[group * size + out] = 0
        for head in range(group * shape.heads_per_group, (group + 1) * shape.heads_per_group):
            attention.q_proj.weight[head * size + out] = 0


def _keep_values(attention: Any, root: Tensor, inverse: Tensor, shape: Shape, kept: int) -> None:
    """Values and outputs of each key-value group by the best ``kept`` numbers between them."""
    size, a_group = shape.head_dim, shape.heads_per_group * shape.head_dim
    value, output = attention.v_proj.weight, attention.o_proj.weight
    for group in range(shape.num_key_value_heads):
        rows = slice(group * size, (group + 1) * size)
        columns = slice(group * a_group, (group + 1) * a_group)
        by_head = output[:, columns].double().view(len(output), -1, size)  # [H, heads, size]
        product = value[rows].double().T @ by_head.permute(2, 1, 0).reshape(size, -1)
        left, strength, right = torch.linalg.svd(root @ product, full_matrices=False)
        value[rows], output[:, columns] = 0, 0
        value[rows][:kept] = (inverse @ left[:, :kept]).T.to(value.dtype)
        mapped = (strength[:kept, None] * right[:kept]).view(kept, shape.heads_per_group, -1)
        filled = torch.zeros(len(output), shape.heads_per_group, size, dtype=torch.double)
        filled[:, :, :kept] = mapped.permute(2, 1, 0)
        output[:, columns] = filled.flatten(1).to(output.dtype)


def _nystrom(down: nn.Linear, gram: Tensor, kept: int, ridge: float) -> None:
    """FFN units by ridge leverage; the columns that stay make up for the others."""
    eye = torch.eye(len(gram), dtype=gram.dtype)
    power = gram.diagonal().mean()
    leverage = torch.linalg.solve(gram + ridge * power * eye, gram).diagonal()
    stay = torch.sort(torch.argsort(leverage, descending=True)[:kept]).values
    inner = gram[stay][:, stay] + RIDGE * power * eye[:kept, :kept]
    mapped = torch.linalg.solve(inner, gram[stay] @ down.weight.double().T).T
    down.weight.zero_()
    down.weight[:, stay] = mapped.to(down.weight.dtype)
