"""Multiple-round training against its comparators at the same number of tokens, several seeds;
forgetting measured.

A small Llama (hidden 128, 4 layers) from random weights on the embedded corpus. Every row trains on
the same number of tokens; what differs is how they are spent. Writes the table and the forgetting
picture to --out.

    python benchmarks/train_rounds.py --out DIR [--steps 300] [--seeds 0 1 2]
"""

import argparse
import itertools
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from tinylm.corpus.embedded import embedded_documents
from tinylm.corpus.pack import pack
from tinylm.corpus.split import is_valid
from tinylm.corpus.store import TokenStore, open_store
from tinylm.train.config import TrainConfig
from tinylm.train.loop import train

# name -> settings. All have the same steps, so the same tokens.
ARMS: dict[str, dict[str, Any]] = {
    "one round, all data new": {"rounds": 1},
    "two rounds, 50 % exp-loss": {"rounds": 2, "strategy": "exp-loss"},
    "two rounds, 50 % exp-loss, sequences": {
        "rounds": 2,
        "strategy": "exp-loss",
        "granularity": "sequence",
    },
    "two rounds, 50 % uniform": {"rounds": 2, "strategy": "uniform"},
    "two rounds, 50 % top-loss": {"rounds": 2, "strategy": "top-loss"},
    "two rounds, all": {"rounds": 2, "strategy": "all"},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    arguments = parser.parse_args()
    train_store, valid_store = stores(arguments.out / "data")
    rows: dict[str, list[dict]] = {name: [] for name in ARMS}
    for seed, (name, settings) in itertools.product(arguments.seeds, ARMS.items()):
        config = TrainConfig(
            sequence_length=128,
            batch_size=8,
            steps=arguments.steps,
            seed=seed,
            base_lr=2e-3,
            base_batch_tokens=1024,
            checkpoint_every=0,
            compile=False,
            forgetting=True,
            log_every=10,
            **settings,
        )
        out = (
            arguments.out
            / f"{name.replace(' ', '-').replace(',', '').replace('%', 'percent')}-{seed}"
        )
        rows[name].append(
            train(
                make_model(seed, train_store.vocab_size),
                train_store,
                config,
                out,
                None,
                valid_store,
            )
        )
        print(
            f"{name}, seed {seed}: {rows[name][-1]['valid_loss']:.4f}", file=sys.stderr, flush=True
        )
    table = {name: summary(results) for name, results in rows.items()}
    print(f"\n{'':38} held-out loss   +- sd   forgetting  +- se", file=sys.stderr)
    for name, row in table.items():
        print(
            f"{name:38} {row['loss']:13.4f}  {row['sd']:.4f}  {row['forgetting']:10.4f} "
            f" {row['stderr']:.4f}",
            file=sys.stderr,
        )
    ratio = table["two rounds, 50 % uniform"]["loss"] / table["two rounds, 50 % exp-loss"]["loss"]
    print(
        json.dumps(
            {
                "ratio": ratio,
                "peer": "two rounds, 50 % uniform",
                "steps": arguments.steps,
                "table": table,
            }
        )
    )


def summary(results: list[dict]) -> dict[str, float]:
    losses = [result["valid_loss"] for result in results]
    return {
        "loss": statistics.mean(losses),
        "sd": statistics.stdev(losses) if len(losses) > 1 else 0.0,
        "losses": losses,
        "forgetting": statistics.mean(result["forgetting"] for result in results),
        "stderr": statistics.mean(result["forgetting_stderr"] for result in results),
    }


def stores(folder: Path) -> tuple[TokenStore, TokenStore]:
    """Token stores of the embedded corpus and its held-out part, with a byte-level tokenizer of
    2,048 made from it."""
    if not (folder / "train" / "store.json").exists():
        documents = [document.text for document in itertools.islice(embedded_documents(), 3000)]
        parts: dict[bool, list[str]] = {True: [], False: []}
        for text in documents:
            parts[is_valid(text, 0.03)].append(text)
        tokenizer = make_tokenizer(parts[False])
        pack(parts[False], tokenizer, folder / "train")
        pack(parts[True][:40], tokenizer, folder / "valid")
    return open_store(folder / "train"), open_store(folder / "valid")


def make_tokenizer(texts: list[str]):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2048, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")


def make_model(seed: int, vocabulary: int):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            tie_word_embeddings=True,
            max_position_embeddings=128,
        )
    )


if __name__ == "__main__":
    main()
