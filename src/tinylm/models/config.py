"""config.json of a model, read and checked: every oddity is one clear line, none a traceback."""

import os
from pathlib import Path
from typing import Any

import torch

from tinylm.artifact import read_object
from tinylm.errors import InputError
from tinylm.models import block

TRUST = "TINYLM_TRUST_REMOTE_CODE"


def read_config(folder: Path) -> Any:
    """The `transformers` config in ``folder``. An id of -1, which old Llama configs give for a
    padding token that there is not, becomes None.

    Raises:
        InputError: no config.json, one that `transformers` cannot read, or one whose padding token
            has no row.
    """
    from transformers import AutoConfig

    trusted = may_run_code(folder)
    try:
        config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=trusted)
        text = config.get_text_config()
    except Exception as error:  # each family checks its config in its own way
        raise InputError(
            f"model {folder} has no readable config.json ({first_line(error)})"
        ) from error
    pad, rows = getattr(text, "pad_token_id", None), getattr(text, "vocab_size", None)
    if isinstance(pad, int) and isinstance(rows, int) and pad >= rows:
        raise InputError(
            f"{folder / 'config.json'}: pad_token_id = {pad}, the embedding has {rows} rows: set it"
            " to null"
        )
    for one in (config, text):
        if isinstance(getattr(one, "pad_token_id", None), int) and one.pad_token_id < 0:
            one.pad_token_id = None
    return config


def check_values(folder: Path) -> dict[str, Any]:
    """config.json as it stands. InputError for what `transformers` fails at without naming it."""
    path = folder / "config.json"
    config = read_object(path)
    model_type = config.get("model_type")
    if model_type is not None and not isinstance(model_type, str):
        raise InputError(f"{path}: model_type = {model_type!r} must be a text")
    for key in ("dtype", "torch_dtype"):
        name = config.get(key)
        known = isinstance(name, str) and getattr(torch, name.removeprefix("torch."), None)
        if isinstance(name, str) and not isinstance(known, torch.dtype):
            raise InputError(
                f"{path}: {key} = {name!r} is no number format of torch: write the weights' own,"
                " such as bfloat16, or remove it"
            )
    return config


def read_generation(folder: Path) -> dict[str, Any] | None:
    """generation_config.json as it stands, None without one. InputError for ends of a text that
    are no ids: `transformers` passes over them, and a text would never end."""
    path = folder / "generation_config.json"
    if not path.exists():
        return None
    settings = read_object(path)
    ends = settings.get("eos_token_id")
    if any(type(i) is not int for i in (ends if isinstance(ends, list) else [ends or 0])):
        raise InputError(f"{path}: eos_token_id = {ends!r} must be a token id or a list of them")
    return settings


def may_run_code(folder: Path) -> bool:
    """Whether code in ``folder`` may be run; InputError when the model needs that and nobody
    allowed it."""
    if not (folder / "config.json").exists():
        raise InputError(f"model directory {folder} has no config.json")
    config = check_values(folder)
    if block.register(config.get("model_type")):  # the code beside the model is not run
        return False
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    # Phi-3 and others still bring the code they had before
    if config.get("model_type") in CONFIG_MAPPING:
        return False
    trusted = os.environ.get(TRUST) == "1"
    if "auto_map" in config and not trusted:
        raise InputError(
            f"model {folder} brings code of its own: read it, then set {TRUST}=1 to run it"
        )
    return trusted


def first_line(error: BaseException) -> str:
    """What an error of another library says, on one line; its kind where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines[:2] if lines[:1] and lines[0].endswith(":") else lines[:1])
    said = said or type(error).__name__
    # a bare key or name says nothing by itself
    return said if " " in said else f"{type(error).__name__}: {said}"
