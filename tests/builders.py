"""Small real things that tests build: text, a tokenizer, a model directory."""

import json
import random
from pathlib import Path

import torch

WORDS = (
    "the a river city old new court found that it was built in of and to light water stone people many years later "
    "north south king house small large number first second year world under over found between before after"
).split()


def texts(count: int, words: int = 60, seed: int = 0) -> list[str]:
    """Sentences of common words with some structure to learn; every text differs."""
    rng = random.Random(seed)
    out = []
    for number in range(count):
        chosen = [rng.choice(WORDS) for _ in range(words)]
        out.append(f"Text {number}. " + " ".join(chosen).capitalize() + ".")
    return out


def corpus_file(path: Path, count: int = 200, words: int = 60, seed: int = 0) -> Path:
    """A .jsonl corpus of :func:`texts`."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(count, words, seed)))
    return path


def byte_level_tokenizer(vocab_size: int = 500, seed: int = 0):
    """A fast byte-level BPE tokenizer trained on :func:`texts`, with special tokens and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts(300, seed=seed), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<|endoftext|>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    )
    return tokenizer


def tiny_teacher(folder: Path, vocab_size: int = 500, seed: int = 0, **changes) -> Path:
    """A random Llama (4 layers, hidden 64, 4 heads / 2 kv) with its tokenizer as a `transformers` directory."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_level_tokenizer(vocab_size, seed)
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(**settings | changes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
