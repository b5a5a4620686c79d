"""Checkpoints: whole or not there, found again, bitwise, and never a reason to lose the run."""

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open

from tinylm.errors import InputError
from tinylm.train.checkpoint import Checkpoints, pack_state, unpack_state
from tinylm.train.parallel import World

WORLD = World(torch.device("cpu"))
IDENTITY = {"settings": "x"}


def write(folder, step, value, keep=2):
    checkpoints = Checkpoints(folder, keep, WORLD)
    tensors = {
        "weight.a": torch.full((3,), float(value)),
        "rounds.losses": torch.tensor([0.5, float("nan")]).double(),
    }
    checkpoints.save(step, tensors, {"identity": IDENTITY})
    tensors["weight.a"].zero_()  # training goes on: the checkpoint holds the values of its step
    checkpoints.wait()


def masters_of(shape):
    return SimpleNamespace(
        names=["a"], weights=[torch.nn.Parameter(torch.zeros(shape))], update_model=lambda: None
    )


def newest(folder):
    return Checkpoints(folder, 2, WORLD).latest(IDENTITY)


@pytest.fixture
def saved(tmp_path):
    for step in (10, 20, 30):
        write(tmp_path, step, step)
    return tmp_path


def test_the_newest_two_stay_and_hold_what_was_there_when_saving_began(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["step-00000020", "step-00000030"]
    path, state = newest(saved)
    masters = masters_of(3)
    rest = unpack_state(path, masters, [])
    assert state["step"] == 30 and masters.weights[0].tolist() == [30, 30, 30]
    assert rest["rounds.losses"].dtype == torch.float64 and rest[
        "rounds.losses"
    ].isnan().tolist() == [False, True]


def test_a_checkpoint_is_safetensors_and_json_alone(saved):
    files = sorted(file.suffix for file in (saved / "step-00000030").iterdir())
    assert files == [".json", ".safetensors"]
    with safe_open(next((saved / "step-00000030").glob("*.safetensors")), framework="pt") as file:
        assert set(file.keys()) == {"weight.a", "rounds.losses"}


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "no state", "bad state"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(saved, damage, capsys):
    (tensors,) = (saved / "step-00000030").glob("*.safetensors")
    content = tensors.read_bytes()
    if damage == "truncate":
        tensors.write_bytes(content[:-4])
    elif damage == "flip":
        tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "remove":
        tensors.unlink()
    elif damage == "no state":
        (saved / "step-00000030" / "state.json").unlink()
    else:
        (saved / "step-00000030" / "state.json").write_text("{")
    _, state = newest(saved)
    assert state["step"] == 20
    assert "damaged" in capsys.readouterr().err
    write(saved, 25, 25, keep=1)  # the damaged one does not count as one that is kept
    assert [path.name for path in saved.iterdir()] == ["step-00000025"]
    write(saved, 30, 31)
    assert newest(saved)[1]["step"] == 30


def test_a_checkpoint_of_another_run_is_an_input_error(saved):
    with pytest.raises(InputError, match="its settings differs"):
        Checkpoints(saved, 2, WORLD).latest({"settings": "y"})


@pytest.mark.parametrize(
    ("shape", "message"), [(2, r"a has shape \[3\], \[2\] is needed"), ((3, 1), "a has shape")]
)
def test_a_checkpoint_of_another_shape_is_an_input_error(saved, shape, message):
    with pytest.raises(InputError, match=message):
        unpack_state(saved / "step-00000030", masters_of(shape), [])


def test_a_checkpoint_without_one_of_the_weights_is_an_input_error(saved):
    masters = masters_of(3)
    masters.names, masters.weights = (
        ["a", "b"],
        [
            *masters.weights,
            torch.nn.Parameter(torch.zeros(1)),
        ],
    )
    with pytest.raises(InputError, match="b is missing"):
        unpack_state(saved / "step-00000030", masters, [])


@pytest.mark.parametrize("name", ["AdamW", "Muon"])
def test_the_optimiser_goes_on_bitwise(tmp_path, name):
    def start():
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(4, 6))
        return SimpleNamespace(names=["a"], weights=[weight], update_model=lambda: None), getattr(
            torch.optim, name
        )([weight], lr=0.1)

    def steps(masters, optimizer, first, last):
        for step in range(first, last):
            masters.weights[0].grad = torch.randn(
                4, 6, generator=torch.Generator().manual_seed(step)
            )
            optimizer.step()

    undisturbed, optimizer = start()
    steps(undisturbed, optimizer, 0, 6)
    stopped, optimizer = start()
    steps(stopped, optimizer, 0, 3)
    checkpoints = Checkpoints(tmp_path, 1, WORLD)
    checkpoints.save(3, pack_state(stopped, [optimizer]), {"identity": IDENTITY})
    checkpoints.wait()
    resumed, optimizer = start()
    assert unpack_state(newest(tmp_path)[0], resumed, [optimizer]) == {}
    steps(resumed, optimizer, 3, 6)
    assert torch.equal(resumed.weights[0], undisturbed.weights[0])


class FullDisk(dcp.HuggingFaceStorageWriter):
    def write_data(self, plan, planner):
        Path(self.path, "half-written.safetensors").write_bytes(b"x" * 100)
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fills_up_while_writing_costs_that_checkpoint_only(saved, monkeypatch, capsys):
    with monkeypatch.context() as full:
        full.setattr(dcp, "HuggingFaceStorageWriter", FullDisk)
        write(saved, 40, 40)
    said = " ".join(capsys.readouterr().err.split())
    assert "step-00000040 could not be written" in said and "No space left on device" in said
    assert sorted(path.name for path in saved.iterdir()) == ["step-00000020", "step-00000030"]
    assert newest(saved)[1]["step"] == 30
    write(saved, 50, 50)
    assert newest(saved)[1]["step"] == 50


def test_too_little_room_is_said_before_anything_is_written(saved, monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    write(saved, 40, 40)
    assert "not enough disk" in " ".join(capsys.readouterr().err.split())
    assert newest(saved)[1]["step"] == 30


def test_what_a_killed_run_left_half_written_is_not_read_and_goes_with_the_next_checkpoint(saved):
    (saved / ".step-00000040.partial").mkdir()
    (saved / ".step-00000040.partial" / "x.safetensors").write_bytes(b"half")
    assert newest(saved)[1]["step"] == 30
    write(saved, 40, 40)
    assert sorted(path.name for path in saved.iterdir()) == ["step-00000030", "step-00000040"]
