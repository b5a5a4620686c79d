"""The tasks end to end: prompts and scores against lm-eval's own, brute force for ours; made-up and
real files."""

import json
import math
import os
import re
import shutil
from collections import Counter
from functools import cache
from pathlib import Path

import datasets
import pytest
import torch
from benchmark_files import write_all
from builders import tiny_teacher
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml
from nltk.stem.porter import PorterStemmer

import tinylm.cli
from tinylm.corpus.read import Document
from tinylm.evaluate import results
from tinylm.evaluate.adapter import PREFIX, TinyLM
from tinylm.evaluate.models import evaluate
from tinylm.evaluate.tasks.catalog import FOLDER, tasks
from tinylm.evaluate.tasks.run import load_tasks, quiet, run_tasks
from tinylm.evaluate.tree import TreeRunner
from tinylm.models.teacher import load_model, load_tokenizer, resolve

ROOT = Path(__file__).parents[2]
# The same checks on another model and more items (of as many subjects):
# TINYLM_CHECK_MODEL=runs/demo/model TINYLM_CHECK_ITEMS=4 pytest tests/integration -k "item_by_item
# or brute_force"
CHECK_MODEL, CHECK_ITEMS = (
    os.environ.get("TINYLM_CHECK_MODEL"),
    int(os.environ.get("TINYLM_CHECK_ITEMS", 2)),
)

# Our task -> the task files of lm-eval for the same benchmark, one for each subject where {}
# stands.
THEIRS = {
    "mmlu": "mmlu/default/mmlu_{}.yaml",
    "ceval": "ceval/ceval-valid_{}.yaml",
    "cmmlu": "cmmlu/cmmlu_{}.yaml",
    "agieval": "agieval/{}.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "piqa": "piqa/piqa.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "arc-easy": "arc/arc_easy.yaml",
    "lambada": "lambada/lambada_openai.yaml",
    "blimp": "blimp/{}.yaml",
    "wikitext": "wikitext/wikitext.yaml",
}


@pytest.fixture(scope="module")
def made_up(tmp_path_factory) -> Path:
    return write_all(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def real() -> Path:
    shared = Path(os.environ.get("TINYLM_SHARED", ROOT.parent / "shared")) / "data" / "tasks"
    if not shared.is_dir():
        pytest.skip("the real benchmark files are not here: set TINYLM_SHARED")
    return shared


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    if CHECK_MODEL:
        return resolve(CHECK_MODEL)
    return tiny_teacher(tmp_path_factory.mktemp("model") / "tiny", max_position_embeddings=8192)


@pytest.fixture(scope="module")
def adapter(model_dir) -> TinyLM:
    return TinyLM(load_model(model_dir), load_tokenizer(model_dir), batch_size=512)


@cache
def loaded(name: str, files: Path) -> ConfigurableTask:
    return load_tasks([name], files)[name]


def their_task(name: str, ours: ConfigurableTask, subject: str) -> ConfigurableTask | None:
    """lm-eval's own task on our rows of one subject (all rows where it has no subjects); None if it
    has none."""
    import lm_eval.tasks

    path = Path(lm_eval.tasks.__file__).parent / THEIRS[name].format(subject)
    if not path.exists():
        return None
    with quiet():
        config = load_yaml(path)
        rows = ours.dataset["test"]
        kinds = list(zip(rows["subject"][:], rows["role"][:]))  # [:]: one by one takes minutes
        items, shots = (
            rows.select(
                [n for n, (of, kind) in enumerate(kinds) if kind == role and of in (subject or of,)]
            )
            for role in ("item", "shot")
        )
        splits = {
            config.get(key) for key in ("test_split", "validation_split", "training_split")
        } - {None}
        tables = dict.fromkeys(splits, items) | {config.get("fewshot_split") or "dev": shots}
        config["custom_dataset"] = lambda **_: datasets.DatasetDict(tables)
        if name == "hellaswag":  # our rows have been through this already
            del config["process_docs"]
            config["doc_to_target"] = "gold"
        task = ConfigurableTask(config=config)
    task.set_fewshot_seed(1234)
    task.set_config("num_fewshot", ours.config.num_fewshot or 0)
    return task


def pairs_of_tasks(name: str, files: Path, limit: int):
    """(lm-eval's task, our task, [(index of the item in theirs, in ours)]) for up to ``limit``
    subjects."""
    ours = loaded(name, files)
    column = ours.eval_docs["subject"][:]
    subjects = list(dict.fromkeys(column)) if "{}" in THEIRS[name] else [""]
    found = 0
    for subject in subjects:
        if found == limit:
            break
        theirs = their_task(name, ours, subject)
        if theirs is None:
            continue
        found += 1
        index = [n for n, value in enumerate(column) if not subject or value == subject]
        yield theirs, ours, list(enumerate(index))[:limit]
    assert found, f"lm-eval has no task file for any subject of {name}"


def requests(task: ConfigurableTask, doc: dict) -> list:
    context = task.fewshot_context(doc, num_fewshot=task.config.num_fewshot or 0)
    made = task.construct_requests(doc=doc, ctx=context, metadata=("t", 0, 1))
    return [request.args for request in (made if isinstance(made, list) else [made])]


def check_prompts(name: str, files: Path, limit: int) -> None:
    for theirs, ours, items in pairs_of_tasks(name, files, limit):
        for their_index, our_index in items:
            their_doc, our_doc = theirs.eval_docs[their_index], ours.eval_docs[our_index]
            assert requests(ours, our_doc) == requests(theirs, their_doc)
            assert ours.doc_to_target(our_doc) == theirs.doc_to_target(their_doc)
            assert ours.OUTPUT_TYPE == theirs.OUTPUT_TYPE


@pytest.mark.parametrize(
    "name", [name for name in THEIRS if name not in ("mmlu", "ceval", "cmmlu", "agieval", "blimp")]
)
def test_prompts_equal_lm_evals_own(name, made_up):
    check_prompts(name, made_up, 3)


@pytest.mark.parametrize("name", ["mmlu", "ceval", "cmmlu", "agieval"])
def test_prompts_equal_lm_evals_own_by_subject(name, made_up):
    check_prompts(name, made_up, 2)


@pytest.mark.parametrize("name", list(THEIRS))
def test_prompts_equal_lm_evals_own_on_the_real_files(name, real):
    check_prompts(name, real, 2)


@pytest.mark.parametrize("name", list(THEIRS))
def test_scores_equal_lm_evals_own_adapter_item_by_item_on_the_real_files(
    name, real, model_dir, adapter
):
    pytest.importorskip(
        "accelerate", reason="lm-eval's Hugging Face adapter cannot be imported without accelerate"
    )
    from lm_eval.evaluator import evaluate as lm_eval_evaluate
    from lm_eval.models.huggingface import HFLM

    theirs_lm = HFLM(load_model(model_dir), tokenizer=load_tokenizer(model_dir), batch_size=1)
    for theirs, ours, items in pairs_of_tasks(name, real, 1 if name == "wikitext" else CHECK_ITEMS):
        with quiet():
            expected = lm_eval_evaluate(
                theirs_lm,
                {"tasks": {"t": theirs}, "groups": {}, "group_map": {}},
                samples={"t": [index for index, _ in items]},
                bootstrap_iters=0,
            )["samples"]["t"]
            mine = lm_eval_evaluate(
                adapter,
                {"tasks": {"t": ours}, "groups": {}, "group_map": {}},
                samples={"t": [index for _, index in items]},
                bootstrap_iters=0,
            )["samples"]["t"]
        assert len(mine) == len(expected) == len(items)
        for their_item, our_item in zip(expected, mine):
            assert our_item["metrics"] == their_item["metrics"] or set(our_item["metrics"]) <= set(
                their_item["metrics"]
            )
            for got, wanted in zip(
                our_item["filtered_resps"], their_item["filtered_resps"], strict=True
            ):
                # a whole article: thousands of tokens, summed in float32 by lm-eval
                if isinstance(wanted, float):
                    assert got == pytest.approx(wanted, rel=1e-5)
                else:
                    assert got[0] == pytest.approx(wanted[0], abs=1e-3) and got[1] == wanted[1]
            for metric in our_item["metrics"]:
                assert our_item[metric] == pytest.approx(their_item[metric], rel=1e-5, abs=1e-3)


def logprob(model, tokenizer, context: str, continuation: str) -> float:
    prefix = tokenizer.encode(context, add_special_tokens=False)
    whole = tokenizer.encode(context + continuation, add_special_tokens=False)
    with torch.no_grad():
        table = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return sum(float(table[p - 1, whole[p]]) for p in range(len(prefix), len(whole)))


def brute_force(name: str, doc: dict, model, tokenizer) -> tuple[list[float], float]:
    """Log-likelihoods of the choices and the accuracy: our own tasks, written out once more without
    lm-eval."""
    if name == "ax-b":
        context = f"{doc['sentence1']}\nQuestion: {doc['sentence2']} True or False?\nAnswer:"
        choices, gold = [" True", " False"], doc["label"]
    elif name == "eprstmt":
        context, choices, gold = (
            f"评论：{doc['sentence']}\n这条评论的情感是",
            ["负面", "正面"],
            doc["label"],
        )
    else:
        context, choices, gold = (
            f"{doc['context']}\n问题：{doc['question']}\n答案：",
            doc["choices"],
            doc["label"],
        )
    scores = [logprob(model, tokenizer, context, choice) for choice in choices]
    return scores, float(scores.index(max(scores)) == gold)


def check_ours(files: Path, adapter: TinyLM, model_dir: Path, limit: int) -> None:
    model, tokenizer = load_model(model_dir), load_tokenizer(model_dir)
    tasks = {name: loaded(name, files) for name in ("ax-b", "eprstmt", "c3")}
    for name, samples in run_tasks(adapter, tasks, limit).items():
        for sample in samples:
            scores, right = brute_force(name, sample["doc"], model, tokenizer)
            assert [answer[0] for answer in sample["filtered_resps"]] == pytest.approx(
                scores, abs=1e-3
            )
            assert sample["acc"] == right


def test_our_own_tasks_equal_brute_force(made_up, adapter, model_dir):
    check_ours(made_up, adapter, model_dir, limit=4)


def test_our_own_tasks_equal_brute_force_on_the_real_files(real, adapter, model_dir):
    check_ours(real, adapter, model_dir, limit=CHECK_ITEMS + 1)


def test_xsum_is_rouge_of_the_greedy_continuation(made_up, adapter, model_dir):
    model, tokenizer = load_model(model_dir), load_tokenizer(model_dir)
    (samples,) = run_tasks(adapter, load_tasks(["xsum"], made_up), 1).values()
    context = f"Article: {samples[0]['doc']['document']}\n\nSummary of the article in one sentence:"
    ids = tokenizer.encode(context, add_special_tokens=False)
    for _ in range(60):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    text = tokenizer.decode(
        ids[len(tokenizer.encode(context, add_special_tokens=False)) :], skip_special_tokens=True
    )
    summary = text.split("\n")[0].strip()
    assert samples[0]["filtered_resps"][0].strip() == summary
    stem = PorterStemmer().stem  # ROUGE-1 by hand: overlap of stemmed words, long ones stemmed only
    bags = [
        Counter(
            stem(word) if len(word) > 3 else word for word in re.findall("[a-z0-9]+", words.lower())
        )
        for words in (summary, samples[0]["doc"]["summary"])
    ]
    overlap = 2 * (bags[0] & bags[1]).total() / max(1, bags[0].total() + bags[1].total())
    assert samples[0]["rouge1"] == pytest.approx(overlap)


def test_evaluation_of_every_task_is_complete_and_compares_models(made_up, model_dir, tmp_path):
    other = tiny_teacher(tmp_path / "other", seed=3, max_position_embeddings=8192)
    out = tmp_path / "out" / "results.json"
    documents = [Document(f"Text number {n} of the river.", "a") for n in range(4)]
    result = evaluate(
        [model_dir, other],
        sorted(tasks()),
        task_data=made_up,
        documents=documents,
        dtype="float32",
        out=out,
    )
    written = json.loads(out.read_text())
    assert set(written["tasks"]) == set(tasks()) and written["bits_per_byte"]["documents"] == 4
    for name, task in written["tasks"].items():
        lines = (out.parent / "results.records" / "tiny" / f"{name}.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert len(records) == task["n"]
        assert all(
            record["data_hash"] == task["data_hash"] and record["prompt_hash"] for record in records
        )
        if task["metric"] != "bits_per_byte":
            assert task["score"] == pytest.approx(
                sum(record["score"] for record in records) / len(records)
            )
    assert written["tasks"]["c3"]["chance"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert written["tasks"]["agieval"]["chance"] == pytest.approx((3 * 0.2 + 0.5 + 0.25) / 5)
    assert written["models"][0]["average"]["columns"] == 10
    second = written["models"][1]
    for name, difference in second["difference"].items():
        if name in sorted(tasks()):
            expected = second["tasks"][name]["score"] - written["tasks"][name]["score"]
            assert difference["difference"] == pytest.approx(expected)
            assert difference["low"] <= difference["difference"] <= difference["high"]
    results.write(result, out)
    assert "| chance |" in out.with_suffix(".md").read_text()
    assert "http" not in out.with_suffix(".html").read_text().replace("http-equiv", "")


def test_a_second_run_answers_from_what_the_first_kept(made_up, model_dir, tmp_path, monkeypatch):
    out = tmp_path / "results.json"
    first = evaluate(
        [model_dir], ["piqa", "xsum", "wikitext"], task_data=made_up, dtype="float32", out=out
    )
    monkeypatch.setattr(TreeRunner, "_forward", None)  # any forward pass would now fail
    monkeypatch.setattr("tinylm.evaluate.adapter.continue_prompts", None)
    monkeypatch.setattr(TreeRunner, "_is_exact", lambda self, max_length: True)
    second = evaluate(
        [model_dir], ["piqa", "xsum", "wikitext"], task_data=made_up, dtype="float32", out=out
    )
    assert first["tasks"] == second["tasks"]


def test_another_context_asks_the_model_again(made_up, model_dir, tmp_path):
    out = tmp_path / "results.json"
    long = evaluate([model_dir], ["piqa", "wikitext"], task_data=made_up, dtype="float32", out=out)
    short = evaluate(
        [model_dir], ["piqa", "wikitext"], task_data=made_up, dtype="float32", out=out, context=30
    )
    alone = evaluate(
        [model_dir], ["piqa", "wikitext"], task_data=made_up, dtype="float32", context=30
    )
    assert short["tasks"] == alone["tasks"] != long["tasks"]


def test_perplexity_of_lambada_is_of_the_mean(made_up, model_dir):
    task = evaluate([model_dir], ["lambada"], task_data=made_up, dtype="float32")["tasks"][
        "lambada"
    ]
    assert task["perplexity"] > 1


def test_an_unscored_item_is_in_no_difference(made_up, model_dir, monkeypatch):
    original, calls = TinyLM.loglikelihood, []

    def broken_once(self, asked, **_):
        calls.append(1)
        answers = original(self, asked)
        return answers if len(calls) == 1 else [(math.nan, False), *answers[1:]]

    monkeypatch.setattr(TinyLM, "loglikelihood", broken_once)
    result = evaluate(
        {"a": model_dir, "b": model_dir}, ["piqa"], task_data=made_up, dtype="float32"
    )
    assert result["models"][1]["tasks"]["piqa"]["bad_items"] == 1
    assert result["models"][1]["difference"]["piqa"]["difference"] == 0


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (
            "mmlu/test/anatomy_test.csv",
            lambda text: text.rstrip("\n").rsplit(",", 2)[0] + "\n",
            "cut off in row",
        ),
        ("mmlu/test/anatomy_test.csv", lambda text: text + 'What is "x,1,2', "cut off"),
        ("mmlu/test/anatomy_test.csv", lambda text: "a,b\n1,2\n", "no usable item"),
        ("piqa/data/valid.jsonl", lambda text: text[:-20], "cut off"),
    ],
)
def test_a_damaged_file_is_one_line_and_nothing_is_written(
    made_up, model_dir, tmp_path, capsys, file, damage, message
):
    folder = shutil.copytree(made_up, tmp_path / "data")
    for path in (
        sorted((folder / file).parent.glob(f"*{(folder / file).suffix}"))
        if "mmlu" in file
        else [folder / file]
    ):
        path.write_text(damage(path.read_text()))
    command = [
        "evaluate",
        "--model",
        str(model_dir),
        "--tasks",
        file.split("/")[0],
        "--task-data",
        str(folder),
    ]
    with pytest.raises(SystemExit) as stop:
        tinylm.cli.main([*command, "--out", str(tmp_path / "out" / "results.json")])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and message in error
    assert not (tmp_path / "out").exists()


def test_answers_that_are_not_finite_are_counted_not_fatal(made_up, model_dir, monkeypatch):
    original = TinyLM.loglikelihood
    monkeypatch.setattr(
        TinyLM,
        "loglikelihood",
        lambda self, asked, **_: [(math.nan, False), *original(self, asked)[1:]],
    )
    result = evaluate([model_dir], ["piqa"], task_data=made_up, dtype="float32")
    assert result["tasks"]["piqa"]["n"] == 2 and result["tasks"]["piqa"]["bad_items"] == 1


def test_plain_lm_eval_runs_the_task_files(made_up, adapter, monkeypatch):
    """What `lm_eval --include_path FOLDER --tasks tinylm_c3` does, with the folder named in the
    environment."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("TINYLM_TASK_DATA", str(made_up))
    with quiet():
        manager = TaskManager(include_path=str(FOLDER), include_defaults=False)
        result = simple_evaluate(
            adapter, tasks=[PREFIX + "c3"], task_manager=manager, bootstrap_iters=0
        )
    assert result["n-samples"][PREFIX + "c3"]["effective"] == 4


def test_every_real_file_reads(real):
    counts = {name: len(loaded(name, real).eval_docs) for name in sorted(tasks())}
    assert counts == {
        "mmlu": 14042,
        "ceval": 1346,
        "cmmlu": 11582,
        "agieval": 7150,
        "boolq": 3270,
        "ax-b": 1104,
        "piqa": 1838,
        "eprstmt": 610,
        "xsum": 999,
        "c3": 3892,
        "hellaswag": 10042,
        "arc-easy": 2376,
        "lambada": 5153,
        "blimp": 67000,
        "wikitext": 62,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tasks", "nope"], "no task 'nope'"),
        (["--tasks", "mmlu", "--context", "64"], "do not fit the context of 64 tokens"),
        (["--tasks", "piqa", "--num-fewshot", "2"], "only 0 examples"),
        (["--tasks", "piqa", "--limit", "0"], "--limit 0 must be"),
        (["--tasks", "piqa", "--dtype", "int3"], "--dtype int3 must be"),
        (["--tasks", "piqa", "--num-fewshot", "-1"], "--num-fewshot -1 must be"),
        (["--tasks", "piqa", "--batch-size", "x"], "--batch-size x must be"),
        ([], "nothing to evaluate"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    made_up, model_dir, tmp_path, capsys, options, message
):
    base = [
        "evaluate",
        "--model",
        str(model_dir),
        "--task-data",
        str(made_up),
        "--out",
        str(tmp_path / "r.json"),
    ]
    with pytest.raises(SystemExit) as stop:
        tinylm.cli.main([*base, *options])
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and message in error and "\n" not in error


def test_a_model_without_a_tokenizer_is_one_line(made_up, model_dir, tmp_path, capsys):
    bare = tmp_path / "bare"
    load_model(model_dir).save_pretrained(bare)
    with pytest.raises(SystemExit) as stop:
        tinylm.cli.main(
            ["evaluate", "--model", str(bare), "--tasks", "piqa", "--task-data", str(made_up)]
        )
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and "tokenizer" in error
