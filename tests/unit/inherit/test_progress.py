"""A scoring or repair that is killed again and again: it goes on, and ends in the same numbers."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import family_model

from tinylm.inherit import bill, depth, masks, obs, refit, units
from tinylm.inherit.inheritance import inherit
from tinylm.inherit.progress import Progress, as_list, numbered
from tinylm.inherit.run import inherit_folder
from tinylm.inherit.stack import Stack, streamed_teacher
from tinylm.models.shape import Shape

IDS = torch.randint(64, (20, 24), generator=torch.Generator().manual_seed(1))


class Dying(Progress):
    """A progress whose process is killed right after it has kept something for the second time."""

    def __init__(self, folder: Path, identity: str = "") -> None:
        super().__init__(folder, identity, seconds=0.0)
        self.lives = 2

    def put(self, name: str, tensors: Any) -> None:
        super().put(name, tensors)
        self.lives -= 1
        if self.lives == 0:
            raise KeyboardInterrupt


def with_deaths(work: Any, folder: Path) -> tuple[Any, int]:
    """What ``work(progress)`` gives in the end, and how often it was killed before."""
    for deaths in range(500):
        try:
            return work(Dying(folder)), deaths
        except KeyboardInterrupt:
            continue
    raise AssertionError("it never gets past it")


def teacher(where: str, folder: Path, progress: Progress | None = None) -> Stack:
    model = family_model("llama")
    if where == "in memory":
        return Stack(model, progress=progress or Progress())
    if not (folder / "config.json").exists():
        model.save_pretrained(folder)
    return streamed_teacher(folder, torch.float32, torch.device("cpu"), progress)


def half() -> Shape:
    shape = Shape.from_config(family_model("llama").config)
    return dataclasses.replace(shape, num_layers=2, intermediate_size=24, hidden_size=16)


SCORINGS = {
    "taylor": lambda stack: units.taylor(stack, IDS),
    "obs": lambda stack: obs.obs(stack, IDS),
    "skip-loss": lambda stack: {"layers": depth.skip_loss(stack, IDS.repeat(20, 1))},
    "greedy": lambda stack: {"layers": depth.greedy(stack, IDS, 2, candidates=2)},
    "masks": lambda stack: masks.learn(stack, IDS, half(), masks.MaskTraining(steps=5)).scores,
    "hard top-k": lambda stack: (
        masks.learn(stack, IDS, half(), masks.MaskTraining("top-k", steps=5)).scores
    ),
}


@pytest.mark.parametrize("where", ["in memory", "on disk"])
@pytest.mark.parametrize("name", SCORINGS)
def test_scores_are_the_same_to_the_bit(name: str, where: str, tmp_path: Path) -> None:
    expected = SCORINGS[name](teacher(where, tmp_path / "model"))

    def work(progress: Progress) -> Any:
        return SCORINGS[name](teacher(where, tmp_path / "model", progress))

    found, deaths = with_deaths(work, tmp_path / "progress")
    assert deaths >= 2
    for axis, values in expected.items():
        assert torch.equal(found[axis], values), axis
    left = [path.name for path in (tmp_path / "progress").glob("*.safetensors")]
    assert left == [], "nothing stays of what is done"


@pytest.mark.parametrize("where", ["in memory", "on disk"])
@pytest.mark.parametrize("matrices", ["two", "all"])
def test_a_refit_goes_on(matrices: str, where: str, tmp_path: Path) -> None:
    groups = refit.INPUT_GROUPS
    chosen = refit.OUTPUTS if matrices == "two" else [name for group in groups for name in group]
    stack = teacher(where, tmp_path / "model")
    cut = inherit(stack, half(), None, "l2", "first-last", repair=())
    expected = copy.deepcopy(cut.model)
    refit.refit(expected, stack, cut.kept, IDS, chosen)

    def work(progress: Progress) -> Any:
        student = copy.deepcopy(cut.model)
        refit.refit(student, teacher(where, tmp_path / "model", progress), cut.kept, IDS, chosen)
        return student

    found, deaths = with_deaths(work, tmp_path / "progress")
    assert deaths >= 1
    for name, weight in expected.named_parameters():
        assert torch.equal(found.get_parameter(name), weight), name


@pytest.mark.parametrize("where", ["in memory", "on disk"])
def test_an_inheritance_goes_on(where: str, tmp_path: Path) -> None:
    asked = {"criterion": "learned", "layers": "greedy", "repair": ("norms", "refit-all")}
    expected = inherit(teacher(where, tmp_path / "model"), half(), IDS, **asked)

    def work(progress: Progress) -> Any:
        return inherit(teacher(where, tmp_path / "model", progress), half(), IDS, **asked)

    found, deaths = with_deaths(work, tmp_path / "progress")
    assert deaths > 10 and found.kept.layers == expected.kept.layers
    for name, weight in expected.model.named_parameters():
        assert torch.equal(found.model.get_parameter(name), weight), name


def test_progress_of_something_else_is_thrown_away(tmp_path: Path) -> None:
    Progress(tmp_path / "p", "one").put("units", {"a": torch.ones(2)})
    assert torch.equal(Progress(tmp_path / "p", "one").get("units")["a"], torch.ones(2))
    assert Progress(tmp_path / "p", "two").get("units") is None


@pytest.mark.parametrize(("before", "after"), [("never", "always"), ("always", "never")])
def test_a_scoring_that_goes_on_another_way_begins_anew(before, after, tmp_path) -> None:
    """In memory and on disk they keep other things under the same names: skip-loss went on with
    them and was wrong without a word."""
    ids, folder = IDS.repeat(20, 1), tmp_path / "model"
    config = family_model("llama").config
    family_model("llama").save_pretrained(folder)
    job = bill.Job(
        Shape.from_config(config),
        half(),
        torch.float32,
        torch.device("cpu"),
        chunks=len(ids),
        length=ids.shape[1],
        criterion="l2",
        layers="skip-loss",
        repair=(),
    )
    expected = inherit_folder(folder, job, ids, after).scores.layers
    dying = Dying(tmp_path / "p")
    dying.lives = 5
    with pytest.raises(KeyboardInterrupt):
        inherit_folder(folder, job, ids, before, dying)
    found = inherit_folder(folder, job, ids, after, Progress(tmp_path / "p")).scores.layers
    assert torch.equal(torch.as_tensor(found), torch.as_tensor(expected))


def test_a_scoring_begun_on_disk_stays_there(tmp_path) -> None:
    progress = Progress(tmp_path, "one")
    progress.go("on disk")
    progress.put("units", {"a": torch.ones(2)})
    again = Progress(tmp_path, "one")
    assert again.way == "on disk" and again.has("units")
    again.go("on disk")
    assert again.has("units")
    again.go("in memory")
    assert not again.has("units") and Progress(tmp_path, "one").way == "in memory"
    assert Progress().way == ""


def test_a_torn_file_is_nothing(tmp_path: Path) -> None:
    progress = Progress(tmp_path)
    progress.put("units", {"a": torch.ones(200)})
    whole = (tmp_path / "units.safetensors").read_bytes()
    (tmp_path / "units.safetensors").write_bytes(whole[:100])
    assert progress.get("units") is None and not progress.has("units")


def test_lists_come_back_in_their_order() -> None:
    tensors = [torch.tensor(float(n)) for n in range(12)]
    found = as_list(numbered(tensors, "a ") | numbered(tensors[:3], "b "), "a ")
    assert found == tensors
