"""A `transformers` directory as one GGUF file, one tensor in memory at a time."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from gguf.quants import quant_shape_to_byte_shape

from tinylm.artifact import atomic_file, optional_json, require_file_name, require_space
from tinylm.errors import InputError
from tinylm.export import graph, quantization
from tinylm.export.importance import Importance
from tinylm.export.vocabulary import Vocabulary, read_vocabulary
from tinylm.models.shards import Shards
from tinylm.models.teacher import load_config, load_tokenizer
from tinylm.terminal import track

# llama.cpp's own key: how many matrices were packed by an importance matrix
IMPORTANCE_ENTRIES = "quantize.imatrix.entries_count"


def export(
    model_dir: str | Path,
    out: str | Path,
    quantize: str = "F16",
    *,
    pre_tokenizer: str | None = None,
    overwrite: bool = False,
    importance: Importance | None = None,
) -> dict[str, Any]:
    """Write the model and tokenizer in ``model_dir`` to the GGUF file ``out``, errors of narrow
    formats weighed by ``importance``.

    Returns {"file", "bytes", "quantize", "architecture", "pre_tokenizer", "parameters",
    "bits_per_weight", "formats":
    {format: tensors}, "fallbacks": {tensor: "wanted -> given"}}. Raises InputError for a model,
    tokenizer or quantisation that llama.cpp cannot run, an existing ``out``, and a full disk;
    nothing half-written stays.
    """
    model_dir, out = Path(model_dir), Path(out)
    quantize = quantization.check_name(quantize)
    refuse_existing(out, overwrite)
    config, tokenizer = load_config(model_dir).get_text_config(), load_tokenizer(model_dir)
    family = graph.graph_of(config)
    vocabulary = read_vocabulary(model_dir, tokenizer, config.vocab_size, pre_tokenizer)
    weights = Shards(model_dir, bool(config.tie_word_embeddings))
    sizes = weights.sizes()
    hf_names = graph.hf_names(config, sizes, family)
    weights.check(config)
    tied = "output.weight" not in hf_names
    formats = {
        name: quantization.choose(quantize, name, sizes[hf_name], config.num_hidden_layers, tied)
        for name, hf_name in hf_names.items()
    }
    size = sum(_packed_bytes(sizes[hf_names[name]], given) for name, (_, given) in formats.items())
    require_space(out, size + 64 * len(vocabulary.tokens))
    with atomic_file(out) as scratch:
        writer = GGUFWriter(scratch, family.architecture)
        _write_metadata(writer, model_dir, config, family, vocabulary, quantize)
        if importance:
            writer.add_uint32(IMPORTANCE_ENTRIES, len(importance))
        extra = graph.rope_tensors(config, family)
        for name, tensor in extra.items():
            writer.add_tensor_info(name, tensor.shape, tensor.dtype, tensor.nbytes)
        for name, (_, given) in formats.items():
            _announce(writer, name, sizes[hf_names[name]], given)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in extra.values():
            writer.write_tensor_data(tensor)
        for name, (_, given) in track(list(formats.items()), f"packing {quantize}"):
            hf_name = hf_names[name]
            tensor = graph.to_llamacpp(hf_name, read_finite(weights, hf_name), config, family)
            require_range(hf_name, tensor, given)
            weighed = (importance or {}).get(hf_name)
            writer.write_tensor_data(quantization.pack(tensor, given, weighed))
        writer.close()
    parameters = sum(int(np.prod(sizes[hf_name])) for hf_name in hf_names.values())
    return {
        "file": str(out),
        "bytes": out.stat().st_size,
        "quantize": quantize,
        "architecture": family.architecture,
        "pre_tokenizer": vocabulary.pre_tokenizer,
        "parameters": parameters,
        "bits_per_weight": round(8 * size / parameters, 3),
        "formats": _count(given.name for _, given in formats.values()),
        "lost": vocabulary.lost,
        "fallbacks": {
            name: f"{wanted.name} -> {given.name}"
            for name, (wanted, given) in formats.items()
            if wanted != given
        },
    }


def refuse_existing(out: Path, overwrite: bool) -> None:
    """InputError when ``out`` is there already (and may not be replaced) or is a folder."""
    if out.is_dir():
        raise InputError(
            f"{out} is a folder: give --out the name of a file, such as {out / 'model.gguf'}"
        )
    require_file_name(out)
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists already: choose another --out or give --overwrite")


def read_finite(weights: Shards, name: str) -> np.ndarray:
    """The tensor as float32. InputError when it holds NaN or infinity."""
    tensor = weights[name].to(torch.float32)
    if not torch.isfinite(tensor).all():
        raise InputError(f"the weight {name} holds NaN or infinity: the model is damaged")
    return tensor.numpy()


def require_range(name: str, tensor: np.ndarray, to: GGMLQuantizationType) -> None:
    """InputError for a weight that float16 cannot hold: it would become infinity."""
    largest = float(np.abs(tensor).max(initial=0.0))
    if to == GGMLQuantizationType.F16 and largest > float(np.finfo(np.float16).max):
        raise InputError(
            f"the weight {name} holds {largest:.6g}, beyond float16's 65504: export with --quantize"
            " BF16 or F32"
        )


def metadata(
    model_dir: Path,
    config: Any,
    family: graph.Llamacpp,
    tokenizer: Any,
    quantize: str,
    pre_tokenizer: str | None = None,
) -> dict[str, tuple[Any, GGUFValueType]]:
    """All that the file says beside its tensors: key -> (value, type)."""
    writer = GGUFWriter(None, family.architecture)
    vocabulary = read_vocabulary(model_dir, tokenizer, config.vocab_size, pre_tokenizer)
    _write_metadata(writer, model_dir, config, family, vocabulary, quantize)
    return {key: (entry.value, entry.type) for key, entry in writer.kv_data[0].items()}


def _write_metadata(
    writer: GGUFWriter,
    model_dir: Path,
    config: Any,
    family: graph.Llamacpp,
    vocabulary: Vocabulary,
    quantize: str,
) -> None:
    architecture = family.architecture
    facts = optional_json(model_dir / "tinylm.json")
    writer.add_type("model")
    writer.add_name(_name(facts, model_dir, family, vocabulary))
    if facts.get("published_as") and facts.get("name"):  # then the name is the teacher's
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, facts["name"])
        if facts.get("organization"):
            writer.add_base_model_organization(0, facts["organization"])
    if facts.get("license"):
        writer.add_license(facts["license"])
    writer.add_file_type(quantization.file_type(quantize))
    writer.add_quantization_version(2)
    for key, value in graph.settings(config, family).items():
        kind = {str: GGUFValueType.STRING, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32}
        if isinstance(value, list):
            writer.add_array(f"{architecture}.{key}", value)
        else:
            writer.add_key_value(f"{architecture}.{key}", value, kind[type(value)])
    vocabulary.write(writer)


def _name(
    facts: dict[str, Any], model_dir: Path, family: graph.Llamacpp, vocabulary: Vocabulary
) -> str:
    """What a run called it, or the folder's name. llama.cpp takes "phi-3" in it as word of that
    family's four tokens, and fails without them."""
    name = facts.get("published_as") or model_dir.resolve().name
    if {"</s>", "<unk>", "<s>", "<|endoftext|>"} <= set(
        vocabulary.tokens
    ) and family.architecture == "phi3":
        return name if re.search("phi-?3", name, re.IGNORECASE) else f"phi-3-{name}"
    return re.sub("(phi)-?3", r"\1_3", name, flags=re.IGNORECASE)


def _announce(
    writer: GGUFWriter, name: str, shape: tuple[int, ...], to: GGMLQuantizationType
) -> None:
    """Tell the writer the name, shape and format of a tensor that is written later."""
    dtype = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}.get(to)
    size = _packed_bytes(shape, to)
    if dtype is not None:
        writer.add_tensor_info(name, shape, np.dtype(dtype), size)
    else:  # given in bytes; the writer turns it back into weights
        writer.add_tensor_info(
            name, quant_shape_to_byte_shape(shape, to), np.dtype(np.uint8), size, raw_dtype=to
        )


def _packed_bytes(shape: tuple[int, ...], to: GGMLQuantizationType) -> int:
    return int(np.prod(quant_shape_to_byte_shape(shape, to)))


def _count(names: Iterator[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts
