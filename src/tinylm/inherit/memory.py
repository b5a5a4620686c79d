"""What scoring a teacher will need, told before it starts."""

import torch

from tinylm.models.shape import Shape

BATCH = 4  # chunks that score together


def parameters(shape: Shape) -> int:
    """Weights of a decoder of ``shape``: three FFN matrices, four of attention, embedding and head; norms left out."""
    attention = 2 * shape.hidden_size * shape.head_dim * (shape.num_attention_heads + shape.num_key_value_heads)
    layer = attention + 3 * shape.hidden_size * shape.intermediate_size
    embedding = shape.vocab_size * shape.hidden_size * (1 if shape.tie_word_embeddings else 2)
    return shape.num_layers * layer + embedding


def peak_bytes(teacher: Shape, target: Shape, dtype: torch.dtype, length: int) -> dict[str, int]:
    """Bytes of each part at the peak of scoring by Taylor: both models, what the backward pass keeps, the logits."""
    width = dtype.itemsize
    tokens = BATCH * length
    attention = teacher.head_dim * (2 * teacher.num_attention_heads + 2 * teacher.num_key_value_heads)
    per_token = 8 * teacher.hidden_size + 2 * attention + 5 * teacher.intermediate_size
    return {
        "teacher": parameters(teacher) * width,
        "student": parameters(target) * width,
        "activations": tokens * teacher.num_layers * per_token * width,
        "logits": tokens * teacher.vocab_size * (width + 4),
    }


def memory_line(teacher: Shape, target: Shape, dtype: torch.dtype, length: int) -> str:
    """One line for the terminal."""
    parts = peak_bytes(teacher, target, dtype, length)
    listed = " + ".join(f"{name} {size / 1e9:.1f}" for name, size in parts.items())
    return f"memory: about {sum(parts.values()) / 1e9:.1f} GB ({listed})"
