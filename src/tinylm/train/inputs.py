"""Whether model, data and teacher fit together, asked before the first step."""

import os
from typing import Any

from tinylm.artifact import hash_of
from tinylm.corpus.store import TokenStore
from tinylm.errors import InputError
from tinylm.train.config import TrainConfig
from tinylm.train.distillation import needs_teacher


def check_valid_store(valid: TokenStore, store: TokenStore, config: TrainConfig) -> None:
    """InputError when held-out text cannot be scored, before the training instead of after it."""
    if valid.tokenizer_hash != store.tokenizer_hash:
        raise InputError(
            f"{valid.path} was packed with another tokenizer than {store.path}: pack it again"
        )
    if valid.num_sequences(config.sequence_length) == 0:
        raise InputError(
            f"{valid.path} holds {valid.num_tokens:,} tokens, less than one sequence of"
            f" {config.sequence_length}: add held-out documents, or lower train.sequence_length"
        )


def weights_hash(model: Any) -> str:
    """Tells two models of one shape apart by the first numbers of every parameter; "" for no
    model."""
    if model is None:
        return ""
    return hash_of(
        [weight.detach().reshape(-1)[:64].float().tolist() for weight in model.parameters()]
    )


def require_rows(store: TokenStore, rows: int) -> None:
    """InputError when the packed text holds a token that a model of ``rows`` embedding rows has
    none for. A tokenizer may have such that no text becomes (Gemma 3's image token)."""
    if store.vocab_size > rows and (largest := int(store.tokens.max())) >= rows:
        raise InputError(
            f"{store.path} holds the token id {largest} of a vocabulary of {store.vocab_size}, the"
            f" model has {rows} rows: pack the corpus with the model's own tokenizer, and without"
            " texts that spell a token without a row"
        )


def require_top_k(config: TrainConfig, vocabulary: int) -> None:
    """InputError when more logits a position are to be stored than there are tokens."""
    if config.distillation == "stored" and config.stored_top_k > vocabulary:
        raise InputError(
            f"train.stored_top_k = {config.stored_top_k}: the vocabulary has {vocabulary} tokens"
        )


def check_batch(config: TrainConfig) -> None:
    """InputError when the processes of this run cannot share a batch."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    if config.batch_size % (world * (config.micro_batch_size or 1)):
        raise InputError(
            f"train.batch_size = {config.batch_size}: must be a multiple of train.micro_batch_size"
            f" times the number of processes ({world})"
        )


def check_inputs(model: Any, store: TokenStore, config: TrainConfig, teacher: Any) -> None:
    """InputError when model, data and teacher do not fit together."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    require_rows(store, vocabulary)
    check_batch(config)
    if needs_teacher(config):
        if teacher is None:
            key = "strategy" if config.distillation == "none" else "distillation"
            raise InputError(f"train.{key} = {getattr(config, key)!r} needs a teacher")
        require_top_k(config, vocabulary)
        teachers = teacher.get_output_embeddings().weight.shape[0]
        if teachers != vocabulary:
            raise InputError(
                f"the teacher's vocabulary is {teachers}, the student's {vocabulary}: they must be"
                " the same"
            )
