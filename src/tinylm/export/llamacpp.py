"""Real llama.cpp, in this process: load a GGUF, tokenize, get the logits of every position, pack
weights.

The wheel `xllamacpp` ships llama.cpp compiled and exports its C interface (llama.h) beside its own
server classes. The server cannot give the logits of a prompt, so this module calls the C functions
through ctypes. Only the parts of llama.h that have kept their layout are touched: functions,
`llama_batch`, and the first three fields of the context parameters. The defaults of those fields
are checked on load, so that a wheel with another layout is a clear error.
"""

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinylm.errors import InputError, WorkError

_DEFAULT_CONTEXT = (512, 2048, 512)  # n_ctx, n_batch, n_ubatch of llama_context_default_params


class _Parameters(ctypes.Structure):
    """A parameter struct passed by value. It is longer than any version of llama.cpp's; the tail is
    never read."""

    _fields_ = [("words", ctypes.c_uint32 * 128)]


class _Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.POINTER(ctypes.c_float)),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


_LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_errors: list[str] = []  # what llama.cpp said last, for error messages


@_LogCallback
def _on_log(level, text, _user_data):
    if level >= 3:  # GGML_LOG_LEVEL_WARN and above
        _errors.append(text.decode(errors="replace").strip())
        del _errors[:-8]


def available() -> bool:
    """Whether the extra `device` (the wheel `xllamacpp`) is installed."""
    try:
        _wheel()
    except ImportError:
        return False
    return True


def _wheel() -> Any:
    # first: it brings libgomp.so.1, which the wheel needs and a bare Debian lacks
    import torch  # noqa: F401
    import xllamacpp

    return xllamacpp


def require_llamacpp() -> None:
    """InputError, before any work, when llama.cpp is not installed."""
    _library()


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        xllamacpp = _wheel()
    except ImportError as error:
        raise InputError(
            "llama.cpp is not installed, so the GGUF cannot be checked: pip install"
            " 'tinylm[device]' (or --no-check)"
        ) from error
    library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    pointer, integer = ctypes.c_void_p, ctypes.c_int32
    signatures = {
        "llama_model_default_params": (_Parameters, []),
        "llama_context_default_params": (_Parameters, []),
        "llama_model_load_from_file": (pointer, [ctypes.c_char_p, _Parameters]),
        "llama_init_from_model": (pointer, [pointer, _Parameters]),
        "llama_model_free": (None, [pointer]),
        "llama_free": (None, [pointer]),
        "llama_model_get_vocab": (pointer, [pointer]),
        "llama_model_n_ctx_train": (integer, [pointer]),
        "llama_vocab_n_tokens": (integer, [pointer]),
        "llama_vocab_is_eog": (ctypes.c_bool, [pointer, integer]),
        "llama_vocab_get_add_bos": (ctypes.c_bool, [pointer]),
        "llama_tokenize": (
            integer,
            [
                pointer,
                ctypes.c_char_p,
                integer,
                ctypes.POINTER(integer),
                integer,
                ctypes.c_bool,
                ctypes.c_bool,
            ],
        ),
        "llama_token_to_piece": (
            integer,
            [pointer, integer, ctypes.c_char_p, integer, integer, ctypes.c_bool],
        ),
        "llama_batch_init": (_Batch, [integer, integer, integer]),
        "llama_batch_free": (None, [_Batch]),
        "llama_decode": (integer, [pointer, _Batch]),
        "llama_get_logits": (ctypes.POINTER(ctypes.c_float), [pointer]),
        "llama_get_memory": (pointer, [pointer]),
        "llama_memory_clear": (None, [pointer, ctypes.c_bool]),
        "llama_set_n_threads": (None, [pointer, integer, integer]),
        "llama_log_set": (None, [_LogCallback, pointer]),
        "ggml_quantize_chunk": (
            ctypes.c_size_t,
            [integer, pointer, pointer, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, pointer],
        ),
    }
    try:
        for name, (result, arguments) in signatures.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise WorkError(
            f"this xllamacpp does not export llama.cpp's C interface ({error}): try another version"
        ) from error
    if tuple(library.llama_context_default_params().words[:3]) != _DEFAULT_CONTEXT:
        raise WorkError(
            "this xllamacpp has an unknown llama_context_params layout: install the version in the"
            " lock file"
        )
    library.llama_log_set(_on_log, None)
    library.llama_backend_init()
    return library


class Llama:
    """A GGUF file loaded by llama.cpp, with one context of ``context`` tokens. Use as a context
    manager."""

    runtime = "llama.cpp"

    def __init__(self, path: str | Path, *, context: int = 1024, threads: int = 1) -> None:
        """Raises WorkError with llama.cpp's own words when the file does not load."""
        self._library = _library()
        _errors.clear()
        self._model = self._context = None
        self._model = self._library.llama_model_load_from_file(
            str(path).encode(), self._library.llama_model_default_params()
        )
        if not self._model:
            raise WorkError(
                f"llama.cpp cannot load {path}: {'; '.join(_errors) or 'no reason given'}"
            )
        parameters = self._library.llama_context_default_params()
        self.context, self._batch_size = context, min(512, context)
        parameters.words[0:3] = [context, self._batch_size, self._batch_size]
        self._context = self._library.llama_init_from_model(self._model, parameters)
        if not self._context:
            self.close()
            raise WorkError(
                f"llama.cpp cannot make a context of {context} tokens: {'; '.join(_errors)}"
            )
        self._library.llama_set_n_threads(self._context, threads, threads)
        self._vocabulary = self._library.llama_model_get_vocab(self._model)
        self.vocab_size = self._library.llama_vocab_n_tokens(self._vocabulary)
        self.adds_bos = self._library.llama_vocab_get_add_bos(self._vocabulary)
        self._position = 0

    def __enter__(self) -> "Llama":
        return self

    def __exit__(self, *_exception) -> None:
        self.close()

    def close(self) -> None:
        if self._context:
            self._library.llama_free(self._context)
        if self._model:
            self._library.llama_model_free(self._model)
        self._context = self._model = None

    def tokenize(
        self, text: str, *, add_special: bool = False, parse_special: bool = True
    ) -> list[int]:
        """Token ids of ``text``; special tokens written out in it are recognised unless
        ``parse_special`` is off."""
        raw = text.encode()
        room = len(raw) + 8
        ids = (ctypes.c_int32 * room)()
        count = self._library.llama_tokenize(
            self._vocabulary, raw, len(raw), ids, room, add_special, parse_special
        )
        if count < 0:
            raise WorkError(f"llama.cpp cannot tokenize {text[:40]!r}")
        return list(ids[:count])

    def piece(self, token: int) -> bytes:
        """The bytes that ``token`` stands for in text."""
        buffer = ctypes.create_string_buffer(512)
        count = self._library.llama_token_to_piece(self._vocabulary, token, buffer, 512, 0, True)
        return buffer.raw[: max(count, 0)]

    def is_end(self, token: int) -> bool:
        return self._library.llama_vocab_is_eog(self._vocabulary, token)

    def reset(self) -> None:
        """Forget everything decoded so far."""
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)
        self._position = 0

    def decode(self, ids: Sequence[int], *, last_only: bool = False) -> np.ndarray:
        """Append ``ids`` to the context; logits float32[T, vocab_size] of their positions (or [1,
        V] of the last)."""
        if self._position + len(ids) > self.context:
            raise WorkError(
                f"{self._position + len(ids)} tokens do not fit in a context of {self.context}"
            )
        parts = []
        for start in range(0, len(ids), self._batch_size):
            part = ids[start : start + self._batch_size]
            is_last = start + len(part) == len(ids)
            logits = self._decode_batch(part, last_only, want_logits=is_last or not last_only)
            if logits is not None:
                parts.append(logits)
        return np.concatenate(parts)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Logits float32[T, vocab_size] of a fresh sequence."""
        self.reset()
        return self.decode(ids)

    def greedy(self, ids: Sequence[int], new_tokens: int) -> list[int]:
        """The ``new_tokens`` most likely continuation tokens of ``ids``; stops after an
        end-of-generation token."""
        self.reset()
        made = [int(self.decode(ids, last_only=True)[0].argmax())]
        while len(made) < new_tokens and not self.is_end(made[-1]):
            made.append(int(self.decode(made[-1:], last_only=True)[0].argmax()))
        return made

    def _decode_batch(
        self, ids: Sequence[int], last_only: bool, want_logits: bool
    ) -> np.ndarray | None:
        batch = self._library.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for index, token in enumerate(ids):
                batch.token[index] = token
                batch.pos[index] = self._position + index
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = 0
                batch.logits[index] = want_logits and (not last_only or index == len(ids) - 1)
            status = self._library.llama_decode(self._context, batch)
        finally:
            self._library.llama_batch_free(batch)
        if status != 0:
            raise WorkError(f"llama.cpp failed to decode (status {status}): {'; '.join(_errors)}")
        self._position += len(ids)
        if not want_logits:
            return None
        rows = 1 if last_only else len(ids)
        return np.ctypeslib.as_array(
            self._library.llama_get_logits(self._context), (rows, self.vocab_size)
        ).copy()


def quantize_rows(
    weights: np.ndarray, ggml_type: int, bytes_per_row: int, importance: np.ndarray | None = None
) -> np.ndarray:
    """float32[rows, columns] packed by llama.cpp's own quantiser, columns weighed by ``importance``
    float32[columns]: uint8[rows, bytes_per_row]."""
    library = _library()
    weights = np.ascontiguousarray(weights, dtype=np.float32)
    rows, columns = weights.shape
    packed = np.empty((rows, bytes_per_row), dtype=np.uint8)
    written = library.ggml_quantize_chunk(
        ggml_type,
        weights.ctypes.data,
        packed.ctypes.data,
        0,
        rows,
        columns,
        None if importance is None else importance.ctypes.data,
    )
    if written != packed.nbytes:
        raise WorkError(f"llama.cpp packed {written} bytes where {packed.nbytes} were expected")
    return packed
