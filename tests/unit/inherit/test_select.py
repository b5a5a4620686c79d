import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinylm.errors import InputError
from tinylm.inherit.scores import Scores
from tinylm.inherit.select import best, best_heads, select
from tinylm.models.shape import Shape

TEACHER = Shape(4, 32, 48, 6, 3, 8, 64)


def scores(seed: int = 0) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    return Scores(
        *(torch.rand(size, generator=generator) for size in ((4, 48), (4, 6), (32,), (4,)))
    )


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.data())
def test_best_keeps_the_highest_in_their_order(values: list[int], data) -> None:
    count = data.draw(st.integers(1, len(values)))
    kept = best(torch.tensor(values), count).tolist()
    assert kept == sorted(set(kept)) and len(kept) == count
    dropped = [value for index, value in enumerate(values) if index not in kept]
    assert min(values[index] for index in kept) >= max(dropped, default=0)


def test_groups_are_kept_whole_when_key_value_heads_shrink() -> None:
    importance = torch.tensor([0.9, 0.0, 0.5, 0.5, 0.1, 0.2])  # groups worth 0.9, 1.0, 0.3
    q_heads, kv_heads = best_heads(importance, TEACHER, Shape(4, 32, 48, 2, 1, 8, 64))
    assert kv_heads.tolist() == [1] and q_heads.tolist() == [2, 3]


def test_the_best_heads_of_each_group_when_groups_shrink() -> None:
    importance = torch.tensor([0.9, 0.0, 0.4, 0.5, 0.1, 0.2])
    q_heads, kv_heads = best_heads(importance, TEACHER, Shape(4, 32, 48, 2, 2, 8, 64))
    assert kv_heads.tolist() == [0, 1] and q_heads.tolist() == [0, 3]


def test_a_selection_fills_the_target() -> None:
    kept = select(scores(), TEACHER, Shape(2, 24, 40, 3, 3, 8, 64))
    assert len(kept.layers) == 2 and len(kept.hidden) == 24
    assert [len(units) for units in (*kept.ffn, *kept.q_heads, *kept.kv_heads)] == [
        40,
        40,
        3,
        3,
        3,
        3,
    ]
    for units, layer in zip(kept.ffn, kept.layers, strict=True):
        assert units.tolist() == best(scores().ffn[layer], 40).tolist()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Shape(5, 32, 48, 6, 3, 8, 64), "num_layers = 5 is larger"),
        (Shape(4, 40, 48, 6, 3, 8, 64), "hidden_size = 40 is larger"),
        (Shape(4, 32, 48, 6, 3, 4, 64), "head_dim = 4"),
        (Shape(4, 32, 48, 6, 2, 8, 64), "group can only shrink"),
        (Shape(4, 32, 48, 6, 3, 8, 60), "vocab_size = 60"),
        (Shape(4, 32, 48, 6, 3, 8, 64, False), None),
    ],
)
def test_targets_that_cannot_be_cut_are_one_clear_line(target: Shape, message: str | None) -> None:
    if message is None:
        assert select(scores(), TEACHER, target).layers == [0, 1, 2, 3]
        return
    with pytest.raises(InputError, match=message):
        select(scores(), TEACHER, target)


def test_a_head_of_its_own_cannot_be_tied() -> None:
    untied = Shape(4, 32, 48, 6, 3, 8, 64, False)
    with pytest.raises(InputError, match="tie_word_embeddings = false"):
        select(scores(), untied, Shape(4, 32, 48, 6, 3, 8, 64, True))


def test_scores_survive_the_disk_and_are_checked(tmp_path) -> None:
    saved = scores()
    saved.metadata = {"criterion": "taylor"}
    saved.save(tmp_path / "scores")
    loaded = Scores.load(tmp_path / "scores")
    assert torch.equal(loaded.ffn, saved.ffn) and loaded.metadata == saved.metadata
    loaded.check(TEACHER, TEACHER)
    with pytest.raises(InputError, match=r"scores of ffn are \(4, 48\)"):
        loaded.check(Shape(4, 32, 40, 6, 3, 8, 64), TEACHER)
    loaded.hidden[3] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        loaded.check(TEACHER, TEACHER)
    (tmp_path / "scores" / "scores.safetensors").write_bytes(b"short")
    with pytest.raises(InputError, match="cannot be read"):
        Scores.load(tmp_path / "scores")
