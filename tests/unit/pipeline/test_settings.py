import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylm.errors import InputError
from tinylm.pipeline.recipe import read_recipe
from tinylm.pipeline.settings import as_words, overlay, parse_settings

VALUES = st.recursive(
    st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


def test_settings_are_read_as_toml_or_as_words():
    found = parse_settings(
        ["train.steps=3", "corpus.paths=['a', 'b']", "teacher=my/model", "control.enabled=true"]
    )
    assert found == {
        "train.steps": 3,
        "corpus.paths": ["a", "b"],
        "teacher": "my/model",
        "control.enabled": True,
    }
    with pytest.raises(InputError, match="KEY=VALUE"):
        parse_settings(["train.steps"])


def test_overlay_copies_and_nests():
    base = {"train": {"steps": 1}}
    assert overlay(base, {"train.rounds": 2, "seed": 1}) == {
        "train": {"steps": 1, "rounds": 2},
        "seed": 1,
    }
    assert base == {"train": {"steps": 1}}


def test_a_key_under_a_value_is_refused():
    with pytest.raises(InputError, match="seed = 1 is not a table"):
        overlay({"seed": 1}, {"seed.more": 2})


@given(st.dictionaries(st.from_regex("[a-z]+(\\.[a-z_]+)?", fullmatch=True), VALUES, max_size=4))
def test_the_words_of_changes_are_read_back_to_them(changes):
    assert parse_settings(as_words(changes)[1:]) == changes


def test_a_recipe_takes_changes_and_checks_them():
    recipe = read_recipe("demo", {"train.steps": 7, "name": "short"})
    assert (recipe.train.steps, recipe.name) == (7, "short")
    with pytest.raises(InputError, match=r"unknown key 'train\.stepz'"):
        read_recipe("demo", {"train.stepz": 7})
