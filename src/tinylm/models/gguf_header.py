"""The header of a GGUF file, walked once before a library reads it: every length must fit in the
file. The `gguf` package trusts them, and an array of 2^60 numbers keeps it busy for ever."""

import mmap
import struct
from pathlib import Path

from tinylm.errors import InputError

MAGIC = b"GGUF"
# bytes of each type of the specification (uint8 ... float64); 8 is a string, 9 an array
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9
MOST_DIMENSIONS = 8


def check_header(path: Path) -> None:
    """InputError when ``path`` is no GGUF file of version 2 or 3, or a length in its header passes
    its end."""
    with open(path, "rb") as file:
        if file.read(4) != MAGIC:
            raise InputError(f"{path} is not a GGUF file: it does not begin with GGUF")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                _walk(data)
            except (struct.error, ValueError, RecursionError) as error:
                raise InputError(
                    f"{path} is cut short or damaged ({error}): download it again"
                ) from error


def _walk(data: mmap.mmap) -> None:
    (version,) = struct.unpack_from("<I", data, 4)
    if version & 0xFFFF == 0:
        raise ValueError("it is big-endian")
    if version not in (2, 3):
        raise ValueError(f"version {version}")
    tensors, fields = struct.unpack_from("<QQ", data, 8)
    at = 24
    for _ in range(_fits(data, at, fields, 13)):  # a key's length, a type, a byte of value
        at = _string(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        at = _value(data, at + 4, kind)
    for _ in range(_fits(data, at, tensors, 24)):
        at = _string(data, at)
        (dimensions,) = struct.unpack_from("<I", data, at)
        if dimensions > MOST_DIMENSIONS:
            raise ValueError(f"a tensor of {dimensions} dimensions")
        at += 4 + 8 * dimensions + 12  # sizes, then format and place
        _fits(data, at, 0, 1)


def _value(data: mmap.mmap, at: int, kind: int) -> int:
    """Where the value of type ``kind`` at ``at`` ends."""
    if kind == STRING:
        return _string(data, at)
    if kind == ARRAY:
        inner, count = struct.unpack_from("<IQ", data, at)
        at += 12
        if inner in SIZES:
            return at + _fits(data, at, count, SIZES[inner]) * SIZES[inner]
        for _ in range(_fits(data, at, count, 8)):
            at = _value(data, at, inner)
        return at
    if kind not in SIZES:
        raise ValueError(f"a value of type {kind}")
    _fits(data, at, 1, SIZES[kind])
    return at + SIZES[kind]


def _string(data: mmap.mmap, at: int) -> int:
    (length,) = struct.unpack_from("<Q", data, at)
    return at + 8 + _fits(data, at + 8, length, 1)


def _fits(data: mmap.mmap, at: int, count: int, size: int) -> int:
    """``count``, if so many things of ``size`` bytes or more fit behind ``at``."""
    if at + count * size > len(data):
        raise ValueError(f"{count} entries at byte {at} of {len(data)}")
    return count
