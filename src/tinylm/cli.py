"""The command line: one small function per command - parse, call, print. No logic lives here.

Heavy imports (torch, transformers) stay inside the functions so that ``--help`` answers at once. Annotations and
docstrings are the help text (tyro reads them). Exit codes: 0 done, 1 the work failed, 2 the input is wrong.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from tinylm import __version__
from tinylm.errors import InputError, WorkError
from tinylm.train.config import TrainConfig


def run(recipe: Annotated[str, tyro.conf.Positional] = "demo", out: Path | None = None, threads: int = 0) -> None:
    """The whole pipeline: teacher + corpus -> tiny model, report, results. Run again to resume.

    Stages: teacher, corpus, compact tokenizer, architecture, inheritance, multiple-round training, a control from random
    weights, scoring on held-out text, report. Each is kept in OUT/work, so a second run does only what is missing.

    Args:
        recipe: a .toml file, or the name of a packaged recipe; the embedded demo (about 12 minutes on 2 cores) by default.
        out: folder of everything; default runs/NAME, NAME from the recipe.
        threads: CPU threads; 0: as many as there are cores.
    """
    from tinylm import pipeline
    from tinylm.recipe import read_recipe

    if threads:
        pipeline.use_threads(threads)
    chosen = read_recipe(recipe)
    out = out or Path("runs") / chosen.name
    pipeline.print_results(pipeline.run(chosen, out, recipe_path=recipe), out)


def plan(
    budget: float,
    vocab_size: int,
    teacher: str | None = None,
    depths: str | None = None,
    out: Path | None = None,
    limit: int = 10,
) -> None:
    """Which shapes fit a parameter budget, best first, and why.

    Args:
        budget: all parameters of the model, e.g. 1e9 or 40e6; candidates lie within 1 % of it.
        vocab_size: rows of the embedding, e.g. 48000.
        teacher: directory, .gguf file, hub id or smollm2-135m: only shapes that can be cut from it.
        depths: numbers of layers to compare, e.g. 15,20,25,30: the best shape of each.
        out: folder for plan.json (all numbers) and SHAPE.toml (the best shape, for `inherit` and `train`).
        limit: at most so many candidates.
    """
    from tinylm.architecture import plan as planning

    layers = planning.parse_depths(depths)
    candidates = planning.plan(budget, vocab_size, teacher, layers, limit=limit)
    planning.print_plan(candidates)
    if out is not None:
        request = {"budget": budget, "vocab_size": vocab_size, "teacher": teacher, "depths": layers}
        planning.write_plan(candidates, out, request)
        print(out / "plan.json")


def corpus_pack(tokenizer: str, corpus: list[str], out: Path, separator: str | None = None) -> None:
    """Tokenise a corpus into a memory-mapped token store that `train` reads.

    Args:
        tokenizer: directory, .gguf file, hub id or smollm2-135m.
        corpus: files or folders of .txt, .jsonl[.gz|.zst], .parquet; or hub:NAME[:SPLIT].
        out: folder of the store (must not exist yet).
        separator: token that ends every document; by default <|endoftext|>, else the tokenizer's end-of-text token.
    """
    from tinylm.corpus.pack import pack
    from tinylm.corpus.read import documents
    from tinylm.models.teacher import load_tokenizer

    store = pack(documents(corpus), load_tokenizer(tokenizer), out, separator=separator)
    per_token = store.text_bytes / store.num_tokens
    print(f"{store.num_tokens:,} tokens of {store.num_documents:,} documents, {per_token:.2f} bytes a token, in {out}")


def train(
    model: str,
    data: Path,
    out: Path,
    config: Annotated[TrainConfig, tyro.conf.arg(name="")],
    init: str = "model",
    valid: Path | None = None,
    teacher: str | None = None,
) -> None:
    """Multiple-round training of any causal language model. Run again to go on where it stopped.

    Many devices: `torchrun --nproc-per-node N -m tinylm train ...`.

    Args:
        model: directory, .gguf file, hub id or smollm2-135m: shape, tokenizer and (see init) weights.
        data: token store made by `tinylm corpus pack` with the model's own tokenizer.
        out: gets model/ (a plain Hugging Face directory), metrics.jsonl, rounds/, checkpoints/, result.json.
        init: weights to begin with: model (those of --model), random, or a directory of the same shape.
        valid: token store of held-out text; its loss and bits per byte are measured.
        teacher: model with the same vocabulary, for --distillation live.
    """
    from tinylm.corpus.store import open_store
    from tinylm.models.teacher import load_model, load_tokenizer
    from tinylm.terminal import print_table
    from tinylm.train.initial import initial_model
    from tinylm.train.loop import train as run_training

    result = run_training(
        initial_model(model, init, config.seed),
        open_store(data),
        config,
        out,
        teacher=load_model(teacher) if teacher else None,
        valid_store=open_store(valid) if valid else None,
        tokenizer=load_tokenizer(model),
    )
    print_table(f"trained: {out / 'model'}", ["", ""], [(key, value) for key, value in result.items()])


COMMANDS: dict[str, Callable[..., None]] = {
    "run": run,
    "plan": plan,
    "corpus pack": corpus_pack,
    "train": train,
}


def main(argv: list[str] | None = None) -> None:
    """Entry point of ``tinylm``."""
    argv = list(sys.argv[1:] if argv is None else argv)
    words = 2 if " ".join(argv[:2]) in COMMANDS else 1
    name = " ".join(argv[:words])
    if name in ("--version", "-V"):
        print(f"tinylm {__version__}")
        return
    if name not in COMMANDS:
        _overview(name)
    try:
        tyro.cli(COMMANDS[name], prog=f"tinylm {name}", args=argv[words:])
    except InputError as error:
        _fail(error, 2)
    except WorkError as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        _fail("stopped by Ctrl-C; run the same command again to go on", 130)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        if error.errno == 28:  # ENOSPC
            _fail(f"the disk is full ({error.filename or 'while writing'}): free some space and run again", 2)
        raise


def _overview(name: str) -> None:
    group = {command: run for command, run in COMMANDS.items() if command.split()[0] == name}
    shown = group or COMMANDS
    stream = sys.stdout if name in ("", "-h", "--help") or group else sys.stderr
    print("tinylm: a large open language model + a corpus -> the best tiny one for a budget\n", file=stream)
    for command, run in shown.items():
        print(f"  tinylm {command:<20} {(run.__doc__ or '').strip().splitlines()[0]}", file=stream)
    print("\n`tinylm COMMAND --help` explains each.", file=stream)
    if name not in ("", "-h", "--help") and not group:
        _fail(f"no command {name!r}", 2)
    sys.exit(0)


def _fail(message: object, code: int) -> None:
    print("tinylm: " + " ".join(str(message).split()), file=sys.stderr)
    sys.exit(code)
