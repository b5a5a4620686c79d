"""Teacher against student on this machine's CPU, in real llama.cpp: size, load time, speed, memory.

    python benchmarks/device_table.py --teacher smollm2-135m --student runs/demo/model [--quantize
    F16 Q8_0 Q4_0]

Every measurement is a fresh process, so that load time and peak memory are its own. Teacher and
student take turns, and the table shows medians over the rounds. The files are in the page cache
(they were just written): load time is not the time of a cold disk. The last line is JSON; ``ratio``
is the student's decode speed over the teacher's at Q8_0 (or the first format measured),
``size_ratio`` the student's file over the teacher's in the same format.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tinylm.machine import cores

PROMPT_TOKENS, NEW_TOKENS = 256, 64


def measure(path: str, threads: int) -> dict[str, float]:
    """Load the GGUF ``path`` in this process; read a prompt of 256 tokens and write 64."""
    from tinylm.export.llamacpp import Llama, available

    assert available()  # imports the library, which is not the model's load time
    empty = peak_memory()
    started = time.perf_counter()
    with Llama(path, context=512, threads=threads) as llama:
        load = time.perf_counter() - started
        prompt = [100 + 7 * index % (llama.vocab_size - 200) for index in range(PROMPT_TOKENS)]
        llama.decode(prompt[:8], last_only=True)  # the first call also packs weights for this CPU
        llama.reset()
        started = time.perf_counter()
        llama.decode(prompt, last_only=True)
        prefill = time.perf_counter() - started
        started = time.perf_counter()
        for index in range(NEW_TOKENS):
            # given tokens: a text that ends early would cut this short
            llama.decode([prompt[index]], last_only=True)
        decode = time.perf_counter() - started
    return {
        "load_s": load,
        "prefill_tokens_per_s": PROMPT_TOKENS / prefill,
        "decode_tokens_per_s": NEW_TOKENS / decode,
        "peak_mb": peak_memory() - empty,  # above the Python process itself
    }


def peak_memory() -> float:
    """The most memory this process has held, MB. (getrusage would count what its parent held before
    the exec.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("no VmHWM in /proc/self/status: this benchmark needs Linux")


def table(models: dict[str, Path], formats: list[str], rounds: int, threads: int) -> list[dict]:
    """One row a model and format: medians over ``rounds`` in which the models take turns."""
    from tinylm.export.gguf import export

    rows = []
    with tempfile.TemporaryDirectory(prefix="device-table-") as folder:
        for quantize in formats:
            for name, model_dir in models.items():
                report = export(model_dir, Path(folder) / f"{name}-{quantize}.gguf", quantize)
                keep = ("file", "parameters", "bits_per_weight", "bytes")
                rows.append(
                    {"model": name, "format": quantize, **{key: report[key] for key in keep}}
                )
        seen: list[list[dict[str, float]]] = [[] for _ in rows]
        for _ in range(rounds):
            for row, results in zip(rows, seen, strict=True):
                command = [
                    sys.executable,
                    __file__,
                    "--measure",
                    row["file"],
                    "--threads",
                    str(threads),
                ]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                results.append(json.loads(done.stdout.splitlines()[-1]))
        for row, results in zip(rows, seen, strict=True):
            del row["file"]
            for key in results[0]:
                values = [result[key] for result in results]
                row[key] = statistics.median(values)
                row[f"{key}_range"] = [min(values), max(values)]
    return rows


def markdown(rows: list[dict]) -> str:
    lines = [
        (
            "| model | format | parameters | file MB | load s | prefill tokens/s | decode tokens/s"
            " | peak memory MB |"
        ),
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['model']} | {row['format']} | {row['parameters'] / 1e6:.1f}M |"
            f" {row['bytes'] / 1e6:.1f} | {row['load_s']:.2f} | {row['prefill_tokens_per_s']:.0f} |"
            f" {row['decode_tokens_per_s']:.1f} | {row['peak_mb']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", help="directory, .gguf file, hub id or smollm2-135m")
    parser.add_argument("--student", help="directory of the tiny model")
    parser.add_argument("--quantize", nargs="+", default=["F16", "Q8_0", "Q4_0"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.threads)))
        return
    if not (options.teacher and options.student):
        parser.error("--teacher and --student are needed")
    from tinylm.models.teacher import resolve

    models = {"teacher": resolve(options.teacher), "student": resolve(options.student)}
    rows = table(
        models, [name.upper() for name in options.quantize], options.rounds, options.threads
    )
    print(markdown(rows))
    at = "Q8_0" if "Q8_0" in [row["format"] for row in rows] else rows[0]["format"]
    teacher, student = (
        {row["model"]: row for row in rows if row["format"] == at}[name] for name in models
    )
    print(
        json.dumps(
            {
                "peer": f"the teacher {options.teacher} in llama.cpp at {at}",
                "threads": options.threads,
                "rounds": options.rounds,
                "rows": rows,
                "size_ratio": student["bytes"] / teacher["bytes"],
                "ratio": student["decode_tokens_per_s"] / teacher["decode_tokens_per_s"],
            }
        )
    )


if __name__ == "__main__":
    main()
