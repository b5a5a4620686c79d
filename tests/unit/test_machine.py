import pytest
import torch

from tinylm.errors import InputError
from tinylm.machine import choose_device


def test_a_device_is_the_one_asked_for_or_the_processs_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [str(choose_device(asked)) for asked in ("auto", "cpu", "cuda:0")] == [
        "cuda:1",
        "cpu",
        "cuda:0",
    ]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="process 2 of this machine has no GPU"):
        choose_device()


@pytest.mark.parametrize("asked", ["cuda", "cuda:1", "gpu", "mps"])
def test_a_device_that_is_not_there_is_one_line(asked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert str(choose_device()) == "cpu"
    with pytest.raises(InputError, match=f"--device {asked}: PyTorch sees no such device"):
        choose_device(asked)
