"""tinylm's lm-eval adapter against lm-eval's own Hugging Face one: same tasks, model, items and
machine, one run.

    python benchmarks/evaluate.py --task-data DIR [--model M] [--tasks mmlu ceval] [--subjects 2]
    [--items 12]

The peer is what `lm_eval --model hf` does when nothing else is said: one request at a time in the
checkpoint's own precision. It needs `accelerate` to be imported at all. Three runs per task: the
peer, ours in the peer's precision (answers compared one by one), ours in bf16 as `tinylm evaluate`
runs. CPU seconds stand beside wall seconds: on a machine that does other work too they are the
steadier number. Real runs have more items per subject than the sample here, so that more is shared.
`computed_share`: how many of all tokens ours computes.
"""

import argparse
import json
import time

import numpy as np
import torch

from tinylm.evaluate.adapter import PREFIX, TinyLM
from tinylm.evaluate.tasks.run import load_tasks, quiet
from tinylm.models.teacher import load_model, load_tokenizer, resolve


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task-data", required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", nargs="+", default=["mmlu", "ceval"])
    parser.add_argument("--subjects", type=int, default=2)
    parser.add_argument("--items", type=int, default=12, help="of each subject")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise SystemExit(
            f"the peer cannot be imported ({error}): pip install accelerate somewhere"
        ) from error

    with quiet():
        theirs = HFLM(str(resolve(args.model)), device="cpu")
    peer_dtype = theirs.model.dtype
    tokenizer = load_tokenizer(args.model)
    same = TinyLM(load_model(args.model, dtype=peer_dtype), tokenizer)
    ours = TinyLM(load_model(args.model, dtype=torch.bfloat16), tokenizer)
    tasks = {}
    for name, task in load_tasks(args.tasks, args.task_data).items():
        chosen = pick(task, args.subjects, args.items)
        peer_answers, peer_seconds, peer_cpu = run(theirs, name, task, chosen)
        same_answers, same_seconds, same_cpu = run(same, name, task, chosen)
        our_answers, our_seconds, our_cpu = run(ours, name, task, chosen)
        tasks[name] = {
            "items": len(chosen),
            "peer_seconds": round(peer_seconds, 1),
            "same_dtype_seconds": round(same_seconds, 1),
            "our_seconds": round(our_seconds, 1),
            "ratio": round(peer_seconds / our_seconds, 2),
            "ratio_same_dtype": round(peer_seconds / same_seconds, 2),
            "ratio_cpu": round(peer_cpu / our_cpu, 2),
            "ratio_same_dtype_cpu": round(peer_cpu / same_cpu, 2),
            "largest_difference_nats": float(np.abs(peer_answers - same_answers).max()),
            "same_choices": int((peer_answers.argmax(1) == same_answers.argmax(1)).sum()),
            "same_choices_bf16": int((peer_answers.argmax(1) == our_answers.argmax(1)).sum()),
            "computed_share": round(same.computed_tokens / same.requested_tokens, 4),
        }
        same.computed_tokens = same.requested_tokens = 0
        print(json.dumps({name: tasks[name]}), flush=True)
    ratios = [task["ratio"] for task in tasks.values()]
    report = {
        "benchmark": "evaluate",
        "peer": "lm-eval HFLM, defaults",
        "model": args.model,
        "threads": args.threads,
        "peer_dtype": str(peer_dtype).removeprefix("torch."),
        "ratio": min(ratios),
        "tasks": tasks,
    }
    print(json.dumps(report))


def pick(task, subjects: int, items: int) -> list[int]:
    """The first ``items`` items of each of the first ``subjects`` subjects."""
    chosen: dict[str, list[int]] = {}
    for index, subject in enumerate(task.eval_docs["subject"]):
        if subject in chosen or len(chosen) < subjects:
            chosen.setdefault(subject, []).append(index)
    return sorted(index for rows in chosen.values() for index in rows[:items])


def run(lm, name: str, task, chosen: list[int]) -> tuple[np.ndarray, float, float]:
    """Log-likelihoods [items, choices], seconds and CPU seconds of lm-eval's evaluation of the
    chosen items."""
    from lm_eval.evaluator import evaluate

    start, cpu = time.perf_counter(), time.process_time()
    with quiet():
        result = evaluate(
            lm,
            {"tasks": {PREFIX + name: task}, "groups": {}, "group_map": {}},
            samples={PREFIX + name: chosen},
            bootstrap_iters=0,
        )
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    samples = sorted(result["samples"][PREFIX + name], key=lambda sample: sample["doc_id"])
    return (
        np.array([[answer[0] for answer in sample["filtered_resps"]] for sample in samples]),
        seconds,
        cpu,
    )


if __name__ == "__main__":
    main()
