"""Cutting real vocabularies: growth of held-out text, ours against the top-k recipe and the package
`trimbed`.

    python benchmarks/compact_tokenizer.py --tokenizer DIR... --corpus P... --held-out P... \
        [--sizes 8192 16384 48000] [--trimbed PYTHON] [--out results.json]

All three get the same counts and the same number of tokens, and are measured on the same held-out
text, tokenized again from scratch. "top-k" is the paper's published recipe: special tokens, bytes
and the most frequent pieces, with the merges whose parts are there. PYTHON is an interpreter with
`trimbed` (it needs Python 3.12). `ratio`: tokens of the held-out text by the best peer over ours,
geometric mean over all tokenizers and sizes.
"""

import argparse
import json
import math
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tinylm.artifact import write_json
from tinylm.corpus.document import Document
from tinylm.corpus.read import documents
from tinylm.errors import InputError, WorkError
from tinylm.models.teacher import resolve
from tinylm.tokenizer.choose import forced_tokens
from tinylm.tokenizer.compress import compress
from tinylm.tokenizer.count import Counts, count
from tinylm.tokenizer.heldout import growth_by_source
from tinylm.tokenizer.rewrite import write_tokenizer
from tinylm.tokenizer.source import Source, read_source
from tinylm.tokenizer.splits import Splits, splits_of

TRIMBED = """
import json, sys
from trimbed import TrimConfig, TrimPipeline
TrimPipeline(TrimConfig.model_validate(json.loads(sys.argv[1]))).run()
"""


def top_k(source: Source, splits: Splits, counts: Counts, size: int, folder: Path) -> None:
    """Specials, bytes and chat template, then the most frequent pieces; nothing is checked."""
    forced = forced_tokens(source, splits)
    by_count = np.argsort(-counts.counts, kind="stable")
    rest = [
        int(token)
        for token in by_count
        if int(token) in source.strings and int(token) not in forced
    ]
    write_tokenizer(source, np.array(sorted([*forced, *rest[: size - len(forced)]])), folder)


def trimbed(python: str, source: Source, counts: Counts, size: int, folder: Path) -> None:
    """`trimbed` with the same counts (in its cache format), the same size, tokenizer only."""
    cache = folder.parent / "counts.json"
    found = {str(token): int(number) for token, number in enumerate(counts.counts) if number}
    payload = {
        "counts": found,
        "total_num_tokens": counts.tokens,
        "num_documents": counts.documents,
    }
    cache.write_text(json.dumps({**payload, "samples": []}))
    settings = {
        "model": str(source.folder.resolve()),
        "output_dir": str(folder),
        "corpus": {
            "counts_cache": str(cache),
            "datasets": [{"path": "json", "data_files": str(cache)}],
        },
        "selection": {"top_k": size, "max_vocab_size": size},
        "trim_model": False,
        "verify": False,
        "verify_model": False,
    }
    done = subprocess.run(
        [python, "-c", TRIMBED, json.dumps(settings)], capture_output=True, text=True
    )
    if done.returncode:
        raise WorkError(f"trimbed failed: {done.stderr.strip().splitlines()[-1]}")


def unreachable(parent: Source, child: Source) -> int:
    """Tokens of the child's model that the parent's model produces from their own string and the
    child's does not."""
    old, new, lost = parent.fast.model, child.fast.model, 0
    for token, new_id in child.model_ids.items():
        if [one.value for one in old.tokenize(token)] == [token]:
            lost += [one.id for one in new.tokenize(token)] != [new_id]
    return lost


def without_whole_words(source: Source) -> Source:
    """The same tokenizer without ``ignore_merges``: what merges alone can reach (a token that only
    matches as a whole word is as good as dead elsewhere)."""
    model = {**source.model, "ignore_merges": False} if source.kind == "BPE" else source.model
    return Source(source.folder, {**source.data, "model": model})


def measure(source: Source, folder: Path, held_out: list[Document]) -> dict[str, Any]:
    child = read_source(folder)
    grown = growth_by_source(source, child, held_out)
    return {
        "vocab_size": len(child.strings),
        "unreachable": unreachable(without_whole_words(source), without_whole_words(child)),
        "growth": {name: row["growth"] for name, row in grown.items()},
        "tokens_per_byte": grown["all"]["tokens_per_byte_after"],
    }


def study(
    tokenizer: str, options: argparse.Namespace, held_out: list[Document]
) -> list[dict[str, Any]]:
    source = read_source(resolve(tokenizer))
    counts, splits, rows = count(source.folder, options.corpus), splits_of(source), []
    for size in options.sizes:
        if size >= len(source.strings):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            row: dict[str, Any] = {
                "tokenizer": tokenizer,
                "parent": len(source.strings),
                "asked": size,
            }
            start = time.perf_counter()
            try:
                certificate = compress(
                    source.folder,
                    counts,
                    out=Path(scratch) / "ours",
                    vocab_size=size,
                    texts=documents(options.corpus),
                )
            except InputError as error:  # more special tokens than that
                rows.append({**row, "not possible": str(error)})
                continue
            row |= {"seconds": time.perf_counter() - start, "passed": certificate["passed"]}
            row |= {
                "coverage": certificate["coverage"],
                "growth_predicted": certificate["growth_predicted"],
            }
            row |= {
                "kept_only_words": next(
                    x["found"] for x in certificate["lines"] if "words" in x["check"]
                )
            }
            row["ours"] = measure(source, Path(scratch) / "ours", held_out)
            (Path(scratch) / "top-k").mkdir()
            top_k(source, splits, counts, certificate["vocab_size"], Path(scratch) / "top-k")
            row["top-k"] = measure(source, Path(scratch) / "top-k", held_out)
            if options.trimbed:
                try:
                    trimbed(
                        options.trimbed,
                        source,
                        counts,
                        certificate["vocab_size"],
                        Path(scratch) / "trimbed",
                    )
                    row["trimbed"] = measure(source, Path(scratch) / "trimbed", held_out)
                except (WorkError, InputError) as error:
                    row["trimbed failed"] = str(error)[:300]
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", nargs="+", required=True)
    parser.add_argument("--corpus", nargs="+", required=True)
    parser.add_argument("--held-out", nargs="+", required=True)
    parser.add_argument("--sizes", nargs="+", type=int, default=[8192, 16384, 48000])
    parser.add_argument("--trimbed")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    held_out = list(documents(options.held_out))
    rows = [row for tokenizer in options.tokenizer for row in study(tokenizer, options, held_out)]
    ratios = [
        min(row[peer]["growth"]["all"] for peer in ("top-k", "trimbed") if peer in row)
        / row["ours"]["growth"]["all"]
        for row in rows
        if "ours" in row
    ]
    result: dict[str, Any] = {"peer": "best of top-k recipe and trimbed", "rows": rows}
    result["ratio"] = math.exp(sum(map(math.log, ratios)) / len(ratios))
    if options.out:
        write_json(options.out, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
