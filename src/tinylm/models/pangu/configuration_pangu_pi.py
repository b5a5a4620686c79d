"""Config of the PanGu-pi block. This file travels with every saved model, so it imports nothing but
`transformers`."""

from transformers import LlamaConfig


class PanguPiConfig(LlamaConfig):
    r"""
    A Llama config and three numbers.

    series_terms (`int`, defaults to 2):
        activations that the FFN gate sums, each with its own learned scale and shift.
    shortcut_ratio (`int`, defaults to 32):
        hidden_size over the width of the augmented shortcut's bottleneck; used when shortcut_size
        is not given.
    shortcut_size (`int`, *optional*):
        width of that bottleneck. Stored, so that cutting hidden_size later leaves the bottleneck as
        it is. 0: none.
    """

    model_type = "pangu_pi"

    series_terms: int = 2
    shortcut_ratio: int = 32
    shortcut_size: int | None = None

    def __post_init__(self, **kwargs):
        if self.shortcut_size is None:
            self.shortcut_size = max(1, self.hidden_size // self.shortcut_ratio)
        super().__post_init__(**kwargs)


__all__ = ["PanguPiConfig"]
