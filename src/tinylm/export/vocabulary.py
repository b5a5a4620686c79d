"""A Hugging Face tokenizer as GGUF metadata: byte-level BPE (llama.cpp's "gpt2") and SentencePiece
BPE ("llama")."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType

from tinylm.artifact import optional_json
from tinylm.corpus.pack import find_start
from tinylm.errors import InputError
from tinylm.export.pretokenizer import name_for
from tinylm.models.generate import stops_of
from tinylm.models.gguf import ENDS_OF_TURN
from tinylm.models.tokenizer import MATCHING_FLAGS

# of Phi-3, by llama.cpp's own list
PHI3_STRIPS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "</s>")


@dataclass
class Vocabulary:
    """What llama.cpp needs to tokenize. Lists run over token ids and are as long as the embedding
    has rows."""

    model: str  # "gpt2" or "llama"
    pre_tokenizer: str
    tokens: list[str]
    types: list[int]
    scores: list[float] | None = None
    merges: list[str] | None = None
    add_space_prefix: bool | None = None
    # bos, eos, unk, pad; eot and eom are further ends of a text -> id
    special_ids: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)  # what the tokenizer does and llama.cpp does not
    adds_bos: bool = False
    adds_eos: bool = False
    chat_template: str | None = None

    def write(self, writer: GGUFWriter) -> None:
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre_tokenizer)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.scores is not None:
            writer.add_token_scores(self.scores)
        if self.merges is not None:
            writer.add_token_merges(self.merges)
        if self.add_space_prefix is not None:
            writer.add_add_space_prefix(self.add_space_prefix)
        for name, token in self.special_ids.items():
            getattr(writer, f"add_{name}_token_id")(token)
        writer.add_add_bos_token(self.adds_bos)
        writer.add_add_eos_token(self.adds_eos)
        if self.chat_template:
            writer.add_chat_template(self.chat_template)


def read_vocabulary(
    model_dir: Path, tokenizer: Any, rows: int, pre_tokenizer: str | None = None
) -> Vocabulary:
    """The vocabulary of a `transformers` fast tokenizer for an embedding of ``rows`` rows.

    Ids without a token (padding of the embedding) become unused tokens. Raises InputError for a
    tokenizer that is neither kind of BPE, for more tokens than rows, and for an unknown
    pre-tokenizer.
    """
    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    model = definition["model"]
    if model.get("type") != "BPE":
        raise InputError(
            f"{model_dir}: a {model.get('type')} tokenizer cannot be exported to GGUF, only BPE can"
        )
    # added tokens without a row (Gemma 3's image token) are left out
    last = max(model["vocab"].values())
    if last >= rows:
        raise InputError(
            f"{model_dir}: token ids up to {last} but {rows} embedding rows: they do not fit"
            " together"
        )
    if model.get("byte_fallback"):
        vocabulary = _sentencepiece(definition, rows)
    else:
        vocabulary = _byte_level(definition, rows, name_for(definition, model_dir, pre_tokenizer))
    config_ids = optional_json(model_dir / "config.json")
    for name in ("bos", "unk", "pad"):
        token = getattr(tokenizer, f"{name}_token_id")
        # llama.cpp would take id 11 for a missing bos; Qwen's tokenizer names no bos
        if token is None:
            token = config_ids.get(f"{name}_token_id")
        if isinstance(token, int) and 0 <= token < rows:
            vocabulary.special_ids[name] = token
    vocabulary.special_ids |= _ends(model_dir, tokenizer, vocabulary)
    vocabulary.lost = _lost_flags(definition, rows, vocabulary)
    with_special, without = (
        tokenizer("a")["input_ids"],
        tokenizer("a", add_special_tokens=False)["input_ids"],
    )
    vocabulary.adds_bos = find_start(tokenizer) is not None
    vocabulary.adds_eos = with_special[-1:] == [tokenizer.eos_token_id] and len(with_special) > len(
        without
    )
    template = tokenizer.chat_template
    vocabulary.chat_template = template.get("default") if isinstance(template, dict) else template
    return vocabulary


def _ends(model_dir: Path, tokenizer: Any, vocabulary: Vocabulary) -> dict[str, int]:
    """What ends a text, as the three ids that a GGUF can name: eos, eot and eom.

    llama.cpp takes id 11 (a letter) where no eos is named, so a model without one gets a token that
    text never becomes. Raises InputError for more ends than fit, and where there is no such token.
    """
    rows = len(vocabulary.tokens)
    ends = [i for i in stops_of(model_dir, tokenizer) if i < rows]
    if not ends:
        silent = (
            i
            for i, kind in enumerate(vocabulary.types)
            if kind in (TokenType.CONTROL, TokenType.UNUSED)
        )
        harmless = next(silent, None)
        if harmless is None:
            raise InputError(
                f"{model_dir} names no token that ends a text, and llama.cpp would end at token 11"
                f" ({vocabulary.tokens[11]!r}): name one (eos_token_id in generation_config.json)"
            )
        return {"eos": harmless}
    first = tokenizer.eos_token_id if tokenizer.eos_token_id in ends else ends[0]
    # llama.cpp knows some by their names, which may go last
    others = sorted(
        (i for i in ends if i != first), key=lambda i: vocabulary.tokens[i] in ENDS_OF_TURN
    )
    unnamed = [i for i in others[2:] if vocabulary.tokens[i] not in ENDS_OF_TURN]
    if unnamed:
        raise InputError(
            f"{model_dir} has {len(ends)} tokens that end a text; a GGUF names three, and llama.cpp"
            f" does not know {vocabulary.tokens[unnamed[0]]!r} by itself: shorten eos_token_id in"
            " generation_config.json"
        )
    return dict(zip(("eos", "eot", "eom"), [first, *others]))


def _lost_flags(definition: dict[str, Any], rows: int, vocabulary: Vocabulary) -> list[str]:
    """Flags of added tokens that llama.cpp has no word for, one line each."""
    lost = []
    for token in definition.get("added_tokens") or []:
        flags = [flag for flag in MATCHING_FLAGS if token.get(flag)]
        # llama.cpp strips behind these itself where the model's name says Phi-3
        known = "<|endoftext|>" in vocabulary.tokens and token["content"] in PHI3_STRIPS
        if flags and token["id"] < rows and not (known and flags == ["rstrip"]):
            lost.append(
                f"{token['content']!r} is matched with {' and '.join(flags)}, which llama.cpp"
                " does not do"
            )
    return lost


def _byte_level(definition: dict[str, Any], rows: int, pre_tokenizer: str) -> Vocabulary:
    tokens, types = _tokens(definition, rows)
    merges = [
        merge if isinstance(merge, str) else " ".join(merge)
        for merge in definition["model"]["merges"]
    ]
    return Vocabulary("gpt2", pre_tokenizer, tokens, types, merges=merges)


def _sentencepiece(definition: dict[str, Any], rows: int) -> Vocabulary:
    """llama.cpp joins the neighbours whose union scores highest; the score is minus the rank of the
    merge making it."""
    tokens, types = _tokens(definition, rows)
    made_at: dict[str, int] = {}
    for rank, merge in enumerate(definition["model"]["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        made_at.setdefault(left + right, rank)
    last = len(definition["model"]["merges"])
    scores = [-float(made_at.get(token, last)) for token in tokens]
    for index, token in enumerate(tokens):
        if (
            len(token) == 6
            and token.startswith("<0x")
            and token.endswith(">")
            and types[index] == TokenType.NORMAL
        ):
            types[index] = TokenType.BYTE
        # llama.cpp turns it back into spaces only
        elif types[index] == TokenType.USER_DEFINED and "\u2581" in token:
            types[index] = TokenType.NORMAL  # in normal tokens: Gemma's runs of spaces
    unknown = definition["model"].get("unk_token")
    if unknown in tokens:
        types[tokens.index(unknown)] = TokenType.UNKNOWN
    return Vocabulary(
        "llama",
        "default",
        tokens,
        types,
        scores=scores,
        add_space_prefix=_adds_space_prefix(definition),
    )


def _tokens(definition: dict[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """Token texts and llama.cpp's types by id."""
    tokens = [f"[PAD{index}]" for index in range(rows)]
    types = [int(TokenType.UNUSED)] * rows
    for text, index in definition["model"]["vocab"].items():
        tokens[index], types[index] = text, int(TokenType.NORMAL)
    for added in definition.get("added_tokens") or []:
        if added["id"] >= rows:
            continue
        tokens[added["id"]] = added["content"]
        types[added["id"]] = int(TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED)
    return tokens, types


def _adds_space_prefix(definition: dict[str, Any]) -> bool:
    """Whether a space is put before the text: a Prepend normalizer or a Metaspace pre-tokenizer."""

    def flatten(node: dict[str, Any] | None) -> list[dict[str, Any]]:
        if node is None:
            return []
        children = node.get("normalizers") or node.get("pretokenizers") or []
        return [leaf for child in children for leaf in flatten(child)] or [node]

    if any(node["type"] == "Prepend" for node in flatten(definition.get("normalizer"))):
        return True
    spaces = [
        node for node in flatten(definition.get("pre_tokenizer")) if node["type"] == "Metaspace"
    ]
    return any(node.get("prepend_scheme", "always") != "never" for node in spaces)
