"""Greedy continuations of prompts, for tasks whose answer is free text."""

import torch
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinylm.errors import InputError


def continue_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    options: dict,
    max_length: int,
) -> list[str]:
    """The texts that ``model`` puts after ``prompts`` (token ids, cut on the left to fit), each up
    to its first stop string; ``options`` are lm-eval's generation settings."""
    from lm_eval.models.utils_hf import stop_sequences_criteria

    end = tokenizer.eos_token_id
    settings = normalize_gen_kwargs(options, 256)
    stop = handle_stop_sequences(settings.pop("until", None), eos=tokenizer.decode([end]))
    new_tokens = settings.pop("max_gen_toks")
    room = max_length - new_tokens
    if room < 1:
        raise InputError(
            f"context {max_length} has no room for a prompt and {new_tokens} generated tokens"
        )
    if settings.get("do_sample"):
        raise InputError(
            "sampled generation is not scored here: set do_sample to false in the task"
        )
    prompts = [prompt[-room:] for prompt in prompts]
    longest = max(map(len, prompts))
    # padding on the left, hidden by the mask
    inputs = torch.full((len(prompts), longest), end)
    mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        inputs[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    output = model.generate(  # type: ignore[operator]
        inputs.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=end,
        stopping_criteria=stop_sequences_criteria(tokenizer, stop, longest, len(prompts)),
    )
    texts = tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True)
    return [postprocess_generated_text(text, stop, None) for text in texts]
