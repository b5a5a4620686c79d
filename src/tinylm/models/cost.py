"""What a shape costs: FLOPs, bytes on disk, cache and training memory, and the bill of a whole
training run.

All from arithmetic; nothing is built or run. Symbols as in :mod:`tinylm.models.parameters`. A
multiply-add counts 2.
"""

from typing import Any

from tinylm.models.parameters import matrix_parameters, parameters
from tinylm.models.shape import Shape
from tinylm.render.numbers import millions

BLOCK = 32  # weights that share one scale in GGUF's Q8_0 and Q4_0
BYTES_PER_WEIGHT = {"fp32": 4.0, "bf16": 2.0, "Q8_0": 34 / BLOCK, "Q4_0": 18 / BLOCK}
ADAMW_BYTES_PER_PARAMETER = 16  # fp32 weight, gradient and two moments


def forward_flops(shape: Shape, context: int, config: Any = None) -> int:
    """FLOPs of a forward pass per token, every token attending to ``context`` others.

    Matrices cost 2 per weight (the head also when it is tied; the embedding is a look-up and costs
    nothing), attention 4 x A per pair of tokens and layer. As in `torch.utils.flop_counter` the
    whole context x context square counts; a causal kernel may skip half of it. Decoding one token
    at a cache of ``context`` costs the same by this formula.
    """
    matrices = matrix_parameters(shape, config) - (
        0 if shape.tie_word_embeddings else shape.vocab_size * shape.hidden_size
    )
    pairs = 4 * shape.num_attention_heads * shape.head_dim * context * shape.num_layers
    return 2 * matrices + pairs


def training_flops(shape: Shape, context: int, config: Any = None) -> int:
    """FLOPs of forward and backward per token at sequence length ``context``: three forward passes.

    Each matrix takes part in two products on the way back; recomputation (checkpointing, flash
    attention) is extra.
    """
    return 3 * forward_flops(shape, context, config)


def training_flops_of_model(model: Any, length: int) -> int:
    """FLOPs of a token forwards and backwards, for a model in memory of any family: 6 a trained
    weight, and 6 a multiply-add of causal attention's scores and mixing (averaged over a window of
    ``length``)."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    weights = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    if not getattr(config, "tie_word_embeddings", True):
        weights -= model.get_input_embeddings().weight.numel()  # a lookup, no product
    return 6 * (weights + config.num_hidden_layers * heads * head_dim * length)


def weight_bytes(shape: Shape, config: Any = None) -> dict[str, int]:
    """Bytes of the weights {"fp32", "bf16", "Q8_0", "Q4_0"}.

    In the quantised formats every matrix is quantised and vectors (norms, biases) stay fp32, as
    GGUF stores them. llama.cpp's own mixes may keep the embedding at higher precision; file headers
    and the tokenizer come on top.
    """
    matrices = matrix_parameters(shape, config)
    vectors = parameters(shape, config) - matrices
    sizes = {}
    for name, per_weight in BYTES_PER_WEIGHT.items():
        vector_bytes = 4 if name[0] == "Q" else per_weight
        sizes[name] = round(matrices * per_weight + vectors * vector_bytes)
    return sizes


def kv_cache_bytes_per_token(shape: Shape, bytes_per_value: float = 2) -> int:
    """Bytes that every token of context adds to the key-value cache (keys and values, all layers).

    Layers with a sliding window stop growing at the window's length; this is the growth before it.
    """
    return round(
        2 * shape.num_layers * shape.num_key_value_heads * shape.head_dim * bytes_per_value
    )


def activation_bytes_per_token(
    shape: Shape, bytes_per_value: int = 2, *, checkpointing: bool = False
) -> int:
    """Bytes per token kept from the forward to the backward pass, in a compute dtype of
    ``bytes_per_value``.

    Exact for the Llama block of `transformers` with scaled_dot_product_attention (its norms and its
    loss keep fp32 copies); families with more norms keep 10-30 % more. With ``checkpointing`` only
    each layer's input is kept. The softmax over the vocabulary passes through a further
    ``(bytes_per_value + 8) x V`` while the loss is computed.
    """
    size, hidden = bytes_per_value, shape.hidden_size
    outside = (2 * size + 4) * hidden + 4 * shape.vocab_size + size * shape.head_dim + 20
    if checkpointing:
        return (
            shape.num_layers * size * hidden + (2 * size + 4) * hidden + 4 * shape.vocab_size + 20
        )
    return shape.num_layers * layer_activation_bytes_per_token(shape, size) + outside


def layer_activation_bytes_per_token(shape: Shape, bytes_per_value: int = 2) -> int:
    """Bytes per token that one layer keeps for its backward pass."""
    size, heads = bytes_per_value, shape.num_attention_heads
    block = (4 * size + 8) * shape.hidden_size + 4 * size * shape.intermediate_size
    return block + 2 * size * shape.head_dim * (heads + shape.num_key_value_heads) + 4 * heads + 8


def training_bytes(
    shape: Shape, tokens_in_flight: int, config: Any = None, *, checkpointing: bool = False
) -> int:
    """Memory for training with AdamW and bf16 activations: 16 bytes a parameter plus the tokens of
    one micro-batch."""
    state = ADAMW_BYTES_PER_PARAMETER * parameters(shape, config)
    return state + tokens_in_flight * activation_bytes_per_token(
        shape, 2, checkpointing=checkpointing
    )


def training_bill(
    shape: Shape, tokens: float, context: int, peak_flops: float, mfu: float, config: Any = None
) -> dict[str, float]:
    """The cost of a run before it starts: {"tokens", "flops", "device_hours", ...}.

    Args:
        tokens: tokens trained on, all rounds together.
        context: sequence length.
        peak_flops: what one device can do in its training dtype, per second (e.g. 989e12: H100,
            bf16, dense).
        mfu: the part of it (0 to 1) that training is assumed to reach; state it beside the result.
    """
    flops = tokens * training_flops(shape, context, config)
    return {
        "tokens": tokens,
        "tokens_per_parameter": tokens / parameters(shape, config),
        "flops": flops,
        "peak_flops": peak_flops,
        "mfu": mfu,
        "device_hours": flops / (peak_flops * mfu) / 3600,
    }


def describe_bill(bill: dict[str, float]) -> str:
    """One line for a person: what the run computes and how long it takes at the stated
    utilisation."""
    return (
        f"training on {millions(bill['tokens'])} tokens ({bill['tokens_per_parameter']:.3g} a"
        f" parameter): {bill['flops']:.3g} FLOP, {bill['device_hours']:,.4g} device-hours at"
        f" {bill['mfu']:.0%} of {bill['peak_flops'] / 1e12:,.4g} TFLOP/s"
    )


def costs(shape: Shape, context: int = 2048, config: Any = None) -> dict[str, Any]:
    """Everything above as one dictionary, for plan.json."""
    return {
        "context": context,
        "forward_flops_per_token": forward_flops(shape, context, config),
        "training_flops_per_token": training_flops(shape, context, config),
        "weight_bytes": weight_bytes(shape, config),
        "kv_cache_bytes_per_token": kv_cache_bytes_per_token(shape),
        "activation_bytes_per_token": activation_bytes_per_token(shape),
    }
