"""`tinylm plan`, `inherit`, `corpus pack`, `train`: formulas 2 to 4."""

from pathlib import Path
from typing import Annotated

import tyro

from tinylm.commands.arguments import Corpus
from tinylm.corpus.conversation import LossOn
from tinylm.errors import InputError
from tinylm.inherit.options import InheritOptions
from tinylm.machine import is_first_process
from tinylm.pipeline.plan_options import PlanOptions
from tinylm.tokenizer.encoders import Encoder
from tinylm.train.config import TrainConfig


def plan(
    budget: float,
    vocab_size: int,
    options: Annotated[PlanOptions, tyro.conf.arg(name="")] = PlanOptions(),  # noqa: B008
) -> None:
    """Which shapes fit a parameter budget, best first, and why; measured if you ask.

    Args:
        budget: all parameters of the model, e.g. 1e9 or 40e6; candidates lie within 1 % of it.
        vocab_size: rows of the embedding, e.g. 48000.
    """
    from tinylm.pipeline.planning import plan_files

    plan_files(budget, vocab_size, options)


def inherit(
    teacher: str,
    shape: Path,
    out: Path,
    options: Annotated[InheritOptions, tyro.conf.arg(name="")] = InheritOptions(),  # noqa: B008
) -> None:
    """Cut a student of an exact shape out of a teacher, repair it, and prove that it reloads.

    Give the teacher the vocabulary of the student first (`tokenizer compress`). The result is an
    ordinary model.

    Args:
        teacher: directory, .gguf file, hub id or smollm2-135m.
        shape: SHAPE.toml or a plan.json (its first candidate); no axis larger than the teacher's,
            head_dim the same.
        out: folder of the student (must not exist yet); OUT/scores holds the scores and the indices
            kept.
    """
    from tinylm.inherit.run import inherit_files

    result = inherit_files(teacher, shape, out, options)
    spent = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items())
    print(
        f"{result.model.num_parameters():,} parameters in {out}; layers {result.kept.layers};"
        f" {spent}"
    )


def corpus_pack(
    tokenizer: str,
    corpus: Corpus,
    out: Path,
    separator: str | None = None,
    engine: Encoder = "local",
    workers: int | None = None,
    text_key: str = "text",
    loss_on: LossOn = "assistant",
) -> None:
    """Tokenise a corpus into a memory-mapped token store that `train` reads. Run again to go on.

    Args:
        tokenizer: directory, .gguf file, hub id or smollm2-135m.
        out: folder of the store (must not exist yet).
        separator: token that ends every document; by default <|endoftext|>, else the tokenizer's
            end-of-text token.
        engine: local is the fastest that is exact here; ray spreads the work over a cluster.
        workers: processes at work at once (ray); by default one a CPU.
        text_key: field of a record that holds its text; messages: conversations, written by the
            tokenizer's chat template.
        loss_on: what of a conversation is learned: what the assistant says, or all of it.
    """
    from tinylm.corpus.conversation import KEY, render
    from tinylm.corpus.pack import pack
    from tinylm.corpus.read import by_path, documents
    from tinylm.models.teacher import load_tokenizer
    from tinylm.tokenizer.encoders import encoder_of

    if workers is not None and workers < 1:
        raise InputError(f"--workers {workers} must be 1 or more")
    fast = load_tokenizer(tokenizer)
    encode = encoder_of(fast, engine, workers)
    read = by_path(corpus, text_key) if len(corpus) > 1 else documents(corpus, text_key)
    if text_key == KEY:
        read = render(read, fast, loss_on)
    store = pack(read, fast, out, encode=encode, separator=separator, sources=len(corpus))
    per_token = store.text_bytes / store.num_tokens
    print(
        f"{store.num_tokens:,} tokens of {store.num_documents:,} documents, {per_token:.2f} bytes a"
        f" token, in {out}"
    )


def train(
    model: str,
    data: Path,
    out: Path,
    config: Annotated[TrainConfig, tyro.conf.arg(name="")],
    init: str = "model",
    shape: Path | None = None,
    valid: Path | None = None,
    teacher: str | None = None,
) -> None:
    """Multiple-round training of any causal language model. Run again to go on where it stopped.

    Many devices: `torchrun --nproc-per-node N -m tinylm train ...`.

    Args:
        model: directory, .gguf file, hub id or smollm2-135m: shape, tokenizer and (see init)
            weights.
        data: token store made by `tinylm corpus pack` with the model's own tokenizer.
        out: gets model/ (a plain Hugging Face directory), metrics.jsonl, rounds/, checkpoints/,
            result.json.
        init: weights to begin with: model (those of --model), random, or a directory of the same
            shape.
        shape: with --init random: SHAPE.toml or plan.json of the model to make, in --model's family
            and vocabulary.
        valid: token store of held-out text; its loss and bits per byte are measured.
        teacher: model with the same vocabulary, for --distillation and --strategy excess-loss.
    """
    from tinylm.artifact import alone_in
    from tinylm.corpus.store import open_store
    from tinylm.models.initialise import initial_model
    from tinylm.models.teacher import load_model, load_tokenizer
    from tinylm.terminal import print_table
    from tinylm.train.loop import train as run_training
    from tinylm.train.parallel import lost_process

    with lost_process(), alone_in(out, is_first_process()):
        result = run_training(
            initial_model(model, init, config.seed, shape),
            open_store(data),
            config,
            out,
            teacher=load_model(teacher) if teacher else None,
            valid_store=open_store(valid) if valid else None,
            tokenizer=load_tokenizer(model),
        )
    if not is_first_process():
        return
    print_table(
        f"trained: {out / 'model'}", ["", ""], [(key, value) for key, value in result.items()]
    )
