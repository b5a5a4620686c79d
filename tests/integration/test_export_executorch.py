"""Folders run by ExecuTorch give what transformers gives. The extra is 190 MB and not in the lock:
`pip install '.[executorch]'`, then these run."""

import importlib.util

import pytest
import torch
from builders import byte_level_tokenizer, random_model

from tinylm.errors import InputError, WorkError
from tinylm.export import executorch
from tinylm.export.executorch import export_executorch

needs_executorch = pytest.mark.skipif(
    importlib.util.find_spec("executorch") is None,
    reason="the extra [executorch] is not installed",
)


def test_wrong_quantisation(tmp_path):
    with pytest.raises(InputError, match="choose one of F32, INT8, INT4"):
        export_executorch(tmp_path, tmp_path / "out", "Q8_0")


def test_missing_package_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"tinylm\[executorch\]"):
        export_executorch(tmp_path, tmp_path / "out")


def test_rows_of_an_embedding_in_8_bits():
    table = torch.nn.Embedding(5, 64)
    rows = executorch._Rows8(table)
    ids = torch.tensor([[4, 0, 4]])
    largest = table.weight.abs().amax(1)[ids][..., None]
    assert ((rows(ids) - table(ids)).abs() <= largest / 127 / 2 + 1e-7).all()


WINDOW = {"sliding_window": 32}  # shorter than the text


@needs_executorch
@pytest.mark.parametrize(
    ("family", "changes"), [("llama", {}), ("gemma3_text", WINDOW), ("mistral", WINDOW)]
)
def test_the_same_model(family, changes, tmp_path):
    folder = random_model(tmp_path / "m", family, byte_level_tokenizer(), **changes)
    report = export_executorch(folder, tmp_path / "pte")
    assert report["check"]["kl"] < 1e-5 and report["check"]["tokens"]["ids"] > 5000
    assert (tmp_path / "pte" / "model.pte").is_file()
    with pytest.raises(InputError, match="exists already"):
        export_executorch(folder, tmp_path / "pte")


@needs_executorch
def test_a_cap_on_scores_is_refused_and_leaves_nothing(tmp_path):
    folder = random_model(tmp_path / "m", "gemma2", byte_level_tokenizer())
    with pytest.raises(WorkError, match=r"cannot build 'gemma2'.*no cap on scores"):
        export_executorch(folder, tmp_path / "pte", check=False)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
