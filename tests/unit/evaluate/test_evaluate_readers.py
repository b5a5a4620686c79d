import io
import json
import tarfile

import pytest
import zstandard
from benchmark_files import jsonl, write_all

from tinylm.errors import InputError
from tinylm.evaluate.tasks import readers
from tinylm.evaluate.tasks.catalog import tasks
from tinylm.evaluate.tasks.files import facts
from tinylm.evaluate.tasks.run import load_tasks

COUNTS = {
    "mmlu": 8,
    "ceval": 8,
    "cmmlu": 8,
    "agieval": 5,
    "boolq": 3,
    "ax-b": 3,
    "piqa": 3,
    "eprstmt": 2,
    "xsum": 2,
    "c3": 4,
    "hellaswag": 2,
    "arc-easy": 3,
    "lambada": 2,
    "blimp": 4,
    "wikitext": 2,
}


@pytest.fixture
def files(tmp_path):
    return write_all(tmp_path)


def reader(name):
    return {"ax-b": readers.axb, "arc-easy": readers.arc_easy}.get(name) or getattr(readers, name)


@pytest.mark.parametrize("name", sorted(tasks()))
def test_every_task_loads_all_its_items(files, name):
    task = load_tasks([name], files)[name]
    assert len(task.eval_docs) == COUNTS[name]
    assert facts(task.eval_docs)["bad_items"] == []
    for doc in task.eval_docs:
        if task.config.doc_to_choice:
            choices, gold = task.doc_to_choice(doc), task.doc_to_target(doc)
            assert all(
                0 <= index < len(choices) for index in (gold if isinstance(gold, list) else [gold])
            )


def pack(folder, archive):
    """``folder`` as a .tar.zst, the way the real files come."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(folder, arcname=folder.name)
    archive.write_bytes(zstandard.ZstdCompressor().compress(buffer.getvalue()))


@pytest.mark.parametrize(
    ("name", "folder", "archive"), [("mmlu", "mmlu", "mmlu"), ("xsum", "XSum", "xsum")]
)
def test_archives_read_like_folders(files, tmp_path_factory, name, folder, archive):
    packed = tmp_path_factory.mktemp("packed")
    pack(files / folder, packed / f"{archive}.tar.zst")
    unpacked, archived = reader(name)(str(files))["test"], reader(name)(str(packed))["test"]
    assert unpacked.to_list() == archived.to_list()
    assert facts(unpacked) == facts(archived)


def test_subjects_take_turns_and_examples_are_of_the_same_subject(files):
    task = load_tasks(["mmlu"], files)["mmlu"]
    subjects = [doc["subject"] for doc in task.eval_docs]
    assert subjects[:4] == ["anatomy", "astronomy", "anatomy", "astronomy"]
    for doc in list(task.eval_docs)[:2]:
        prompt = task.fewshot_context(doc, num_fewshot=5)
        assert prompt.count(f"The {doc['subject']} dev number") == 5
        assert prompt.startswith(
            "The following are multiple choice questions (with answers) about " + doc["subject"]
        )
        assert "test number 0" in prompt.rpartition("\n\n")[2]


def test_three_choice_questions_keep_three_choices(files):
    rows = readers.c3(str(files))["test"].to_list()
    assert sorted({len(row["choices"]) for row in rows}) == [2, 3]


def test_several_right_letters_all_count(files):
    golds = [row["gold"] for row in readers.agieval(str(files))["test"].to_list()]
    assert [0, 2] in golds and [4] in golds


def test_hellaswag_marks_are_cleaned(files):
    rows = readers.hellaswag(str(files))["test"].to_list()
    assert rows[0]["choices"][1] == "sits down." and "[" not in rows[1]["query"]


def test_wikitext_is_split_at_first_level_headings_only(files):
    pages = [row["page"] for row in readers.wikitext(str(files))["test"].to_list()]
    assert ["The River" in pages[0], "Bridges" in pages[0], "The Dog" in pages[1]] == [
        True,
        True,
        True,
    ]


def test_the_hash_changes_with_the_data(files):
    before = facts(readers.boolq(str(files))["test"])["data_hash"]
    path = files / "superglue/BoolQ/val.jsonl"
    path.write_text(path.read_text().replace("old", "new"))
    assert facts(readers.boolq(str(files))["test"])["data_hash"] != before


def test_a_bad_item_is_left_out_and_named(files):
    rows = [
        json.loads(line) for line in (files / "superglue/BoolQ/val.jsonl").read_text().splitlines()
    ]
    jsonl(
        files / "superglue/BoolQ/val.jsonl",
        [{**rows[0], "label": "maybe"}, {"passage": "x"}, *rows[1:]],
    )
    text = (files / "superglue/BoolQ/val.jsonl").read_text()
    (files / "superglue/BoolQ/val.jsonl").write_text(
        text[: text.index("\n") + 1] + "{broken\n" + text.split("\n", 1)[1]
    )
    table = readers.boolq(str(files))["test"]
    assert len(table) == 2
    assert [reason.split(": ", 1)[0] for reason in facts(table)["bad_items"]] == [
        "boolq item 0",
        "boolq item 1",
        "boolq item 2",
    ]


def test_rows_that_are_no_objects_are_left_out_and_named(files):
    path = files / "piqa/data/valid.jsonl"
    path.write_text("[1]\n" + path.read_text().split("\n", 1)[1])
    assert facts(readers.piqa(str(files))["test"])["bad_items"] == [
        "piqa item 0: data/valid.jsonl line 1 is no JSON object"
    ]
    path = files / "c3/c3-d-test.json"
    sentences, questions, name = json.loads(path.read_text())[0]
    path.write_text(json.dumps([[sentences, ["no object", *questions], name]]))
    assert facts(readers.c3(str(files))["test"])["bad_items"] == [
        "d item 0: a question is no JSON object"
    ]


def damage(path, how):
    data = path.read_bytes()
    if how == "cut":
        path.write_bytes(data[: len(data) - 20])
    elif how == "columns":
        path.write_bytes(data.replace(b"question", b"frage").replace(b"sentence", b"satz"))
    elif how == "gone":
        path.unlink()
    elif how == "bytes":
        path.write_bytes(b"\xff\xfe" + data)


@pytest.mark.parametrize(
    ("name", "path", "how", "message"),
    [
        ("boolq", "superglue/BoolQ/val.jsonl", "cut", "cut off in line 3"),
        ("c3", "c3/c3-d-test.json", "cut", "cut off or damaged"),
        ("hellaswag", "hellaswag/hellaswag_val_full.txt", "cut", "cut off"),
        ("piqa", "piqa/data/valid-labels.lst", "columns", None),
        ("boolq", "superglue/BoolQ/val.jsonl", "columns", "no usable item"),
        ("ax-b", "superglue/AX-b/AX-b.jsonl", "columns", "no usable item"),
        ("boolq", "superglue/BoolQ/val.jsonl", "gone", "missing"),
        ("xsum", "XSum/test.jsonl", "bytes", "not UTF-8"),
    ],
)
def test_damaged_files_are_one_clear_line(files, name, path, how, message):
    damage(files / path, how)
    if message is None:
        (files / path).write_text("0\n1\n")
        message = "3 items but 2 labels"
    with pytest.raises(InputError, match=message) as caught:
        load_tasks([name], files)
    assert "\n" not in str(caught.value)


def test_a_cut_archive_is_one_clear_line(files, tmp_path_factory):
    packed = tmp_path_factory.mktemp("packed")
    pack(files / "mmlu", packed / "mmlu.tar.zst")
    data = (packed / "mmlu.tar.zst").read_bytes()
    (packed / "mmlu.tar.zst").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="cut off or damaged"):
        load_tasks(["mmlu"], packed)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no mmlu/ and no mmlu.tar.zst"):
        load_tasks(["mmlu"], tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        load_tasks(["mmlu"], tmp_path / "nowhere")
    with pytest.raises(InputError, match="no task 'nonsense'"):
        load_tasks(["nonsense"], tmp_path)


def test_without_files_and_network_the_hub_is_named(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("TINYLM_TASK_DATA", raising=False)
    with pytest.raises(InputError, match="baber/piqa cannot be read"):
        load_tasks(["piqa"], None)
    with pytest.raises(InputError, match="eprstmt is not on the hub"):
        load_tasks(["eprstmt"], None)


def test_more_examples_than_there_are_is_one_clear_line(files):
    with pytest.raises(InputError, match=r"--num-fewshot 6: there are only 5 examples for anatomy"):
        load_tasks(["mmlu"], files, num_fewshot=6)


def test_a_task_file_alone_makes_a_column_of_its_own(tmp_path, monkeypatch):
    """A task that names no group stands last, under its own name, and is in no average."""
    from tinylm.evaluate import results
    from tinylm.evaluate.tasks import catalog

    (tmp_path / "riddles.yaml").write_text("metadata:\n  main: acc\ntask: tinylm_riddles\n")
    monkeypatch.setattr(catalog, "FOLDER", tmp_path)
    catalog.tasks.cache_clear()
    try:
        score = {"score": 0.5, "stderr": 0.1, "n": 4, "chance": 0.25, "metric": "acc"}
        model = {"model": "tiny", "tasks": {"riddles": score}}
        ((title, (columns, rows)),) = results.tables({"models": [model]})
        assert title == "riddles" and columns == ["model", "riddles (n=4)"]
        assert rows == [["chance", "25.0"], ["tiny", "50.0 ± 10.0"]]
        assert results.mean_score(model["tasks"]) is None
    finally:
        catalog.tasks.cache_clear()
