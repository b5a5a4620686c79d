"""Small real things that tests build: text, a tokenizer, a model directory."""

import json
import random
from pathlib import Path

import torch

WORDS = (
    "the a river city old new court found that it was built in of and to light water stone people"
    " many years later north south king house small large number first second year world under over"
    " found between before after"
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
    path.write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in texts(count, words, seed))
    )
    return path


def byte_level_tokenizer(vocab_size: int = 500, seed: int = 0):
    """A fast byte-level BPE tokenizer trained on :func:`texts`, with special tokens and a chat
    template."""
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
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] +"
        " '<|im_end|>\n' }}{% endfor %}"
    )
    return tokenizer


def tiny_teacher(folder: Path, vocab_size: int = 500, seed: int = 0, **changes) -> Path:
    """A random Llama (4 layers, hidden 64, 4 heads / 2 kv) with its tokenizer as a `transformers`
    directory."""
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


def sentencepiece_tokenizer(vocab_size: int = 400):
    """A BPE tokenizer in SentencePiece's manner (spaces as U+2581, bytes for unknown characters)
    with <s> and </s>."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    names = [f"<0x{byte:02X}>" for byte in range(256)]
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    trained.train_from_iterator(texts(300), trainer)
    state = json.loads(trained.to_str())
    vocabulary = state["model"]["vocab"]
    for name in names:
        vocabulary.setdefault(name, len(vocabulary))
    state["model"] |= {"byte_fallback": True, "fuse_unk": True}
    backend = Tokenizer.from_str(json.dumps(state))
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def random_model(folder: Path, model_type: str, tokenizer, **changes) -> Path:
    """A small random model of any family as a `transformers` directory: weights large enough that
    its text is decided, norm gains and biases away from one and zero so that no part of the graph
    goes untested."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {
        "vocab_size": max(tokenizer.get_vocab().values()) + 1,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        "initializer_range": 0.3,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
    } | changes
    if model_type in ("phi3", "olmo2"):
        del settings["head_dim"]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif name.endswith("bias"):
                parameter.normal_(0, 0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


FAMILIES = "llama mistral smollm3 granite qwen2 qwen3 gemma gemma2 gemma3_text phi3 olmo2".split()


def family_model(
    model_type: str, tied: bool = True, dtype: torch.dtype = torch.float32, seed: int = 0, **changes
):
    """A random model of a family: 4 layers, hidden 32, FFN 48, 4 heads / 2 kv of 8, vocabulary 64,
    uneven gains."""
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    settings = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "tie_word_embeddings": tied,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        CONFIG_MAPPING[model_type](**(settings | changes)), dtype=dtype
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif "embed" not in name and "lm_head" not in name:
                parameter.mul_(8)  # the default 0.02 leaves the layers with next to no effect
    return model.eval()


# of `tinylm run`: seconds; {teacher}, {corpus}
TINY_RECIPE = """
name = "tiny"
teacher = "{teacher}"
[corpus]
paths = ["{corpus}"]
valid_fraction = 0.1
eval_bytes = 5000
[tokenizer]
vocab_size = 384
[architecture]
shape = {{ num_layers = 3, hidden_size = 48, intermediate_size = 96, num_attention_heads = 4, num_key_value_heads = 2, head_dim = 16 }}
[inherit]
calibration_chunks = 8
calibration_length = 32
[train]
sequence_length = 32
batch_size = 4
steps = 24
rounds = 2
checkpoint_every = 4
compile = false
[evaluate]
prompts = ["The river"]
"""  # noqa: E501
