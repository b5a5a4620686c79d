"""A GGUF file as an ordinary `transformers` directory: dequantised once to safetensors.

`transformers` can read GGUF by itself, but dequantises again at every load (70-160 s for 135M
parameters here) and then refuses ``save_pretrained``. Names and per-family weight layouts are its
tables; the reading loop is ours: 8 s, once.
"""

import struct
import tempfile
from pathlib import Path

import numpy as np
import torch

from tinylm.artifact import require_space, write_json
from tinylm.errors import InputError
from tinylm.models.families import FAMILIES
from tinylm.models.gguf_header import check_header
from tinylm.models.initialise import new_model
from tinylm.models.save import add_old_keys
from tinylm.terminal import track

PRE_TOKENIZER_KEY = "tokenizer.ggml.pre"
# llama.cpp's names of rules for splitting text
LIKE_GPT2 = ("default", "gpt-2", "phi-2", "mpt", "olmo", "jais")
WHOLE_WORDS_FIRST = (
    "llama3",
    "llama-v3",
    "llama-bpe",
    "falcon3",
    "falcon-h1",
    "pixtral",
    "midm-2.0",
    "lfm2",
    "tekken",
)
ENDS_OF_TURN = ("<|im_end|>", "<|end|>", "<|eot_id|>", "<end_of_turn>")
CONTROL = 3  # llama.cpp's type of a token that is never text
UNCAPPED = 1e5  # an export writes a cap so high where a model has none
LAYERS_27B = {
    family.llamacpp.architecture: family.llamacpp.layers_27b
    for family in FAMILIES.values()
    if family.llamacpp and family.llamacpp.layers_27b
}
# each digit alone
DIGITS_FIRST = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")


def convert(gguf_path: Path, folder: Path) -> None:
    """Write config, tokenizer and float32 safetensors of ``gguf_path`` into the existing
    ``folder``.

    Also writes ``tinylm.json`` with llama.cpp's name of the pre-tokenizer, which an export needs
    again. Raises InputError when the file is no GGUF, is cut short, or its family is unknown.
    """
    from gguf import GGUFReader
    from safetensors.torch import save_file
    from transformers import AutoConfig, GenerationConfig
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    check_header(gguf_path)
    damaged = (ValueError, KeyError, IndexError, struct.error, NotImplementedError)
    try:
        reader = GGUFReader(gguf_path)
        architecture = _field(reader, "general.architecture")
    except damaged as error:
        raise InputError(
            f"{gguf_path} is not a GGUF file this can read ({error}): download it again"
        ) from error
    try:
        parsed = load_gguf_checkpoint(str(gguf_path), return_tensors=False)
        settings = parsed["config"] | _lost_settings(reader)
        settings.pop("_model_name_or_path", None)
        config = AutoConfig.for_model(**settings)
        empty = new_model(config, device="meta")
    except Exception as error:  # its readers raise many kinds for a file they do not expect
        raise InputError(
            f"{gguf_path}: transformers cannot load a {architecture} model from a GGUF file"
            f" ({error}): give the Hugging Face model it was made from"
        ) from error
    _refuse_scaled_rope(reader, gguf_path)
    _refuse_unknown_splitting(reader, gguf_path)
    require_space(folder, sum(int(np.prod(tensor.shape)) * 4 for tensor in reader.tensors))
    weights = _dequantise(reader, empty, settings)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    missing = sorted(set(empty.state_dict()) - set(weights) - tied)
    if missing:
        raise InputError(
            f"{gguf_path} lacks {missing[0]} ({len(missing)} tensors in all): the file is"
            " incomplete"
        )
    config.architectures = [type(empty).__name__]
    config.dtype = torch.float32
    config.save_pretrained(folder)
    add_old_keys(folder)
    generation = GenerationConfig.from_model_config(config)
    if generation.eos_token_id is not None:
        generation.eos_token_id = _stops(reader, generation.eos_token_id)
    generation.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _save_tokenizer(reader, gguf_path, folder, parsed["tokenizer"].get("pre_tokenizer_type"))
    write_json(folder / "tinylm.json", _facts(reader, gguf_path))


def _lost_settings(reader) -> dict:
    """Config values that a GGUF file holds and transformers leaves behind."""
    architecture = _field(reader, "general.architecture")
    names = {tensor.name for tensor in reader.tensors}
    lost: dict = {}
    if architecture == "llama" and "blk.0.attn_q.bias" in names:
        lost["attention_bias"] = True
    if architecture == "llama" and "blk.0.ffn_up.bias" in names:
        lost["mlp_bias"] = True
    head_dim = _field(reader, f"{architecture}.attention.key_length")
    if architecture in ("llama", "qwen3") and head_dim is not None:
        lost["head_dim"] = head_dim
    # its config's default is an id that a compact vocabulary does not have
    if architecture == "phi3":
        lost["pad_token_id"] = _field(reader, "tokenizer.ggml.padding_token_id")
    # their windows by layer, caps of logits, and the scale of queries
    if architecture in ("gemma2", "gemma3"):
        sliding = _field(reader, f"{architecture}.attention.sliding_window_pattern")
        if isinstance(sliding, list):
            lost["layer_types"] = [
                "sliding_attention" if slides else "full_attention" for slides in sliding
            ]
        for name in ("attn_logit_softcapping", "final_logit_softcapping"):
            cap = _field(reader, f"{architecture}.{name}")
            if cap is not None:
                lost[name] = cap if cap < UNCAPPED else None
        layers = _field(reader, f"{architecture}.block_count")
        heads, hidden = (
            _field(reader, f"{architecture}.{key}")
            for key in ("attention.head_count", "embedding_length")
        )
        if head_dim is not None:  # llama.cpp's rule; only the 27B models differ
            lost["query_pre_attn_scalar"] = (
                hidden // heads if layers == LAYERS_27B[architecture] else head_dim
            )
    return lost


def _stops(reader, eos: int | list[int]) -> int | list[int]:
    """What ends an answer: the file's end token, and the ends of a turn in a chat, which llama.cpp
    knows by name."""
    found = eos if isinstance(eos, list) else [eos]
    tokens, types = (
        _field(reader, "tokenizer.ggml.tokens") or [],
        _field(reader, "tokenizer.ggml.token_type") or [],
    )
    named = [
        i
        for i, (token, kind) in enumerate(zip(tokens, types))
        if kind == CONTROL and token in ENDS_OF_TURN
    ]
    others = [_field(reader, f"tokenizer.ggml.{key}_token_id") for key in ("eot", "eom")]
    every = list(dict.fromkeys([*found, *(i for i in others if i is not None), *named]))
    return every if len(every) > 1 else eos


def _refuse_scaled_rope(reader, gguf_path: Path) -> None:
    """Scaled rotary frequencies (Llama 3.1, Phi-3 128k, large Gemma 3) are lost on the way to a
    config."""
    names = [
        tensor.name
        for tensor in reader.tensors
        if tensor.name.startswith(("rope_freqs", "rope_factors"))
    ]
    kind = _field(reader, f"{_field(reader, 'general.architecture')}.rope.scaling.type")
    if names or kind not in (None, "none"):
        raise InputError(
            f"{gguf_path} scales its rotary positions ({names[0] if names else kind}), which"
            " transformers does not read from a GGUF file: give the Hugging Face model it was made"
            " from"
        )


def _refuse_unknown_splitting(reader, gguf_path: Path) -> None:
    """Where transformers does not know a file's rule for splitting text it takes GPT-2's: other
    tokens, and no word."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    name = _field(reader, PRE_TOKENIZER_KEY)
    known = {*GGUF_PRE_TOKENIZER_SPLITS, *LIKE_GPT2, *DIGITS_FIRST}
    if _field(reader, "tokenizer.ggml.model") == "gpt2" and name is not None and name not in known:
        raise InputError(
            f"{gguf_path} splits text by the rule {name!r}, which transformers does not read from a"
            " GGUF file: give the Hugging Face model it was made from"
        )


def _dequantise(reader, empty, settings: dict) -> dict[str, torch.Tensor]:
    from gguf import dequantize
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

    architecture = _field(reader, "general.architecture")
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=settings)
    hf_names = _hf_names(architecture, empty)
    shapes = {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
    weights: dict[str, torch.Tensor] = {}
    for tensor in track(reader.tensors, f"dequantising {architecture}"):
        result = processor.process(
            weights=dequantize(tensor.data, tensor.tensor_type), name=tensor.name
        )
        name = hf_names.get(result.name)
        if name is None:
            raise InputError(
                f"the GGUF tensor {tensor.name} has no place in transformers' {architecture} model:"
                " give the Hugging Face model it was made from"
            )
        value = torch.from_numpy(np.array(result.weights, dtype=np.float32))
        if tuple(value.shape) != shapes[name]:
            raise InputError(
                f"GGUF tensor {tensor.name} has shape {tuple(value.shape)}, {shapes[name]} is"
                " needed"
            )
        if not torch.isfinite(value.sum()):  # a sum is one pass; NaN and infinity survive it
            raise InputError(
                f"GGUF tensor {tensor.name} holds NaN or infinity: the file is damaged"
            )
        weights[name] = value
    return weights


def _hf_names(architecture: str, empty) -> dict[str, str]:
    """GGUF tensor name -> parameter name, from gguf's own tables."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    number = next(number for number, name in MODEL_ARCH_NAMES.items() if name == architecture)
    table = get_tensor_name_map(number, empty.config.num_hidden_layers)
    names = {}
    for hf_name in empty.state_dict():
        stem, _, suffix = hf_name.rpartition(".")
        gguf_stem = table.get_name(stem)
        if gguf_stem is not None:
            names[f"{gguf_stem}.{suffix}"] = hf_name
    return names


def _save_tokenizer(reader, gguf_path: Path, folder: Path, pre_tokenizer: str | None) -> None:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as alone:  # a tokenizer.json beside it would be read instead
        (Path(alone) / gguf_path.name).symlink_to(gguf_path.absolute())
        tokenizer = AutoTokenizer.from_pretrained(alone, gguf_file=gguf_path.name)
    if _field(reader, "tokenizer.ggml.model") == "llama":
        _follow_sentencepiece(reader, tokenizer.backend_tokenizer)
    # transformers gives every GGUF of these kinds GPT-2's splitting
    if pre_tokenizer in DIGITS_FIRST:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    if pre_tokenizer in WHOLE_WORDS_FIRST:  # transformers makes no use of this
        tokenizer.backend_tokenizer.model.ignore_merges = True
    for key in ("local_files_only", "name_or_path"):  # about this load, not about the tokenizer
        tokenizer.init_kwargs.pop(key, None)
    tokenizer.save_pretrained(folder)


def _follow_sentencepiece(reader, backend) -> None:
    """Spaces and BOS as llama.cpp has them: a space before every text unless the file says no (not
    only before one without its own, which is what transformers makes of every file)."""
    from tokenizers import decoders, normalizers, processors

    prefix = _field(reader, "tokenizer.ggml.add_space_prefix") is not False
    spaces = normalizers.Replace(" ", "\u2581")
    backend.normalizer = (
        normalizers.Sequence([normalizers.Prepend("\u2581"), spaces]) if prefix else spaces
    )
    backend.pre_tokenizer = None
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(steps + [decoders.Strip(" ", 1, 0)] * prefix)
    tokens = _field(reader, "tokenizer.ggml.tokens")
    around = {
        name: _field(reader, f"tokenizer.ggml.{name}_token_id")
        for name, default in (("bos", True), ("eos", False))
        if _said(_field(reader, f"tokenizer.ggml.add_{name}_token"), default)
    }
    named = {name: tokens[i] for name, i in around.items() if i is not None}
    parts = [*([named["bos"]] if "bos" in named else []), "$A"]
    parts += [named["eos"]] if "eos" in named else []
    backend.post_processor = processors.TemplateProcessing(
        single=parts,
        pair=[*parts, *(part.replace("$A", "$B") + ":1" for part in parts)],
        special_tokens=[(tokens[around[name]], around[name]) for name in named],
    )


def _said(value: bool | None, default: bool) -> bool:
    return default if value is None else value


def _facts(reader, gguf_path: Path) -> dict:
    fields = ("general.name", "general.license", "general.organization", "general.architecture")
    facts = {field.split(".")[1]: _field(reader, field) for field in fields}
    return {"source": gguf_path.name, "pre_tokenizer": _field(reader, PRE_TOKENIZER_KEY), **facts}


def _field(reader, name: str):
    field = reader.fields.get(name)
    return None if field is None else field.contents()
