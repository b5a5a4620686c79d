"""Packing text into a token store: `tinylm corpus pack`'s engine against `tokenizers` through the
same documents, in one run.

    python benchmarks/pack.py --tokenizer smollm2-135m --corpus FILE... [--megabytes 60]

Each contender packs in a fresh process from the same .jsonl file on disk (reading is in both
times), with all cores. `ratio` is our MB/s over that of `tokenizers`, called as `transformers`
calls it; `identical` says whether the two stores have the same bytes; `growth` is our peak memory
over that at a tenth of the text.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tinylm.corpus.pack import pack
from tinylm.corpus.read import documents
from tinylm.models.teacher import load_tokenizer
from tinylm.tokenizer.encoders import encoder_of


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--corpus", nargs="+", required=True)
    parser.add_argument("--megabytes", type=float, default=60)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        name, text, out = options.worker
        return work(name, options.tokenizer, Path(text), Path(out))
    with tempfile.TemporaryDirectory() as folder:
        place, rows = Path(folder), {}
        for size, name in ((0.1, "tinylm"), (1.0, "tinylm"), (1.0, "tokenizers")):
            text = place / f"{size}.jsonl"
            written = write(text, options.corpus, size * options.megabytes * 1e6)
            out = place / f"{size}-{name}"
            command = [sys.executable, __file__, "--tokenizer", options.tokenizer, "--corpus", "-"]
            command += ["--worker", name, str(text), str(out)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            row = json.loads(done.stdout.splitlines()[-1])
            row["mb_per_second"] = written / 1e6 / row["seconds"]
            rows[out.name] = row
            print(f"{out.name}: {row['mb_per_second']:.1f} MB/s", file=sys.stderr)
        stores = [(place / f"1.0-{name}" / "tokens.bin") for name in ("tinylm", "tokenizers")]
        identical = stores[0].read_bytes() == stores[1].read_bytes()
    ours = rows["1.0-tinylm"]
    print(
        json.dumps(
            {
                "ratio": ours["mb_per_second"] / rows["1.0-tokenizers"]["mb_per_second"],
                "peer": "tokenizers",
                "identical": identical,
                "growth": ours["peak_mb"] / rows["0.1-tinylm"]["peak_mb"],
                "rows": rows,
            }
        )
    )


def write(path: Path, corpora: list[str], most: float) -> int:
    """About ``most`` bytes of the corpora's text as .jsonl, over again where they hold less; the
    bytes of text."""
    total = 0
    with open(path, "w", encoding="utf-8") as file:
        while total < most:
            for document in documents(corpora):
                file.write(json.dumps({"text": document.text}, ensure_ascii=False) + "\n")
                total += len(document.text.encode())
                if total >= most:
                    break
    return total


def work(name: str, spec: str, text: Path, out: Path) -> None:
    tokenizer = load_tokenizer(spec)
    encode = encoder_of(tokenizer) if name == "tinylm" else None
    start = time.perf_counter()
    pack(documents([text]), tokenizer, out, encode=encode)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps({"seconds": seconds, "peak_mb": peak}))


if __name__ == "__main__":
    main()
