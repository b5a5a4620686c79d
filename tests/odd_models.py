"""Odd model directories, one a line: what was done to a good one, and what every command must say.

A row is (name, change, expected). ``change`` gets the folder of a good tiny Llama. ``expected`` is
FINE, a text that the one line of the refusal holds, or a dict {command: FINE or text} whose "" is
for the commands that it does not name. Commands: see ``COMMANDS`` in
integration/test_odd_inputs.py.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

FINE = "fine"
Change = Callable[[Path], None]


def config(drop: tuple[str, ...] = (), **values: Any) -> Change:
    """config.json without the keys ``drop`` and with ``values``."""

    def change(folder: Path) -> None:
        path = folder / "config.json"
        old = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps({k: v for k, v in old.items() if k not in drop} | values))

    return change


def rope(**scaling: Any) -> Change:
    """config.json with rotary settings as older repositories write them."""
    return config(drop=("rope_parameters",), rope_theta=10000.0, rope_scaling=scaling)


def file(name: str, content: str | bytes | None) -> Change:
    """The file ``name`` with ``content``; None removes it."""

    def change(folder: Path) -> None:
        path = folder / name
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def folder_for(name: str) -> Change:
    """A folder where the file ``name`` was: it is there and cannot be read."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def weights(edit: Callable[[dict[str, torch.Tensor]], Any], name: str = "") -> Change:
    """model.safetensors after ``edit`` of its tensors; written to another file where ``name``."""

    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors = edit(tensors) or tensors
        save_file(tensors, folder / (name or "model.safetensors"), metadata={"format": "pt"})

    return change


def both(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


def sharded(folder: Path) -> None:
    """Two shards and their index instead of one file."""
    tensors = load_file(folder / "model.safetensors")
    names, table = sorted(tensors), {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shard = f"model-{number:05d}-of-00002.safetensors"
        chosen = {name: tensors[name] for name in part}
        save_file(chosen, folder / shard, metadata={"format": "pt"})
        table |= dict.fromkeys(part, shard)
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": table}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def scaled(value: float) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda tensors: {name: tensor * value for name, tensor in tensors.items()}


def remove(part: str) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda tensors: {name: t for name, t in tensors.items() if part not in name}


def add(name: str, tensor: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda tensors: {**tensors, name: tensor}


def second_head(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] * 2}


def same_head(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}


def bare(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def first_weight(value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.mlp.down_proj.weight"][3, 5] = value

    return edit


GENERATION, SETTINGS = "generation_config.json", "tokenizer_config.json"
# what flags of sampling say where sampling is off
OFF = '{"eos_token_id": 2, "do_sample": false, "temperature": 0.6, "top_p": 0.9}'
INDEX = "model.safetensors.index.json"
UP = "model.layers.0.mlp.up_proj.weight"
# commands that read only config.json and the tokenizer know nothing of the weights
UNREAD = {"plan": FINE}
GENERATION_READ = {"": GENERATION, "plan": FINE}

ROWS: list[tuple[str, Change, Any]] = [
    ("as it is", lambda folder: None, FINE),
    # which files are the weights
    ("a scaled copy beside it", weights(scaled(0.1), "model_ema.safetensors"), FINE),
    ("a backup that sorts first", weights(scaled(0.1), "backup.safetensors"), FINE),
    ("an optimizer beside it", file("optimizer.safetensors", b"\0" * 64), FINE),
    ("a stale index beside it", file(INDEX, '{"weight_map": {"x": "gone.safetensors"}}'), FINE),
    ("a broken index beside it", file(INDEX, "{"), FINE),
    ("pickles beside it", file("pytorch_model.bin", b"\x80"), FINE),
    ("adapter weights beside it", file("adapter_model.safetensors", b"\0" * 64), FINE),
    ("an adapter", file("adapter_config.json", "{}"), {"": "adapter", **UNREAD}),
    ("in shards", sharded, FINE),
    (
        "shards, and one lost",
        both(sharded, file("model-00002-of-00002.safetensors", None)),
        {"": "model-00002-of-00002.safetensors", **UNREAD},
    ),
    ("shards, and no index", both(sharded, file(INDEX, None)), {"": INDEX, **UNREAD}),
    ("shards, and a broken index", both(sharded, file(INDEX, "{")), {"": INDEX, **UNREAD}),
    ("shards, and a list for an index", both(sharded, file(INDEX, "[]")), {"": INDEX, **UNREAD}),
    ("shards, and an index of nothing", both(sharded, file(INDEX, "{}")), {"": INDEX, **UNREAD}),
    (
        "weights under another name",
        lambda f: (f / "model.safetensors").rename(f / "w.safetensors"),
        {"": "w.safetensors", **UNREAD},
    ),
    (
        "pickles alone",
        both(file("model.safetensors", None), file("pytorch_model.bin", b"\x80")),
        {"": "pickle", **UNREAD},
    ),
    (
        "cut short",
        lambda f: (f / "model.safetensors").write_bytes(
            (f / "model.safetensors").read_bytes()[:5000]
        ),
        {"": "damaged", **UNREAD},
    ),
    ("empty", file("model.safetensors", b""), {"": "damaged", **UNREAD}),
    ("a header without end", file("model.safetensors", b"\xff" * 9), {"": "damaged", **UNREAD}),
    # weights that config.json does not call for, and the other way round
    (
        "scales of FP8",
        weights(add("model.layers.0.mlp.up_proj.weight_scale_inv", torch.ones(1, 1))),
        {"": "weight_scale_inv", **UNREAD},
    ),
    (
        "biases, the flag lost",
        weights(add("model.layers.0.self_attn.q_proj.bias", torch.ones(64))),
        {"": "q_proj.bias", **UNREAD},
    ),
    (
        "three layers of four",
        config(num_hidden_layers=3),
        {"": "layers.3", **UNREAD},
    ),
    ("five layers of four", config(num_hidden_layers=5), {"": "layers.4", **UNREAD}),
    ("no final norm", weights(remove("model.norm")), {"": "model.norm.weight", **UNREAD}),
    ("a wider config", config(intermediate_size=160), {"": "proj.weight", **UNREAD}),
    (
        "rotary tables of old times",
        weights(add("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(8))),
        FINE,
    ),
    ("a tied head stored twice", weights(same_head), FINE),
    ("a tied head of its own", weights(second_head), {"": "tie_word_embeddings", **UNREAD}),
    (
        "an untied head that is missing",
        config(tie_word_embeddings=False),
        {"": "lm_head.weight", **UNREAD},
    ),
    (
        "fp8 said of plain weights",
        config(quantization_config={"quant_method": "fp8"}),
        {"": "fp8", **UNREAD},
    ),
    (
        "bitsandbytes said of plain weights",
        config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        {"": "bitsandbytes", **UNREAD},
    ),
    ("8-bit integers", weights(lambda t: t | {UP: t[UP].to(torch.int8)}), {"": "I8", **UNREAD}),
    (
        "NaN in a weight",
        weights(first_weight(float("nan"))),
        {"generate": FINE, "plan": FINE, "compress": "nan", "": "NaN"},
    ),
    (
        "a weight beyond float16",
        weights(first_weight(80000.0)),
        {"": FINE, "export": "KL", "export f16": "65504"},
    ),
    ("names of a base model", weights(bare), FINE),
    ("no metadata", lambda f: save_file(tensors_of(f), f / "model.safetensors"), FINE),
    # config.json
    ("no config", file("config.json", None), "config.json"),
    ("a list", file("config.json", "[]"), "config.json"),
    ("not JSON", file("config.json", "{"), "config.json"),
    ("not UTF-8", file("config.json", b'{"model_type": "\xff"}'), "config.json"),
    (
        "a byte-order mark",
        lambda f: (f / "config.json").write_bytes(
            b"\xef\xbb\xbf" + (f / "config.json").read_bytes()
        ),
        "config.json",
    ),
    ("no model_type", config(drop=("model_type",)), "model_type"),
    ("a number for model_type", config(model_type=3), "model_type"),
    ("an unknown model_type", config(model_type="llama5"), "llama5"),
    ("padding id -1", config(pad_token_id=-1), FINE),
    ("padding id without a row", config(pad_token_id=504), "pad_token_id"),
    ("an end id without a row", config(eos_token_id=504), FINE),
    ("a text for an end id", config(eos_token_id="</s>"), "eos_token_id"),
    ("a list of end ids", config(eos_token_id=[2, 0]), FINE),
    ("dtype auto", config(torch_dtype="auto", dtype="auto"), "dtype"),
    ("dtype bf16", config(dtype="bf16"), "dtype"),
    ("dtype float8 of plain weights", config(dtype="float8_e4m3fn"), {"": "float8", **UNREAD}),
    (
        "an unknown activation",
        config(hidden_act="squared_silu"),
        {"": "squared_silu", "plan": FINE, "export": "squared_silu"},
    ),
    ("another activation", config(hidden_act="gelu"), {"": FINE, "export": "gelu"}),
    ("a vocabulary of text", config(vocab_size="504"), "vocab_size"),
    ("more rows than there are", config(vocab_size=640), {"": "504", "plan": FINE}),
    ("no head_dim", config(drop=("head_dim",)), FINE),
    ("head_dim null", config(head_dim=None), FINE),
    ("rotary: linear", rope(type="linear", factor=2.0), FINE),
    ("rotary: unknown", rope(type="su", factor=2.0), {"": "su", "plan": FINE}),
    ("rotary: llama3 without its keys", rope(rope_type="llama3", factor=8.0), "rope"),
    ("rotary: a factor of text", rope(type="linear", factor="two"), {"": "str", "plan": FINE}),
    ("rotary: dynamic", rope(type="dynamic", factor=2.0), {"": FINE, "export": "dynamic"}),
    (
        "a mixture of experts",
        config(model_type="mixtral", num_local_experts=2),
        {
            "": "experts",
            "plan": "mixtral",
            "inherit": "mixtral",
            "inherit loaded": "mixtral",
            "export": "mixtral",
        },
    ),
    ("a folder for the config", folder_for("config.json"), "config.json"),
    ("a folder for the weights", folder_for("model.safetensors"), {"": "damaged", **UNREAD}),
    # generation_config.json
    ("generation: not JSON", file(GENERATION, "{"), GENERATION_READ),
    ("generation: a list", file(GENERATION, "[]"), GENERATION_READ),
    ("generation: ends of text", file(GENERATION, '{"eos_token_id": "x"}'), GENERATION_READ),
    ("generation: ends in ends", file(GENERATION, '{"eos_token_id": [[1]]}'), GENERATION_READ),
    ("generation: an end without a row", file(GENERATION, '{"eos_token_id": [2, 5000]}'), FINE),
    ("generation: sampling that is off", file(GENERATION, OFF), FINE),
    ("generation: none", file(GENERATION, None), FINE),
    # tokenizer_config.json
    ("settings: not JSON", file(SETTINGS, "{"), {"": SETTINGS, **UNREAD}),
    ("settings: a list", file(SETTINGS, "[]"), {"": SETTINGS, **UNREAD}),
    ("settings: an unknown class", file(SETTINGS, '{"tokenizer_class": "NoSuch"}'), FINE),
    ("settings: no class", file(SETTINGS, '{"tokenizer_class": null}'), FINE),
    (
        "settings: a length of text",
        file(SETTINGS, '{"model_max_length": "x"}'),
        {"": "model_max_length", **UNREAD},
    ),
    (
        "settings: a number that ends",
        file(SETTINGS, '{"eos_token": 5}'),
        {"": "eos_token", **UNREAD},
    ),
    (
        "settings: added tokens in a list",
        file(SETTINGS, '{"added_tokens_decoder": []}'),
        {"": "added_tokens_decoder", **UNREAD},
    ),
    (
        "settings: a number for a template",
        file(SETTINGS, '{"chat_template": 5}'),
        {"": "chat_template", **UNREAD},
    ),
    ("settings: an end that is nowhere", file(SETTINGS, '{"eos_token": "<nowhere>"}'), FINE),
    # tokenizer.json
    ("a folder for the tokenizer", folder_for("tokenizer.json"), {"": "tokenizer", **UNREAD}),
    (
        "no tokenizer",
        file("tokenizer.json", None),
        {"": "tokenizer", **UNREAD, "inherit": FINE, "inherit loaded": "tokenizer"},
    ),
    ("a broken tokenizer", file("tokenizer.json", "{"), {"": "tokenizer", **UNREAD}),
    ("a tokenizer of nothing", file("tokenizer.json", "{}"), {"": "tokenizer", **UNREAD}),
]


def tokenizer(edit: Callable[[dict[str, Any]], Any]) -> Change:
    """tokenizer.json after ``edit``."""

    def change(folder: Path) -> None:
        path = folder / "tokenizer.json"
        data = json.loads(path.read_text("utf-8"))
        data = edit(data) or data
        path.write_text(json.dumps(data), "utf-8")

    return change


def added(*contents: str, **flags: Any) -> Callable[[dict[str, Any]], None]:
    """More added tokens. The good model has 504 rows for 500 tokens: the fifth has no row."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False}
    plain |= {"normalized": False, "special": False}

    def edit(data: dict[str, Any]) -> None:
        tokens = [
            {"id": 500 + number, "content": content, **plain, **flags}
            for number, content in enumerate(contents)
        ]
        data["added_tokens"] += tokens

    return edit


PADDING = {
    "strategy": "BatchLongest",
    "direction": "Left",
    "pad_to_multiple_of": None,
    "pad_id": 400,
    "pad_type_id": 0,
    "pad_token": "x",
}
TRUNCATION = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}

ROWS += [
    ("padding state", tokenizer(lambda data: data | {"padding": PADDING}), FINE),
    ("truncation state", tokenizer(lambda data: data | {"truncation": TRUNCATION}), FINE),
    (
        "tokens without a row",
        tokenizer(added("<a>", "<b>", "<c>", "<d>", "<pad>", special=True)),
        FINE,
    ),
    (
        "an added token that strips behind",
        tokenizer(added("zqx", rstrip=True)),
        {"": FINE, "export": "rstrip", "export f16": FINE},
    ),
    (
        "an added token that strips before",
        tokenizer(added("zqx", lstrip=True)),
        {"": FINE, "export": "lstrip", "export f16": FINE},
    ),
    (
        "an added token of whole words",
        tokenizer(added("zqx", single_word=True)),
        {"": FINE, "export": "single_word", "export f16": FINE},
    ),
]


def copy(model: Path, folder: Path, change: Change) -> Path:
    shutil.copytree(model, folder)
    change(folder)
    return folder
