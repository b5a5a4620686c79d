"""Small tokenizers of every family, each as a directory, and small random BPEs."""

import io
import json
import random
from pathlib import Path

from builders import byte_level_tokenizer, texts

from tinylm.corpus.document import Document
from tinylm.tokenizer.source import Source

# letters the sentences do not have
EXTRA = ["héllo wörld", "你好 世界 的 一", "naïve – “x”", "0123456789"]


def corpus(count: int = 120, seed: int = 0) -> list[Document]:
    return [
        Document(text, f"part{number % 2}")
        for number, text in enumerate(texts(count, seed=seed) + EXTRA)
    ]


def byte_level_dir(folder: Path, vocab_size: int = 700) -> Path:
    byte_level_tokenizer(vocab_size).save_pretrained(folder)
    return folder


def sentencepiece_dir(folder: Path, kind: str, vocab_size: int = 560) -> Path:
    """A ``tokenizer.model`` alone, as old repositories ship it. ``kind``: bpe (with byte fallback)
    or unigram."""
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts(200) + EXTRA * 5),
        model_writer=written,
        model_type=kind,
        vocab_size=vocab_size,
        byte_fallback=kind == "bpe",
        character_coverage=1.0,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
        num_threads=1,
    )
    folder.mkdir(parents=True)
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    settings = {
        "tokenizer_class": "LlamaTokenizer" if kind == "bpe" else "T5Tokenizer",
        "extra_ids": 0,
    }
    settings |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def wordpiece_dir(folder: Path, vocab_size: int = 400) -> Path:
    from tokenizers import (
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend.train_from_iterator(
        texts(200) + EXTRA * 5,
        trainers.WordPieceTrainer(
            vocab_size=vocab_size, special_tokens=special, show_progress=False
        ),
    )
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)
    return folder


def random_bpe(
    seed: int, tokens: int = 40, letters: str = "abc", byte_fallback: bool = False
) -> Source:
    """A BPE in the style of converted tiktoken files: every pair that spells a token is a merge, in
    random order, so tokens have several merges and some cannot be reached at all. With
    ``byte_fallback`` letters too can be removed."""
    rng = random.Random(seed)
    vocab = list(letters)
    while len(vocab) < tokens:
        token = rng.choice(vocab) + rng.choice(vocab)
        if token not in vocab and len(token) <= 8:
            vocab.append(token)
    merges = [
        [token[:cut], token[cut:]]
        for token in vocab
        for cut in range(1, len(token))
        if token[:cut] in vocab and token[cut:] in vocab
    ]
    rng.shuffle(merges)
    if byte_fallback:
        vocab = [f"<0x{byte:02X}>" for byte in range(256)] + vocab
    model = {
        "type": "BPE",
        "vocab": {token: i for i, token in enumerate(vocab)},
        "merges": merges,
        "byte_fallback": byte_fallback,
    }
    empty = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding")
    data = {"version": "1.0", "added_tokens": [], "model": model, **dict.fromkeys(empty)}
    return Source(Path("random"), data)


def random_strings(seed: int, number: int = 60, letters: str = "abc") -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(letters, k=rng.randint(1, 40))) for _ in range(number)]
