"""Cut a SentencePiece ``tokenizer.model``: drop pieces, keep scores and order."""

from pathlib import Path

from tinylm.artifact import atomic_file
from tinylm.errors import InputError
from tinylm.tokenizer.source import Source


def write_sentencepiece(path: Path, kept: set[str], folder: Path) -> None:
    """Write ``folder/tokenizer.model`` with those pieces of ``path`` whose spelling is in
    ``kept``."""
    model = _read(path)
    pieces = [piece for piece in model.pieces if piece.piece in kept]
    del model.pieces[:]
    model.pieces.extend(pieces)
    spec, positions = model.trainer_spec, {piece.piece: index for index, piece in enumerate(pieces)}
    spec.vocab_size = len(pieces)
    for name in ("unk", "bos", "eos", "pad"):
        setattr(spec, f"{name}_id", positions.get(getattr(spec, f"{name}_piece"), -1))
    with atomic_file(folder / "tokenizer.model") as scratch:
        scratch.write_bytes(model.SerializeToString())


def differences(parent: Source, child: Source, strings: list[str]) -> tuple[bool, str]:
    """Whether the cut ``tokenizer.model`` does what the old one did: (passed, what was found).

    Strings whose old pieces are all kept must give the same pieces; and where the old file agreed
    with the old tokenizer.json (conversions of some families do not always) the new one must agree
    with the new. Strings with the spelling of an added token are left out: SentencePiece treats
    control pieces in text as plain letters.
    """
    import sentencepiece

    old, new = (
        sentencepiece.SentencePieceProcessor(
            model_proto=(one.folder / "tokenizer.model").read_bytes()
        )
        for one in (parent, child)
    )
    added = [token["content"] for token in parent.data["added_tokens"]]
    plain = [text for text in strings if not any(content in text for content in added)]
    kept, wrong, same = set(child.ids), 0, 0
    for text in plain:
        before, after = old.encode(text, out_type=str), new.encode(text, out_type=str)
        wrong += kept.issuperset(before) and before != after
        if before == parent.fast.encode(text, add_special_tokens=False).tokens:
            same += 1
            wrong += after != child.fast.encode(text, add_special_tokens=False).tokens
    found = (
        f"{new.vocab_size():,} pieces, {wrong} differ of {len(plain):,} texts ({same:,} as in"
        " tokenizer.json)"
    )
    return wrong == 0 and new.unk_id() >= 0, found


def _read(path: Path):
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise InputError(
            f"{path} is no SentencePiece model ({error}): remove it or download it again"
        ) from error
    return model
