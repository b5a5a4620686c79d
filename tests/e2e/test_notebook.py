"""The notebook's cells, one after the other, on a tiny teacher."""

import json
from pathlib import Path

import pytest
from builders import corpus_file, tiny_teacher

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"
# what its first cell says -> what a test has time for
SMALL = {
    '"smollm2-135m"': '"teacher"',
    '"embedded"': '"corpus.jsonl"',
    "16384": "384",
    "32e6": "140e3",
    '"train.steps": 180': '"train.steps": 4, "train.sequence_length": 32, "train.compile": False',
    '"The history of the city begins"': '"The river"',
}


def test_every_cell_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("xllamacpp")
    tiny_teacher(tmp_path / "teacher")
    corpus_file(tmp_path / "corpus.jsonl", count=300)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    first, *rest = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert first.startswith("%pip install")  # the rest is plain Python
    for said, small in SMALL.items():
        assert sum(cell.count(said) for cell in rest) == 1, said
        rest = [cell.replace(said, small) for cell in rest]
    names: dict = {}
    for cell in rest:
        exec(compile(cell, NOTEBOOK.name, "exec"), names)
    assert {"teacher", "student", "control"} <= set(names["bits"])
    assert (tmp_path / "runs/mine/report.html").exists() and (tmp_path / "mine.gguf").exists()
    assert not any(cell.get("outputs") for cell in cells)
