"""Train / valid split by the hash of a document's own text.

The same text always falls on the same side, whatever file it is in or however often it is there, so a duplicate can
never stand on both sides, and adding documents moves none of the old ones.
"""

import hashlib


def is_valid(text: str, valid_fraction: float, seed: int = 0) -> bool:
    """True when the document belongs to the held-out part. White space at the ends does not count."""
    digest = hashlib.blake2b(text.strip().encode("utf-8", "surrogatepass"), digest_size=8, salt=_salt(seed)).digest()
    return int.from_bytes(digest, "little") < valid_fraction * 2**64


def _salt(seed: int) -> bytes:
    return f"tinylm{seed}".encode()[:16]
