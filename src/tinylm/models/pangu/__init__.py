"""The PanGu-pi block as an option of a student: a `transformers` model that ships its own modelling
file.

Importing this package makes ``AutoConfig`` and ``AutoModelForCausalLM`` know model type
``pangu_pi`` in this process; elsewhere a saved model loads with ``trust_remote_code=True`` from the
two files that ``save_pretrained`` adds to it.
"""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tinylm.errors import InputError
from tinylm.models.pangu.configuration_pangu_pi import PanguPiConfig
from tinylm.models.pangu.modeling_pangu_pi import PanguPiForCausalLM

AutoConfig.register(PanguPiConfig.model_type, PanguPiConfig, exist_ok=True)
AutoModelForCausalLM.register(PanguPiConfig, PanguPiForCausalLM, exist_ok=True)
PanguPiConfig.register_for_auto_class()
PanguPiForCausalLM.register_for_auto_class("AutoModelForCausalLM")


def pangu_config(config: Any, series_terms: int = 2, shortcut_ratio: int = 32) -> PanguPiConfig:
    """The PanGu-pi config with all settings of a Llama ``config``; one that is PanGu-pi already
    stays as it is.

    InputError for another family.
    """
    if config.model_type == PanguPiConfig.model_type:
        return config
    if config.model_type != "llama":
        raise InputError(
            f"the PanGu-pi block extends the Llama block, not {config.model_type!r}: take a Llama"
            " student"
        )
    if series_terms < 1 or shortcut_ratio < 1:
        raise InputError(
            f"PanGu-pi: series_terms {series_terms} and shortcut_ratio {shortcut_ratio} must be 1"
            " or more"
        )
    settings = {
        key: value
        for key, value in config.to_dict().items()
        if key not in ("model_type", "architectures")
    }
    return PanguPiConfig(**settings, series_terms=series_terms, shortcut_ratio=shortcut_ratio)


@torch.no_grad()
def from_llama(
    model: Any, series_terms: int = 2, shortcut_ratio: int = 32, seed: int = 0
) -> PanguPiForCausalLM:
    """Graft the PanGu-pi block on a Llama model: same weights, same logits, and the two additions
    ready to learn.

    A model that has the block already is returned as it is. ``seed`` is of the first half of the
    shortcuts; the other half starts at zero.
    """
    if model.config.model_type == PanguPiConfig.model_type:
        return model
    config = pangu_config(model.config, series_terms, shortcut_ratio)
    # .to(dtype) would round RoPE's frequencies
    grafted = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in grafted.named_parameters():
        if name.endswith("shortcut.down.weight"):
            weight.copy_(torch.randn(weight.shape, generator=generator) * config.initializer_range)
    missing, unexpected = grafted.load_state_dict(model.state_dict(), strict=False)
    added = [
        name for name in missing if not any(part in name for part in (".series.", ".shortcut."))
    ]
    if added or unexpected:
        raise InputError(
            f"this is not a plain Llama model: {(added + list(unexpected))[0]} has no counterpart"
        )
    grafted.generation_config = model.generation_config
    return grafted.to(model.device).train(model.training)
