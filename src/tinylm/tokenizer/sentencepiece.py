"""Cut a SentencePiece ``tokenizer.model``: drop pieces, keep scores and order."""

from pathlib import Path

from tinylm.artifact import atomic_file
from tinylm.errors import InputError
from tinylm.tokenizer.source import Source


def write_sentencepiece(path: Path, kept: set[str], folder: Path) -> None:
    """Write ``folder/tokenizer.model`` with those pieces of ``path`` whose spelling is in ``kept``."""
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


def differences(path: Path, child: Source, strings: list[str]) -> tuple[bool, str]:
    """Whether the cut model loads and gives the pieces of tokenizer.json: (passed, what was found).

    Added tokens are no pieces of ``strings`` here: SentencePiece treats control pieces in text as plain letters.
    """
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
    fast = child.fast
    plain = [text for text in strings if not any(token["content"] in text for token in child.data["added_tokens"])]
    wrong = 0
    for text in plain:
        tokens = fast.encode(text, add_special_tokens=False).tokens
        wrong += processor.encode(text, out_type=str) != tokens
    return not wrong, f"{processor.vocab_size():,} pieces, {wrong} of {len(plain):,} texts differ"


def _read(path: Path):
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise InputError(f"{path} is no SentencePiece model ({error}): remove it or download it again") from error
    return model
