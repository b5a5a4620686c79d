import dataclasses

import pytest

from tinylm.errors import InputError
from tinylm.inherit.options import InheritOptions
from tinylm.pipeline.recipe import Recipe, packaged_recipes, read_recipe, to_toml


def write(tmp_path, text):
    path = tmp_path / "r.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", packaged_recipes())
def test_toml_reads_back_to_an_equal_recipe(tmp_path, name):
    recipe = read_recipe(name)
    assert read_recipe(write(tmp_path, to_toml(recipe))) == recipe


@pytest.mark.parametrize("name", packaged_recipes())
def test_every_packaged_recipe_is_valid(name):
    recipe = read_recipe(name)
    assert recipe.name == name


def test_one_default_for_one_thing():
    """Of `tinylm inherit` and of a recipe."""
    command, recipe = InheritOptions(), Recipe().inherit
    for name in ("criterion", "layers", "repair"):
        assert getattr(command, name) == getattr(recipe, name)
    assert (command.chunks, command.length) == (
        recipe.calibration_chunks,
        recipe.calibration_length,
    )


def test_defaults_and_values(tmp_path):
    recipe = read_recipe(
        write(tmp_path, 'name = "x"\n[architecture]\nbudget = 4e7\n[train]\nrounds = 3\n')
    )
    assert recipe.train.rounds == 3 and recipe.architecture.budget == 4e7
    assert recipe.corpus == Recipe().corpus
    assert set(recipe.to_dict()) == {field.name for field in dataclasses.fields(Recipe)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nmae = 'x'", ["nmae", "name"]),
        ("[train]\nround = 2", ["train.round", "rounds"]),
        ("[train]\nrounds = 'two'", ["train.rounds", "'two'", 'a number or "auto"']),
        ("[train]\nrounds = 0", ["train.rounds", "0"]),
        ("[inherit]\ncriterion = 'magic'", ["inherit.criterion", "magic", "taylor"]),
        ("[corpus]\nvalid_fraction = 1.5", ["corpus.valid_fraction", "1.5"]),
        ("[corpus]\nlanguages = ['English']", ["corpus.languages", "English", "two or three"]),
        ("[corpus]\npaths = 'x.txt'", ["corpus.paths", "list"]),
        ("corpus = 3", ["corpus", "table"]),
        ("name = '../up'", ["name", "../up"]),
        ("[control]\nenabled = 1", ["control.enabled", "bool"]),
        ("name = ", ["not valid TOML"]),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(tmp_path, text, words):
    budget = "" if "[architecture]" in text else "\n[architecture]\nbudget = 1e6\n"
    with pytest.raises(InputError) as caught:
        read_recipe(write(tmp_path, text + budget))
    for word in words:
        assert word in str(caught.value)


def test_missing_recipe_names_the_packaged_ones(tmp_path):
    with pytest.raises(InputError, match="demo"):
        read_recipe(tmp_path / "none.toml")
    with pytest.raises(InputError, match="folder"):
        read_recipe(tmp_path)
