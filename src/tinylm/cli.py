"""The command line: one small function per command - parse, call, print. No logic lives here.

Heavy imports (torch, transformers) stay inside the functions so that ``--help`` answers at once. Annotations and
docstrings are the help text (tyro reads them). Exit codes: 0 done, 1 the work failed, 2 the input is wrong.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from tinylm import __version__
from tinylm.errors import InputError, WorkError
from tinylm.train.config import TrainConfig


def run(recipe: Annotated[str, tyro.conf.Positional] = "demo", out: Path | None = None, threads: int = 0) -> None:
    """The whole pipeline: teacher + corpus -> tiny model, report, results. Run again to resume.

    Stages: teacher, corpus, compact tokenizer, architecture, inheritance, multiple-round training, a control from
    random weights, scoring on held-out text, report. Each is kept in OUT/work: a second run does only what is missing.

    Args:
        recipe: a .toml file or the name of a packaged recipe; by default the demo (about 12 minutes on 2 cores).
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
    block: Literal["plain", "pangu-pi"] = "plain",
    limit: int = 10,
    measure: bool = False,
    batches: str = "1,20",
    new_tokens: int = 510,
    repeats: int = 5,
    device: str = "auto",
    finalists: int = 0,
    train_tokens: int = 0,
    data: Path | None = None,
    bill_tokens: float = 0.0,
    peak_flops: float = 989e12,
    mfu: float = 0.4,
    out: Path | None = None,
) -> None:
    """Which shapes fit a parameter budget, best first, and why; measured on this machine if you ask.

    Args:
        budget: all parameters of the model, e.g. 1e9 or 40e6; candidates lie within 1 % of it.
        vocab_size: rows of the embedding, e.g. 48000.
        teacher: directory, .gguf file, hub id or smollm2-135m: only shapes that can be cut from it.
        depths: numbers of layers to compare, e.g. 15,20,25,30: the best shape of each.
        block: pangu-pi counts the series activation and the augmented shortcuts in.
        limit: at most so many candidates.
        measure: time every candidate (random weights): prefill, decode, first token, peak memory.
        batches: batch sizes to time, e.g. 1,20.
        new_tokens: tokens generated in each timing; 510 is the paper's protocol.
        repeats: timings of each; the table has the median and the range.
        device: cpu, cuda, or auto (a GPU where there is one).
        finalists: also time so many of the best through llama.cpp in Q8_0.
        train_tokens: train every candidate on so many tokens and report bits per byte (needs --data).
        data: folder with the token stores train/ and valid/, packed with a tokenizer of vocab-size tokens.
        bill_tokens: also tell what training the best shape on so many tokens costs (FLOPs, device-hours).
        peak_flops: of one device for that bill, per second; the default is an H100 in bf16.
        mfu: share of the peak that training is assumed to reach.
        out: folder for plan.json (all numbers), SHAPE.toml (the best shape, for `inherit` and `train`), pareto.svg.
    """
    from tinylm.architecture import plan as planning

    layers = planning.parse_numbers("depths", depths)
    candidates = planning.plan(budget, vocab_size, teacher, layers, block=block, limit=limit)
    planning.print_plan(candidates)
    if bill_tokens:
        planning.print_bill(candidates[0], bill_tokens, peak_flops, mfu)
    measured: list[dict[str, Any]] = []
    if measure or train_tokens:
        from tinylm import measured_plan

        sizes = planning.parse_numbers("batches", batches) or [] if measure else []
        measured = measured_plan.measure(
            candidates, sizes, new_tokens, repeats, device, finalists, train_tokens, data, teacher
        )
        measured_plan.print_measurements(candidates, measured)
    if out is not None:
        request = {"budget": budget, "vocab_size": vocab_size, "teacher": teacher, "depths": layers, "block": block}
        planning.write_plan(candidates, out, request, measured)
        if measured:
            measured_plan.draw(candidates, measured, out / "pareto.svg")
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


def tokenizer_count(
    tokenizer: str,
    corpus: list[str],
    out: Path,
    engine: Literal["local", "tokenizers", "ray"] = "local",
    workers: int | None = None,
    resume: bool = True,
) -> None:
    """Count how often each token of a tokenizer comes out over a corpus: the input of `tokenizer compress`.

    Streams in constant memory. Stopped? The same command again tokenizes only what is new.

    Args:
        tokenizer: directory, .gguf file, hub id or smollm2-135m.
        corpus: files or folders of .txt, .jsonl[.gz|.zst], .parquet; or hub:NAME[:SPLIT].
        out: the counts, a .npz file.
        engine: local: the fastest exact engine here; tokenizers: the reference; ray: spread over a Ray cluster.
        workers: processes at work at once with ray; default one per CPU of the cluster.
        resume: keep the counts of finished shards beside `out` until the end.
    """
    from tinylm.models.teacher import resolve
    from tinylm.tokenizer.count import count_files

    counts = count_files(resolve(tokenizer), corpus, out, engine=engine, workers=workers, resume=resume)
    print(
        f"{counts.tokens:,} tokens, {counts.bytes:,} bytes, {counts.documents:,} documents: "
        f"{counts.tokens_per_byte:.4f} tokens per byte, {int((counts.counts > 0).sum()):,} of {len(counts.counts):,} "
        f"tokens used, engine {counts.engine}, in {out}"
    )


def tokenizer_compress(
    model: str,
    counts: Path,
    out: Path,
    vocab_size: int | None = None,
    coverage: float | None = None,
    max_growth: float | None = None,
    multiple_of: int = 128,
    check_text: list[str] | None = None,
    held_out: list[str] | None = None,
) -> None:
    """Cut a tokenizer, and the model's embedding and head with it, to the tokens a corpus uses; certified.

    OUT gets the tokenizer, the model (if MODEL has weights), certificate.json, id_map.npy (new id -> old id) and
    expansion.npz (remaps tokens already on disk). If a line of the certificate fails, nothing is written, exit code 1.

    Args:
        model: directory (a tokenizer alone is enough), .gguf file, hub id or smollm2-135m.
        counts: made by `tinylm tokenizer count` with the same tokenizer.
        vocab_size: tokens to keep, special ones included; give exactly one of this, coverage and max-growth.
        coverage: the smallest vocabulary that covers this share of the corpus' tokens, e.g. 0.98.
        max_growth: the smallest vocabulary that makes text at most so many times longer, e.g. 1.02.
        multiple_of: the vocabulary is rounded up to a multiple of this; 1 turns it off.
        check_text: corpora whose distinct words are checked one by one; default: those that were counted.
        held_out: corpora on which tokens per byte before and after are measured, per file.
    """
    from tinylm.corpus.read import documents
    from tinylm.models.teacher import resolve
    from tinylm.tokenizer.compress import compress, print_certificate
    from tinylm.tokenizer.count import Counts, corpus_of

    loaded = Counts.load(counts)
    certificate = compress(
        resolve(model),
        loaded,
        out=out,
        vocab_size=vocab_size,
        coverage=coverage,
        max_growth=max_growth,
        multiple_of=multiple_of,
        texts=documents(check_text) if check_text else corpus_of(loaded),
        held_out=documents(held_out) if held_out else None,
    )
    print_certificate(certificate, out)


def tokenizer_coverage(
    counts: list[Path],
    vocab_size: list[int] | None = None,
    tokenizer: str | None = None,
    hidden_size: int | None = None,
    parameters: float | None = None,
    tied: bool = True,
    out: Path | None = None,
) -> None:
    """What a vocabulary of K tokens covers and costs; with several corpora: chosen on A, measured on B.

    Args:
        counts: one .npz per corpus, made by `tinylm tokenizer count` with the same tokenizer.
        vocab_size: sizes to look at, e.g. 8192 16384 48000; default: a doubling series.
        tokenizer: where the tokenizer is now, if it is no longer where it was counted.
        hidden_size: width of the model to be: adds embedding + head parameters.
        parameters: its size, e.g. 1e9: adds their share and a recommended K.
        tied: whether embedding and head share one table (--no-tied: two tables).
        out: folder for coverage.json and coverage.svg.
    """
    from tinylm.models.teacher import resolve
    from tinylm.tokenizer import coverage
    from tinylm.tokenizer.count import Counts

    loaded = [Counts.load(path) for path in counts]
    result = coverage.study(
        resolve(tokenizer or loaded[0].tokenizer),
        loaded,
        [path.stem for path in counts],
        vocab_size,
        hidden_size=hidden_size,
        parameters=int(parameters) if parameters else None,
        tied=tied,
    )
    coverage.print_study(result)
    if out is not None:
        coverage.write_coverage(result, out)
        print(out / "coverage.json")


def tokenizer_remap(data: Path, compact: Path, out: Path) -> None:
    """Turn a packed token store into the tokens of a compact tokenizer, without the text.

    Args:
        data: token store packed with the parent's tokenizer.
        compact: folder that `tinylm tokenizer compress` wrote.
        out: folder of the new store (must not exist yet).
    """
    from tinylm.tokenizer.remap import remap_store

    store = remap_store(data, compact, out)
    print(f"{store.num_tokens:,} tokens of {store.num_documents:,} documents, vocabulary {store.vocab_size:,}, in {out}")


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


def export(
    model: str,
    out: Path | None = None,
    format: str = "gguf",
    facts: list[Path] | None = None,
    quantize: str | None = None,
    check: bool = True,
    verify: Path | None = None,
    text: list[Path] | None = None,
    pre_tokenizer: str | None = None,
    overwrite: bool = False,
    threads: int = 1,
) -> None:
    """Write a model for phones and laptops (GGUF for llama.cpp), and prove that it is the same model.

    Args:
        model: directory, .gguf file, hub id or smollm2-135m.
        out: the file to write, e.g. student-Q8_0.gguf; a report lands beside it as student-Q8_0.gguf.json.
        format: gguf (for llama.cpp), onnx (a folder for onnxruntime-genai), or card: the model card, README.md of the
            model's folder.
        facts: JSON files a card is made from: results.json of a run, reports of exports, the device table.
        quantize: F32, F16 (default), BF16, Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q5_1, Q5_0, Q4_K_M, Q4_K_S, Q4_1 or Q4_0;
            of onnx F32 (default) or INT4.
        check: run the file in llama.cpp and compare tokens, distributions, greedy text and bits per byte with
            transformers; nothing is written when they differ.
        verify: instead of writing, check this GGUF file against --model.
        text: corpus files to measure bits per byte on, besides the built-in text (the first few thousand tokens).
        pre_tokenizer: llama.cpp's name of the rules that split text, when they cannot be recognised.
        overwrite: replace --out when it exists.
        threads: threads of llama.cpp during the check.
    """
    from tinylm.export import command

    command.run(model, out, format, quantize, check, verify, text or [], pre_tokenizer, overwrite, threads, facts or [])


def generate(
    model: str,
    prompt: str,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
) -> None:
    """Continue a text, streamed as it is made; the speed is told at the end on stderr.

    Args:
        model: directory, .gguf file, hub id or smollm2-135m.
        prompt: the text to continue; - reads it from stdin.
        max_new_tokens: stop after so many tokens (or at the end of the text, or of the model's context).
        temperature: 0 always takes the likeliest token; 1 draws from the model's own distribution.
        top_k: draw only among the k likeliest tokens; 0 among all.
        top_p: draw only among the likeliest tokens that hold this share of the probability.
        seed: same seed, same text.
    """
    from tinylm import generate as generation
    from tinylm.models.teacher import load_model, load_tokenizer

    sampling = generation.Sampling(temperature, top_k, top_p, seed)
    speed = generation.Speed()
    text = sys.stdin.read() if prompt == "-" else prompt
    for piece in generation.generate(load_model(model), load_tokenizer(model), text, max_new_tokens, sampling, speed):
        print(piece, end="", flush=True)
    print()
    print(speed, file=sys.stderr)


def chat(
    model: str,
    system: str | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.7,
    top_k: int = 0,
    top_p: float = 0.9,
    seed: int = 0,
) -> None:
    """Talk with a model, with its own chat template when it has one. An empty line or Ctrl-D ends.

    Args:
        model: directory, .gguf file, hub id or smollm2-135m.
        system: an instruction that stands before the conversation.
        max_new_tokens: longest answer; the oldest exchanges are dropped when the model's context is full.
        temperature: 0 always takes the likeliest token; 1 draws from the model's own distribution.
        top_k: draw only among the k likeliest tokens; 0 among all.
        top_p: draw only among the likeliest tokens that hold this share of the probability.
        seed: same seed and same questions, same answers.
    """
    from tinylm import generate as generation
    from tinylm.models.teacher import load_model, load_tokenizer

    sampling = generation.Sampling(temperature, top_k, top_p, seed)
    generation.chat(load_model(model), load_tokenizer(model), system, max_new_tokens, sampling)


def study_run(
    study: Annotated[str, tyro.conf.Positional],
    scale: Literal["cpu", "gpu", "full"] = "cpu",
    out: Path | None = None,
    set: tuple[str, ...] = (),
    engine: Literal["local", "ray"] = "local",
    workers: int = 1,
    max_hours: float = 0,
    dry_run: bool = False,
) -> None:
    """Run a study: recipe variations over several seeds, with statistics and a report. Run again to go on.

    Finished runs are never done again, failed ones are tried again, stages that runs share are computed once.
    Packaged studies: ladder, vocabulary, depth, expansion, inheritance, learned-masks, layers, batch-size,
    sampling-rate, rounds, strategies.

    Args:
        study: a .toml file, or the name of a packaged study.
        scale: cpu (minutes a run on two cores), gpu (minutes a run on one GPU) or full (the paper's 1B).
        out: folder of everything; default runs/studies/STUDY-SCALE.
        set: recipe keys for all runs, e.g. --set train.steps=100 'corpus.paths=["my/texts"]'.
        engine: processes of this machine, or a Ray cluster (RAY_ADDRESS; needs the extra tinylm[ray]).
        workers: runs at a time; each gets an equal share of the cores.
        max_hours: start no run that would end later than this; 0: no limit.
        dry_run: check the study, print what it would cost, and stop.
    """
    from tinylm.study import runner, spec

    chosen = spec.read_study(study, scale, spec.parse_settings(set))
    out = out or Path("runs") / "studies" / f"{chosen.name}-{scale}"
    if dry_run:
        runner.print_plan(chosen, out, workers)
        return
    results = runner.run_study(chosen, out, engine=engine, workers=workers, max_hours=max_hours)
    runner.print_verdicts(results, out)


def study_report(folder: Annotated[Path, tyro.conf.Positional]) -> None:
    """Write the report of a study anew, finished or not: results.json, report.html, report.md.

    Args:
        folder: the --out of `tinylm study run`.
    """
    from tinylm.study import report, runner, summary

    results = summary.summarise(folder)
    report.write_report(results, folder)
    runner.print_verdicts(results, folder)


def inherit(
    teacher: str,
    shape: Path,
    out: Path,
    criterion: Literal["random", "l1", "l2", "taylor", "activation", "learned"] = "taylor",
    layers: Literal["first-last", "skip-loss", "greedy", "similarity", "learned"] = "greedy",
    calibration: list[str] | None = None,
    chunks: int = 64,
    length: int = 512,
    repair: tuple[Literal["norms", "refit", "refit-all"], ...] = ("norms", "refit"),
    scores: Path | None = None,
    kept_ids: Path | None = None,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    seed: int = 0,
) -> None:
    """Cut a student of an exact shape out of a teacher, repair it, and prove that it reloads.

    Give the teacher the vocabulary of the student first (`tokenizer compress`). The result is an ordinary model.

    Args:
        teacher: directory, .gguf file, hub id or smollm2-135m.
        shape: SHAPE.toml or a plan.json (its first candidate); no axis larger than the teacher's, head_dim the same.
        out: folder of the student (must not exist yet); OUT/scores holds the scores and the indices kept.
        criterion: which units inside a layer stay: taylor by gradients, l1 and l2 by weights, learned by masks.
        layers: which layers stay: greedy skips one at a time and measures again after each; skip-loss measures once.
        calibration: text the teacher is scored and the student repaired on: .txt, .jsonl[.gz|.zst], .parquet.
        chunks: calibration chunks; text is packed, nothing is padded.
        length: tokens a chunk.
        repair: after the cut: norms rescales gains after a hidden cut, refit(-all) solves 2 (7) matrices a layer.
        scores: scores of an earlier run (its OUT/scores): a second shape then takes seconds.
        kept_ids: id_map.npy naming the teacher's ids that stay, when the target's vocabulary is smaller.
        dtype: of the teacher at work and of the student.
        seed: of criterion random.
    """
    import torch

    from tinylm.inherit.run import inherit_files

    result = inherit_files(
        teacher,
        shape,
        out,
        criterion=criterion,
        layers=layers,
        calibration=calibration or [],
        chunks=chunks,
        length=length,
        repair=repair,
        scores=scores,
        kept_ids=kept_ids,
        dtype=getattr(torch, dtype),
        seed=seed,
    )
    spent = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items())
    print(f"{result.model.num_parameters():,} parameters in {out}; layers {result.kept.layers}; {spent}")


def evaluate(
    model: tuple[str, ...],
    text: tuple[Path, ...] = (),
    tasks: tuple[str, ...] = (),
    task_data: Path | None = None,
    out: Path = Path("results.json"),
    limit: int | None = None,
    documents: int | None = None,
    counts: Path | None = None,
    num_fewshot: int | None = None,
    batch_size: str = "auto",
    context: int | None = None,
    dtype: str = "bfloat16",
) -> None:
    """Bits per byte of held-out text and benchmark scores, with errors, for any number of models side by side.

    Bits per byte compares models whatever their tokenizers. Tasks: ceval cmmlu mmlu agieval boolq ax-b piqa eprstmt
    xsum c3 (the paper's ten), hellaswag arc-easy lambada blimp wikitext; `paper` and `all` name the lists. They run
    through lm-eval. Beside OUT come .md, .html, a record of every item, and all answers: a stopped run goes on.

    Args:
        model: directories, .gguf files, hub ids or smollm2-135m; the first is what the others are compared with.
        text: held-out files or folders (.txt, .jsonl[.gz|.zst], .parquet) for bits per byte.
        tasks: benchmarks to run.
        task_data: folder of the benchmark files (layout: docs/evaluation.md); without it they come from the hub.
        out: where the results go.
        limit: items of each task, spread over its subjects; all by default. Small limits have large errors.
        documents: documents scored of each --text file, from its start; all by default.
        counts: counts.npz of the first model's tokenizer: --text also by how frequent its tokens are.
        num_fewshot: solved examples before each item; by default 5 for MMLU, C-Eval and CMMLU, 0 for the rest.
        batch_size: tokens per forward pass, or auto.
        context: tokens a model sees at once; by default 512 for --text, and all the model has for tasks.
        dtype: bfloat16, float16 or float32.
    """
    from tinylm.evaluate import results
    from tinylm.evaluate.bits_per_byte import held_out
    from tinylm.evaluate.tasks import choose
    from tinylm.evaluate.tasks import evaluate as run_evaluation

    result = run_evaluation(
        model,
        choose(tasks),
        task_data=task_data,
        documents=held_out(text, documents),
        limit=limit,
        num_fewshot=num_fewshot,
        batch_size=int(batch_size) if batch_size.isdigit() else batch_size,
        context=context,
        dtype=dtype,
        counts=counts,
        out=out,
    )
    results.write(result, out)
    results.show(result)


COMMANDS: dict[str, Callable[..., None]] = {
    "run": run,
    "plan": plan,
    "corpus pack": corpus_pack,
    "tokenizer count": tokenizer_count,
    "tokenizer compress": tokenizer_compress,
    "tokenizer coverage": tokenizer_coverage,
    "tokenizer remap": tokenizer_remap,
    "inherit": inherit,
    "train": train,
    "evaluate": evaluate,
    "generate": generate,
    "chat": chat,
    "export": export,
    "study run": study_run,
    "study report": study_report,
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
