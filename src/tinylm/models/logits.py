"""What a family does to its logits beyond the output matrix."""

from typing import Any


def scale_and_cap(config: Any) -> tuple[float, float]:
    """(scale, cap) of ``cap * tanh(scale * x / cap)``; a cap of 0 is none.

    Cohere and Granite scale, Gemma 2 caps.
    """
    config = config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1 / (
        getattr(config, "logits_scaling", None) or 1
    )
    return float(scale), float(getattr(config, "final_logit_softcapping", None) or 0)
