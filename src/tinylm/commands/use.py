"""`tinylm evaluate`, `generate`, `chat`, `export`: what one does with a model."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from tinylm.corpus.formats import ENDINGS
from tinylm.evaluate.options import EvaluateOptions
from tinylm.evaluate.tasks.catalog import tasks as catalog
from tinylm.export.formats import Format
from tinylm.export.options import ExportOptions


def evaluate(
    model: tuple[str, ...],
    text: Annotated[
        tuple[Path, ...],
        tyro.conf.arg(help=f"held-out files or folders for bits per byte: {ENDINGS}."),
    ] = (),
    tasks: Annotated[
        tuple[str, ...],
        tyro.conf.arg(help=f"benchmarks to run: {', '.join(catalog())}."),
    ] = (),
    documents: int | None = None,
    options: Annotated[EvaluateOptions, tyro.conf.arg(name="")] = EvaluateOptions(),  # noqa: B008
    out: Path = Path("results.json"),
) -> None:
    """Bits per byte and benchmark scores of any number of models, with errors.

    Bits per byte compares models whatever their tokenizers. Of the tasks `paper` names the paper's
    ten, `all` every one. They run through lm-eval. Beside OUT come .md, .html, a record of every
    item, and all answers: a stopped run goes on.

    Args:
        model: directories, .gguf files, hub ids or smollm2-135m; the first is what the others are
            compared with.
        documents: documents scored of each --text file, from its start; all by default.
        out: where the results go.
    """
    from tinylm.evaluate import results
    from tinylm.evaluate.bits_per_byte import held_out
    from tinylm.evaluate.models import evaluate as run_evaluation
    from tinylm.evaluate.tasks.catalog import choose

    result = run_evaluation(
        model, choose(tasks), documents=held_out(text, documents), out=out, **vars(options)
    )
    results.write(result, out)
    results.show(result)


def generate(
    model: str,
    prompt: str,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    whole_sentences: bool = False,
    device: str = "auto",
) -> None:
    """Continue a text, streamed as it is made; the speed is told at the end on stderr.

    Args:
        model: directory, .gguf file, hub id or smollm2-135m.
        prompt: the text to continue; - reads it from stdin.
        max_new_tokens: stop after so many tokens (or at the end of the text, or of the model's
            context).
        temperature: 0 always takes the likeliest token; 1 draws from the model's own distribution.
        top_k: draw only among the k likeliest tokens; 0 among all.
        top_p: draw only among the likeliest tokens that hold this share of the probability.
        seed: same seed, same text.
        whole_sentences: end with the last sentence that the tokens were enough for.
        device: cpu, cuda, or auto (a GPU where there is one).
    """
    from tinylm.machine import choose_device
    from tinylm.models import generate as generation
    from tinylm.models.sentences import in_sentences
    from tinylm.models.teacher import load_model, load_tokenizer

    sampling = generation.Sampling(temperature, top_k, top_p, seed)
    speed = generation.Speed()
    text = sys.stdin.read() if prompt == "-" else prompt
    loaded = load_model(model).to(choose_device(device))
    pieces = generation.generate(
        loaded, load_tokenizer(model), text, max_new_tokens, sampling, speed
    )
    for piece in in_sentences(pieces, speed) if whole_sentences else pieces:
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
    device: str = "auto",
) -> None:
    """Talk with a model, by its own chat template when it has one; Ctrl-D ends.

    Args:
        model: directory, .gguf file, hub id or smollm2-135m.
        system: an instruction that stands before the conversation.
        max_new_tokens: longest answer; the oldest exchanges are dropped when the model's context is
            full.
        temperature: 0 always takes the likeliest token; 1 draws from the model's own distribution.
        top_k: draw only among the k likeliest tokens; 0 among all.
        top_p: draw only among the likeliest tokens that hold this share of the probability.
        seed: same seed and same questions, same answers.
        device: cpu, cuda, or auto (a GPU where there is one).
    """
    from tinylm.machine import choose_device
    from tinylm.models import generate as generation
    from tinylm.models.teacher import load_model, load_tokenizer

    sampling = generation.Sampling(temperature, top_k, top_p, seed)
    generation.chat(
        load_model(model).to(choose_device(device)),
        load_tokenizer(model),
        system,
        max_new_tokens,
        sampling,
    )


def export(
    model: str,
    out: Path | None = None,
    format: Format = "gguf",
    options: Annotated[ExportOptions, tyro.conf.arg(name="")] = ExportOptions(),  # noqa: B008
) -> None:
    """Write a model for devices (GGUF, ExecuTorch, MLX, ONNX), and prove that it is the same.

    Args:
        model: directory, .gguf file, hub id or smollm2-135m.
        out: the file to write, e.g. student-Q8_0.gguf; a report lands beside it as
            student-Q8_0.gguf.json.
        format: gguf (for llama.cpp), or a folder: executorch (model.pte), mlx (for mlx-lm), onnx
            (for onnxruntime-genai); or card: the model card, README.md of the model's folder.
    """
    from tinylm.export.run import export as run_export

    run_export(model, out, format, **vars(options))
