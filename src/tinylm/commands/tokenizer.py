"""`tinylm tokenizer ...`: formula 1."""

from pathlib import Path

from tinylm.commands.arguments import Corpus
from tinylm.tokenizer.counters import Counter


def tokenizer_count(
    tokenizer: str,
    corpus: Corpus,
    out: Path,
    engine: Counter = "local",
    workers: int | None = None,
    resume: bool = True,
) -> None:
    """Count how often a corpus uses each token of a tokenizer: the input of `compress`.

    Streams in constant memory. Stopped? The same command again tokenizes only what is new.

    Args:
        tokenizer: directory, .gguf file, hub id or smollm2-135m.
        out: the counts, a .npz file.
        engine: local: the fastest exact engine here; tokenizers: the reference; ray: spread over a
            Ray cluster.
        workers: processes at work at once with ray; default one per CPU of the cluster.
        resume: keep the counts of finished shards beside `out` until the end.
    """
    from tinylm.models.teacher import resolve
    from tinylm.tokenizer.count import count_files

    counts = count_files(
        resolve(tokenizer), corpus, out, engine=engine, workers=workers, resume=resume
    )
    print(
        f"{counts.tokens:,} tokens, {counts.bytes:,} bytes, {counts.documents:,} documents:"
        f" {counts.tokens_per_byte:.4f} tokens per byte, {int((counts.counts > 0).sum()):,} of"
        f" {len(counts.counts):,} tokens used, engine {counts.engine}, in {out}"
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
    """Cut a tokenizer and a model's vocabulary to the tokens a corpus uses; certified.

    OUT gets the tokenizer, the model (if MODEL has weights), certificate.json, id_map.npy (new id
    -> old id) and expansion.npz (remaps tokens already on disk). If a line of the certificate
    fails, nothing is written, exit code 1.

    Args:
        model: directory (a tokenizer alone is enough), .gguf file, hub id or smollm2-135m.
        counts: made by `tinylm tokenizer count` with the same tokenizer.
        vocab_size: tokens to keep, special ones included; give exactly one of this, coverage and
            max-growth.
        coverage: the smallest vocabulary that covers this share of the corpus' tokens, e.g. 0.98.
        max_growth: the smallest vocabulary that makes text at most so many times longer, e.g. 1.02.
        multiple_of: the vocabulary is rounded up to a multiple of this; 1 turns it off.
        check_text: corpora whose distinct words are checked one by one; default: those that were
            counted.
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
    measure: list[str] | None = None,
    out: Path | None = None,
) -> None:
    """What a vocabulary of K tokens covers and costs, also from one corpus to another.

    Args:
        counts: one .npz per corpus, made by `tinylm tokenizer count` with the same tokenizer.
        vocab_size: sizes to look at, e.g. 8192 16384 48000; default: a doubling series.
        tokenizer: where the tokenizer is now, if it is no longer where it was counted.
        hidden_size: width of the model to be: adds embedding + head parameters.
        parameters: its size, e.g. 1e9: adds their share and a recommended K.
        tied: whether embedding and head share one table (--no-tied: two tables).
        measure: held-out text: the model beside the tokenizer is cut to each size and scored on
            100 KB of it; growth is not the whole cost.
        out: folder for coverage.json and coverage.svg.
    """
    from tinylm.corpus.read import documents
    from tinylm.corpus.split import spread
    from tinylm.errors import InputError
    from tinylm.models.teacher import resolve
    from tinylm.pipeline import vocabulary_cost
    from tinylm.tokenizer import coverage
    from tinylm.tokenizer.count import Counts

    if parameters is not None and not 1 <= parameters < float("inf"):
        raise InputError(f"--parameters {parameters} must be a number of parameters, e.g. 40e6")
    if measure and len(counts) > 1:
        raise InputError("--measure is of one vocabulary: give one --counts file")
    loaded, stems = [Counts.load(path) for path in counts], [path.stem for path in counts]
    folder = resolve(tokenizer or loaded[0].tokenizer)
    result = coverage.study(
        folder,
        loaded,
        [
            path.stem if stems.count(path.stem) == 1 else str(path.with_suffix(""))
            for path in counts
        ],
        vocab_size,
        hidden_size=hidden_size,
        parameters=int(parameters) if parameters else None,
        tied=tied,
    )
    coverage.print_study(result)
    if measure:
        text = spread(documents(measure), vocabulary_cost.MEASURED_BYTES)
        result["measured"] = vocabulary_cost.measure_sizes(folder, loaded[0], result["sizes"], text)
        vocabulary_cost.print_costs(result["measured"])
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
    print(
        f"{store.num_tokens:,} tokens of {store.num_documents:,} documents, vocabulary"
        f" {store.vocab_size:,}, in {out}"
    )
