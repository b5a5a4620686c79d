"""One reader a benchmark: local files (or the hub) -> rows with the columns that lm-eval's own task
of that name has.

A task file names its reader as ``custom_dataset: !function tinylm.evaluate.tasks.readers.NAME``;
lm-eval calls it with the file's ``metadata``. Multi-subject benchmarks are one data set with a
``subject`` column.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

from tinylm.errors import InputError
from tinylm.evaluate.tasks.files import Bad, Folder, Row, build, from_hub, local_root
from tinylm.evaluate.tasks.rows import (
    LETTERS,
    by_subject,
    described,
    hub_table,
    lettered,
    lm_eval_folder,
    one_file,
    require,
    require_choices,
    subjects_from_hub,
)


def mmlu(task_data: str | None = None, **_: Any) -> datasets.DatasetDict:
    def convert(row: Row) -> Row:
        choices = row.get("choices") or [row[f"choice{index}"] for index in range(4)]
        answer = int(row["answer"])
        require(row["question"], "question")
        require_choices(choices, answer)
        return {"question": row["question"], "choices": list(choices), "answer": answer}

    if not (root := local_root(task_data)):
        sources = [
            (role, row["subject"], [row])
            for role, split in (("item", "test"), ("shot", "dev"))
            for _, rows in from_hub("cais/mmlu", ["all"], split)
            for row in rows
        ]
        return build("mmlu", sources, described(convert, "mmlu"), "hub:cais/mmlu")
    folder = Folder(root, "mmlu")
    return by_subject(folder, "mmlu", {"item": "test/*_test.csv", "shot": "dev/*_dev.csv"}, convert)


def ceval(task_data: str | None = None, **_: Any) -> datasets.DatasetDict:
    def convert(row: Row) -> Row:
        return lettered(row, "question", "answer")

    if not (root := local_root(task_data)):
        return subjects_from_hub(
            "ceval", "ceval/ceval-exam", {"item": "val", "shot": "dev"}, convert
        )
    folder = Folder(root, "ceval")
    return by_subject(folder, "ceval", {"item": "val/*_val.csv", "shot": "dev/*_dev.csv"}, convert)


def cmmlu(task_data: str | None = None, **_: Any) -> datasets.DatasetDict:
    def convert(row: Row) -> Row:
        return lettered(row, "Question", "Answer")

    if not (root := local_root(task_data)):
        return subjects_from_hub(
            "cmmlu", "haonan-li/cmmlu", {"item": "test", "shot": "dev"}, convert
        )
    return by_subject(
        Folder(root, "cmmlu"), "cmmlu", {"item": "test/*.csv", "shot": "dev/*.csv"}, convert
    )


def agieval(task_data: str | None = None, **_: Any) -> datasets.DatasetDict:
    """The 19 sets with choices. Where several letters are right, any one of them counts, as in
    lm-eval."""

    def convert(row: Row) -> Row:
        letters = row["label"] if isinstance(row["label"], str) else "".join(row["label"])
        gold = [LETTERS.index(letter) for letter in letters if letter in LETTERS]
        require_choices(row["options"], *gold)
        return {"query": _agieval_prompt(row), "choices": row["options"], "gold": gold}

    if not (root := local_root(task_data)):
        return _agieval_from_hub(
            lambda row: {"query": row["query"], "choices": row["choices"], "gold": row["gold"]}
        )
    folder = Folder(root, "agieval")
    sources = []
    for path in folder.paths("*.jsonl"):
        rows = folder.jsonl(path)
        # the two cloze sets have none
        if any(isinstance(row, dict) and row.get("options") for row in rows):
            sources.append(("item", Path(path).stem, rows))
    return build("agieval", sources, convert, folder.digest)


def boolq(task_data: str | None = None, **_: Any) -> datasets.DatasetDict:
    labels = {"false": 0, "true": 1, 0: 0, 1: 1}  # False and True are 0 and 1

    def convert(row: Row) -> Row:
        require(row["passage"], "passage")
        return {
            "question": require(row["question"], "question"),
            "passage": row["passage"],
            "label": labels[row["label"]],
        }

    return one_file(
        task_data,
        "boolq",
        "superglue",
        "BoolQ/val.jsonl",
        convert,
        ("aps/super_glue", "boolq", "validation"),
    )


def axb(task_data: str | None = None, **_: Any) -> datasets.DatasetDict:
    labels = {"entailment": 0, "not_entailment": 1, 0: 0, 1: 1}

    def convert(row: Row) -> Row:
        require(row["sentence1"], "sentence1")
        return {
            "sentence1": row["sentence1"],
            "sentence2": require(row["sentence2"], "sentence2"),
            "label": labels[row["label"]],
        }

    return one_file(
        task_data,
        "ax-b",
        "superglue",
        "AX-b/AX-b.jsonl",
        convert,
        ("aps/super_glue", "axb", "test"),
    )


def piqa(task_data: str | None = None, **_: Any) -> datasets.DatasetDict:
    def convert(row: Row) -> Row:
        require_choices([row["sol1"], row["sol2"]], int(row["label"]))
        return {
            "goal": require(row["goal"], "goal"),
            "sol1": row["sol1"],
            "sol2": row["sol2"],
            "label": int(row["label"]),
        }

    if not (root := local_root(task_data)):
        return hub_table("piqa", convert, ("baber/piqa", None, "validation"))
    folder = Folder(root, "piqa")
    rows = folder.jsonl("data/valid.jsonl")
    labels = folder.text("data/valid-labels.lst").split()
    if len(rows) != len(labels):
        raise InputError(
            f"piqa: {len(rows)} items but {len(labels)} labels in {root}: one of the files is"
            " cut off"
        )
    joined = [
        row if isinstance(row, Bad) else {**row, "label": label} for row, label in zip(rows, labels)
    ]
    return build("piqa", [("item", "", joined)], convert, folder.digest)


def eprstmt(task_data: str | None = None, **_: Any) -> datasets.DatasetDict:
    labels = {"Negative": 0, "Positive": 1}

    def convert(row: Row) -> Row:
        return {"sentence": require(row["sentence"], "sentence"), "label": labels[row["label"]]}

    if not (root := local_root(task_data)):
        raise InputError(
            "eprstmt is not on the hub as plain data: give --task-data with eprstmt/ of FewCLUE"
        )
    folder = Folder(root, "eprstmt")
    sources = [
        ("item", "", folder.jsonl("test_public.json")),
        ("shot", "", folder.jsonl("train_0.json")),
    ]
    return build("eprstmt", sources, convert, folder.digest)


def xsum(task_data: str | None = None, **_: Any) -> datasets.DatasetDict:
    def convert(row: Row) -> Row:
        return {
            "document": require(row["document"], "document"),
            "summary": require(row["summary"], "summary"),
        }

    return one_file(
        task_data, "xsum", "XSum", "test.jsonl", convert, ("EdinburghNLP/xsum", None, "test")
    )


def c3(task_data: str | None = None, **_: Any) -> datasets.DatasetDict:
    """Dialogues (d) and mixed texts (m). Questions have two to four choices and are scored with the
    ones they have."""

    def convert(row: Row) -> Row:
        if row["answer"] not in row["choice"]:
            raise Bad("the answer is not among the choices")
        require_choices(row["choice"], 0, least=2)
        return {
            "context": require("\n".join(row["context"]), "context"),
            "question": require(row["question"], "question"),
            "choices": row["choice"],
            "label": row["choice"].index(row["answer"]),
        }

    def questions(passages: list) -> Iterator[Row | Bad]:
        for passage in passages:
            if not (isinstance(passage, list) and len(passage) == 3):
                yield Bad("a passage is not [sentences, questions, id]")
                continue
            for question in passage[1]:
                known = isinstance(question, dict)
                yield (
                    {**question, "context": passage[0]}
                    if known
                    else Bad("a question is no JSON object")
                )

    if not (root := local_root(task_data)):
        return hub_table("c3", convert, ("clue/clue", "c3", "validation"))
    folder = Folder(root, "c3")
    sources = [
        (role, kind, list(questions(folder.json(f"c3-{kind}-{split}.json"))))
        for role, split in (("item", "test"), ("shot", "dev"))
        for kind in ("d", "m")
    ]
    return build("c3", sources, convert, folder.digest)


def hellaswag(task_data: str | None = None, **_: Any) -> datasets.DatasetDict:
    """The text file has the context in one piece, so lm-eval's capital letter at the start of its
    second part is not put back; everything else is as in lm-eval."""

    from lm_eval.tasks.hellaswag.utils import preprocess

    def convert(row: Row) -> Row:
        require_choices(row["endings"], int(row["label"]))
        context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
        return {
            "query": require(preprocess(context), "context"),
            "choices": [preprocess(ending) for ending in row["endings"]],
            "gold": int(row["label"]),
        }

    if not (root := local_root(task_data)):
        return hub_table("hellaswag", convert, ("Rowan/hellaswag", None, "validation"))
    folder = Folder(root, "hellaswag")
    lines = folder.text("hellaswag_val_full.txt").rstrip("\n").split("\n")
    if len(lines) % 6:
        raise InputError(
            f"{root}/hellaswag/hellaswag_val_full.txt is cut off: {len(lines)} lines are not six an"
            " item"
        )
    rows: list[Row | Bad] = []
    for first in range(0, len(lines), 6):
        activity, separator, context = lines[first].partition(": ")
        if not separator or not lines[first + 1].isdigit():
            rows.append(Bad(f"line {first + 1} is not 'activity: context' and a label"))
            continue
        rows.append(
            {
                "activity_label": activity,
                "ctx_a": context,
                "ctx_b": "",
                "endings": lines[first + 2 : first + 6],
                "label": lines[first + 1],
            }
        )
    return build("hellaswag", [("item", "", rows)], convert, folder.digest)


def arc_easy(task_data: str | None = None, **_: Any) -> datasets.DatasetDict:
    def convert(row: Row) -> Row:
        if isinstance(row["question"], dict):  # AI2's own files
            choices = {
                key: [choice[key] for choice in row["question"]["choices"]]
                for key in ("text", "label")
            }
            question = row["question"]["stem"]
        else:
            choices, question = row["choices"], row["question"]
        require_choices(choices["text"], choices["label"].index(row["answerKey"]))
        return {
            "question": require(question, "question"),
            "choices": choices,
            "answerKey": row["answerKey"],
        }

    if not (root := local_root(task_data)):
        return hub_table("arc-easy", convert, ("allenai/ai2_arc", "ARC-Easy", "test"))
    folder = Folder(root, "arc")
    sources = [
        ("item", "", folder.jsonl("ARC-e/ARC-Easy-Test.jsonl")),
        ("shot", "", folder.jsonl("ARC-e/ARC-Easy-Dev.jsonl")),
    ]
    return build("arc-easy", sources, convert, folder.digest)


def lambada(task_data: str | None = None, **_: Any) -> datasets.DatasetDict:
    def convert(row: Row) -> Row:
        if " " not in require(row["text"], "text").strip():
            raise Bad("a passage of one word has nothing to predict from")
        return {"text": row["text"]}

    hub = ("EleutherAI/lambada_openai", "default", "test")
    return one_file(task_data, "lambada", "lambada", "lambada_test.jsonl", convert, hub)


def blimp(task_data: str | None = None, **_: Any) -> datasets.DatasetDict:
    def convert(row: Row) -> Row:
        return {key: require(row[key], key) for key in ("sentence_good", "sentence_bad")}

    if not (root := local_root(task_data)):
        return subjects_from_hub("blimp", "nyu-mll/blimp", {"item": "train"}, convert)
    folder = Folder(root, "blimp")
    sources = [("item", Path(path).stem, folder.jsonl(path)) for path in folder.paths("*.jsonl")]
    return build("blimp", sources, convert, folder.digest)


def wikitext(task_data: str | None = None, **_: Any) -> datasets.DatasetDict:
    """WikiText-2 test, one row an article (a level-one heading starts one)."""

    def convert(row: Row) -> Row:
        return {"page": require(row["page"], "page")}

    if not (root := local_root(task_data)):
        return hub_table(
            "wikitext", convert, ("EleutherAI/wikitext_document_level", "wikitext-2-raw-v1", "test")
        )
    folder = Folder(root, "wikitext2")
    text = folder.text("wiki.test.raw")
    starts = [match.start() for match in re.finditer(r"(?m)^ = [^=\n]+ = *$", text)] or [0]
    pages = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)])]
    return build(
        "wikitext", [("item", "", [{"page": page} for page in pages])], convert, folder.digest
    )


def _agieval_from_hub(convert) -> datasets.DatasetDict:
    names = [path.stem for path in sorted(lm_eval_folder("agieval").glob("*-*.yaml"))]
    names = [name for name in names if name != "gaokao-mathcloze"]
    sources = [
        ("item", name, rows)
        for name in names
        for _, rows in from_hub(f"hails/agieval-{name}", [None], "test")
    ]
    return build("agieval", sources, convert, "hub:hails/agieval")


def _agieval_prompt(row: Row) -> str:
    """The zero-shot prompt of the AGI-Eval authors; Chinese questions get the Chinese one."""
    question, options = require(row["question"], "question"), " ".join(row["options"])
    last = LETTERS[len(row["options"]) - 1]
    passage = row.get("passage") or ""
    if re.search("[一-鿿]", question + options):
        return f"{passage}问题：{question} 选项：{options}\n答案：从A到{last}, 我们应选择"
    return (
        f"{passage}Q: {question} Answer Choices: {options}\nA: Among A through {last}, the"
        " answer is"
    )
