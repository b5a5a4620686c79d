"""Small made-up benchmark files in the layout of the real ones: two subjects or files where there
are many."""

import csv
import json
from pathlib import Path

LETTERS = "ABCD"


def jsonl(path: Path, rows: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )


def table(path: Path, columns: list[str], rows: list[list]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def write_all(root: Path) -> Path:
    """Every benchmark's files under ``root``; returns it."""
    for subject in ("anatomy", "astronomy"):
        for split, count in (("dev", 5), ("test", 4)):
            rows = [
                [
                    f"The {subject} {split} number {n}?",
                    f"river {n}",
                    "bridge",
                    "stone, old",
                    "dog",
                    n % 4,
                ]
                for n in range(count)
            ]
            table(
                root / f"mmlu/{split}/{subject}_{split}.csv",
                ["question", "choice0", "choice1", "choice2", "choice3", "answer"],
                rows,
            )
    for subject in ("accountant", "law"):
        for split, count in (("dev", 5), ("val", 4)):
            extra = [["explanation"], ["说明"]] if split == "dev" else [[], []]
            rows = [
                [
                    n,
                    f"{subject}的第{n}个问题是____。",
                    "河",
                    "桥",
                    "石",
                    "狗",
                    LETTERS[n % 4],
                    *extra[1],
                ]
                for n in range(count)
            ]
            table(
                root / f"ceval/{split}/{subject}_{split}.csv",
                ["id", "question", *LETTERS, "answer", *extra[0]],
                rows,
            )
    for subject in ("agronomy", "anatomy"):
        for split, count in (("dev", 5), ("test", 4)):
            rows = [
                [n, f"{subject}的第{n}个问题", "河", "桥", "石", "狗", LETTERS[n % 4]]
                for n in range(count)
            ]
            table(root / f"cmmlu/{split}/{subject}.csv", ["", "Question", *LETTERS, "Answer"], rows)
    english = {
        "passage": "The river is old.",
        "question": "Which is it?",
        "answer": None,
        "other": None,
    }
    jsonl(
        root / "agieval/aqua-rat.jsonl",
        [
            {
                **english,
                "passage": None,
                "options": [f"({x}){n}" for n, x in enumerate("ABCDE")],
                "label": x,
            }
            for x in "ABE"
        ],
    )
    jsonl(
        root / "agieval/jec-qa-kd.jsonl",
        [
            {
                **english,
                "passage": "",
                "question": "哪一个?",
                "options": [f"({x})桥" for x in LETTERS],
                "label": gold,
            }
            for gold in (["A", "C"], ["D"])
        ],
    )
    jsonl(root / "agieval/math.jsonl", [{**english, "options": None, "label": None, "answer": "2"}])
    jsonl(
        root / "superglue/BoolQ/val.jsonl",
        [
            {
                "question": "is the river old",
                "passage": f"The river {n} is old.",
                "idx": n,
                "label": label,
            }
            for n, label in enumerate(("true", "false", "true"))
        ],
    )
    jsonl(
        root / "superglue/AX-b/AX-b.jsonl",
        [
            {
                "idx": n,
                "label": label,
                "sentence1": f"The dog {n} sat.",
                "sentence2": "The dog ran.",
                "logic": "x",
            }
            for n, label in enumerate(("entailment", "not_entailment", "not_entailment"))
        ],
    )
    jsonl(
        root / "piqa/data/valid.jsonl",
        [
            {"goal": f"Cross river {n}", "sol1": "use the bridge over it", "sol2": "use a dog"}
            for n in range(3)
        ],
    )
    (root / "piqa/data/valid-labels.lst").write_text("0\n1\n0\n")
    reviews = [
        {"id": n, "sentence": f"手机{n}很好", "label": label}
        for n, label in enumerate(("Positive", "Negative"))
    ]
    jsonl(root / "eprstmt/test_public.json", reviews)
    jsonl(root / "eprstmt/train_0.json", reviews)
    jsonl(
        root / "XSum/test.jsonl",
        [
            {
                "id": str(n),
                "document": f"The bridge {n} fell into the river.",
                "summary": "A bridge fell.",
            }
            for n in range(2)
        ],
    )
    for kind, lines in (("d", ["男：河在哪儿？", "女：在桥下。"]), ("m", ["河在老桥下面。"])):
        for split in ("dev", "test"):
            questions = [
                {"question": "河在哪儿？", "choice": ["桥下", "桥上", "家"][:n], "answer": "桥下"}
                for n in (2, 3)
            ]
            (root / "c3").mkdir(exist_ok=True)
            text = json.dumps([[lines, questions, f"{kind}-1"]], ensure_ascii=False)
            (root / f"c3/c3-{kind}-{split}.json").write_text(text, encoding="utf-8")
    (root / "hellaswag").mkdir()
    (root / "hellaswag/hellaswag_val_full.txt").write_text(
        "High jump: A boy runs. the boy\n2\njumps.\nsits [x] down.\nflies.\nsleeps.\nCooking:"
        " [header] How to cook [title] Take a pot. \n0\nFill it.\nBurn it.\nSell it.\nPaint it.\n"
    )
    for split, count in (("Test", 3), ("Dev", 2)):
        jsonl(
            root / f"arc/ARC-e/ARC-Easy-{split}.jsonl",
            [
                {
                    "id": f"{split}{n}",
                    "answerKey": "B",
                    "question": {
                        "stem": f"What is river {n}?",
                        "choices": [
                            {"text": text, "label": x}
                            for text, x in zip(("a dog", "water", "a stone"), "ABC")
                        ],
                    },
                }
                for n in range(count)
            ],
        )
    jsonl(
        root / "lambada/lambada_test.jsonl",
        [{"text": "The dog sat by the old river and saw the bridge"}] * 2,
    )
    for name in ("island", "agreement"):
        jsonl(
            root / f"blimp/{name}.jsonl",
            [
                {
                    "sentence_good": f"The dogs {n} run.",
                    "sentence_bad": f"The dogs {n} runs.",
                    "UID": name,
                }
                for n in range(2)
            ],
        )
    (root / "wikitext2").mkdir()
    (root / "wikitext2/wiki.test.raw").write_text(
        " \n = The River = \n \n The river is old , and 1 @,@ 000 stones lie in it . \n \n = ="
        " Bridges = = \n \n One bridge . \n = The Dog = \n \n The dog sat . \n"
    )
    return root
