"""`tinylm plan`, `inherit`, `corpus pack`, `train`: formulas 2 to 4."""

import contextlib
import os
from pathlib import Path
from typing import Annotated, Any

import tyro

from tinylm.inherit.options import InheritOptions
from tinylm.models.block import Block
from tinylm.train.config import TrainConfig


def plan(
    budget: float,
    vocab_size: int,
    teacher: str | None = None,
    depths: str | None = None,
    block: Block = "plain",
    limit: int = 10,
    measure: bool = False,
    batches: str = "1,20",
    new_tokens: int = 510,
    repeats: int = 5,
    device: str = "auto",
    finalists: int = 0,
    again: bool = False,
    train_tokens: float = 0,
    data: Path | None = None,
    bill_tokens: float = 0.0,
    peak_flops: float = 989e12,
    mfu: float = 0.4,
    out: Path | None = None,
) -> None:
    """Which shapes fit a parameter budget, best first, and why; measured if you ask.

    Args:
        budget: all parameters of the model, e.g. 1e9 or 40e6; candidates lie within 1 % of it.
        vocab_size: rows of the embedding, e.g. 48000.
        teacher: directory, .gguf file, hub id or smollm2-135m: only shapes that can be cut from it.
        depths: numbers of layers to compare, e.g. 15,20,25,30: the best shape of each.
        block: pangu-pi counts the series activation and the augmented shortcuts in; `inherit` then
            grafts them.
        limit: at most so many candidates.
        measure: time every candidate (random weights): prefill, decode, first token, peak memory.
        batches: batch sizes to time, e.g. 1,20.
        new_tokens: tokens generated in each timing; 510 is the paper's protocol.
        repeats: timings of each; the table has the median and the range.
        device: cpu, cuda, or auto (a GPU where there is one).
        finalists: also time so many of the best through llama.cpp in Q8_0.
        again: time anew what was timed on this machine before (timings are kept in the cache
            folder).
        train_tokens: train every candidate on so many tokens and report bits per byte (needs
            --data).
        data: folder with the token stores train/ and valid/, packed with a tokenizer of vocab-size
            tokens.
        bill_tokens: also tell what training the best shape on so many tokens costs (FLOPs,
            device-hours).
        peak_flops: of one device for that bill, per second; the default is an H100 in bf16.
        mfu: share of the peak that training is assumed to reach.
        out: folder for plan.json (all numbers), SHAPE.toml (the best shape, for `inherit` and
            `train`), pareto.svg.
    """
    from tinylm.architecture import plan as planning
    from tinylm.errors import InputError

    if not 0 <= train_tokens < 1e15:
        raise InputError(f"--train-tokens {train_tokens} must be a number of tokens, e.g. 5e5")

    layers = planning.parse_numbers("depths", depths)
    candidates = planning.plan(budget, vocab_size, teacher, layers, block=block, limit=limit)
    planning.print_plan(candidates)
    if bill_tokens:
        planning.print_bill(candidates[0], bill_tokens, peak_flops, mfu)
    measured: list[dict[str, Any]] = []
    request = {
        "budget": budget,
        "vocab_size": vocab_size,
        "teacher": teacher,
        "depths": layers,
        "block": block,
    }
    if out is not None and not (out / "plan.json").exists():
        # again below: measuring takes long and can be stopped
        planning.write_plan(candidates, out, request)
    if measure or train_tokens:
        from tinylm.pipeline import measured_plan

        sizes = planning.parse_numbers("batches", batches) or [] if measure else []
        measured = measured_plan.measure(
            candidates,
            sizes,
            new_tokens,
            repeats,
            device,
            finalists,
            int(train_tokens),
            data,
            teacher,
            again,
        )
        measured_plan.print_measurements(candidates, measured)
    if out is not None:
        planning.write_plan(candidates, out, request, measured)
        if measure:
            measured_plan.draw(candidates, measured, out / "pareto.svg")
        print(out / "plan.json")


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


def corpus_pack(tokenizer: str, corpus: list[str], out: Path, separator: str | None = None) -> None:
    """Tokenise a corpus into a memory-mapped token store that `train` reads.

    Args:
        tokenizer: directory, .gguf file, hub id or smollm2-135m.
        corpus: files or folders of .txt, .jsonl[.gz|.zst], .parquet; or hub:NAME[@CONFIG][:SPLIT].
        out: folder of the store (must not exist yet).
        separator: token that ends every document; by default <|endoftext|>, else the tokenizer's
            end-of-text token.
    """
    from tinylm.corpus.pack import pack
    from tinylm.corpus.read import documents
    from tinylm.models.teacher import load_tokenizer

    store = pack(documents(corpus), load_tokenizer(tokenizer), out, separator=separator)
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
        teacher: model with the same vocabulary, for --distillation live.
    """
    from tinylm.artifact import alone_in
    from tinylm.corpus.store import open_store
    from tinylm.models.initialise import initial_model
    from tinylm.models.teacher import load_model, load_tokenizer
    from tinylm.terminal import print_table
    from tinylm.train.loop import train as run_training

    # of the processes of torchrun, which share one folder
    first = os.environ.get("RANK", "0") == "0"
    with alone_in(out) if first else contextlib.nullcontext():
        result = run_training(
            initial_model(model, init, config.seed, shape),
            open_store(data),
            config,
            out,
            teacher=load_model(teacher) if teacher else None,
            valid_store=open_store(valid) if valid else None,
            tokenizer=load_tokenizer(model),
        )
    print_table(
        f"trained: {out / 'model'}", ["", ""], [(key, value) for key, value in result.items()]
    )
