import pytest

from tinylm.artifact import hash_of
from tinylm.errors import InputError
from tinylm.pipeline.recipe import Recipe
from tinylm.study.grid import flatten, variations
from tinylm.study.spec import read_study, recipe_hash
from tinylm.train.config import TrainConfig


def write(tmp_path, text, base="[architecture]\nbudget = 1e6\n"):
    (tmp_path / "base.toml").write_text(base)
    (tmp_path / "mine.toml").write_text('base = "base.toml"\n' + text)
    return tmp_path / "mine.toml"


GRID = "[grid]\ntrain.rounds = [1, 2]\ntrain.strategy = ['uniform', 'exp-loss']\n"


def test_grid_is_all_combinations_in_order(tmp_path):
    study = read_study(write(tmp_path, GRID))
    assert [v.name for v in study.variations] == [
        "rounds 1, strategy uniform",
        "rounds 1, strategy exp-loss",
        "rounds 2, strategy uniform",
        "rounds 2, strategy exp-loss",
    ]
    assert study.variations[2].changes == {"train.rounds": 2, "train.strategy": "uniform"}
    assert [v.reference for v in study.variations] == [None] + ["rounds 1, strategy uniform"] * 3


def test_a_rung_of_a_ladder_keeps_what_those_below_changed(tmp_path):
    text = """
    kind = "ladder"
    [[variation]]
    name = "baseline"
    set.inherit.init = "random"
    [[variation]]
    name = "+ vocabulary"
    set.tokenizer.vocab_size = 4096
    [[variation]]
    name = "+ inheritance"
    set.inherit = { init = "inherit", criterion = "l2" }
    """
    study = read_study(write(tmp_path, text))
    recipes = [study.recipe(variation, 0) for variation in study.variations]
    assert [r.tokenizer.vocab_size for r in recipes] == [0, 4096, 4096]
    assert [(r.inherit.init, r.inherit.criterion) for r in recipes] == [
        ("random", "taylor"),
        ("random", "taylor"),
        ("inherit", "l2"),
    ]
    assert [v.reference for v in study.variations] == [None, "baseline", "+ vocabulary"]


def test_a_variation_can_name_another_one_to_be_compared_with(tmp_path):
    rung = "[[variation]]\nname = '{}'\nset.train.steps = {}\n"
    text = "".join(rung.format(name, steps) for name, steps in zip("abcd", (9, 8, 7, 6)))
    text = text.replace("'c'\n", "'c'\nagainst = 'a'\n")
    for kind, references in (("list", [None, "a", "a", "a"]), ("ladder", [None, "a", "a", "c"])):
        study = read_study(write(tmp_path, f"kind = '{kind}'\n" + text))
        assert [v.reference for v in study.variations] == references
        assert [study.recipe(v, 0).train.steps for v in study.variations] == [9, 8, 7, 6]
    study = read_study(write(tmp_path, "kind = 'list'\nbaseline = 'b'\n" + text))
    assert [v.reference for v in study.variations] == ["b", None, "a", "b"]


def test_a_seed_reaches_everything_random_and_runs_come_seed_by_seed(tmp_path):
    study = read_study(write(tmp_path, "seeds = [3, 4]\n" + GRID))
    runs = study.runs()
    assert [(r.seed, r.noise) for r in runs] == [(3, False)] * 4 + [(4, False)] * 4 + [
        (1003, True),
        (1004, True),
    ]
    assert all(r.recipe.seed == r.recipe.train.seed == r.seed for r in runs)
    assert {r.variation for r in runs if r.noise} == {"rounds 1, strategy uniform"}
    assert len({r.id for r in runs}) == len(runs)


def test_equal_recipes_are_one_run(tmp_path):
    text = "[[variation]]\nname='a'\n[[variation]]\nname='b'\nset.train.batch_size = 8\n"
    runs = read_study(write(tmp_path, "kind='list'\nseeds=[0]\nnoise_seeds=[]\n" + text)).runs()
    assert [r.variation for r in runs] == ["a", "b"] and runs[0].id == runs[1].id


def test_a_scale_replaces_keys_and_adds_to_the_recipe(tmp_path):
    text = (
        GRID + "[recipe]\ntrain.steps = 7\n[scale.cpu]\n[scale.gpu]\nseeds ="
        " [5]\nrecipe.train.batch_size = 2\n"
    )
    cpu, gpu = (read_study(write(tmp_path, text), scale) for scale in ("cpu", "gpu"))
    assert (cpu.seeds, gpu.seeds) == ((0, 1, 2), (5,))
    assert [s.recipe(s.baseline, 0).train.steps for s in (cpu, gpu)] == [7, 7]
    assert [s.recipe(s.baseline, 0).train.batch_size for s in (cpu, gpu)] == [8, 2]
    with pytest.raises(InputError, match="no scale 'full'; it has cpu, gpu"):
        read_study(tmp_path / "mine.toml", "full")


def test_settings_lie_under_the_variations(tmp_path):
    study = read_study(write(tmp_path, GRID), settings={"train.rounds": 9, "train.steps": 5})
    assert {study.recipe(v, 0).train.rounds for v in study.variations} == {1, 2}
    assert study.recipe(study.baseline, 0).train.steps == 5
    assert study.repeat.endswith("--scale cpu --set train.rounds=9 train.steps=5")


def test_seeds_of_the_call_replace_those_of_the_file(tmp_path):
    study = read_study(
        write(tmp_path, "seeds = [0, 1, 2]\n" + GRID), seeds=(4, 5), noise_seeds=(9,)
    )
    assert study.seeds == (4, 5) and study.noise_seeds == (9,)
    assert study.repeat.endswith("--scale cpu --seeds 4 5 --noise-seeds 9")
    with pytest.raises(InputError, match="noise_seeds must be other seeds"):
        read_study(tmp_path / "mine.toml", seeds=(1000,), noise_seeds=(1000,))


def test_flatten_joins_the_names():
    assert flatten({"a": {"b": {"c": 1}}, "d.e": 2}) == {"a.b.c": 1, "d.e": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GRID + "colour = 1", "strategy.*colour|unknown key|colour"),
        ("colour = 1\n" + GRID, "unknown key colour; known: title"),
        ("kind = 'tree'\n" + GRID, "'tree' is not grid, list or ladder"),
        ("[grid]\ntrain.rounds = 3", r"grid.train.rounds = 3 must be a list"),
        ("[grid]\ntrain.rounds = [1]", "two or more variations"),
        ("[grid]\ntrain.round = [1, 2]", "unknown key 'train.round'"),
        ("[grid]\ntrain.rounds = [0, 2]", r"train.rounds = 0"),
        ("baseline = 'x'\n" + GRID, "baseline = 'x' is not one of"),
        ("seeds = [1, 1]\n" + GRID, "must differ"),
        ("seeds = []\n" + GRID, "seeds is empty"),
        ("seeds = 3\n" + GRID, "list of whole numbers"),
        ("seeds = [1]\nnoise_seeds = [1]\n" + GRID, "other seeds than seeds"),
        ("kind = 'list'", r"\[\[variation\]\]"),
        ("kind = 'list'\n[[variation]]\nname = 'a'\nsets = 1", "name = '...' and set"),
        (
            "kind = 'list'\n[[variation]]\nname = 'a b'\n[[variation]]\nname = 'a-b'",
            "differ in letters",
        ),
        (
            "kind = 'ladder'\nbaseline = 'a'\n[[variation]]\nname='a'\n[[variation]]\nname='b'",
            "remove baseline",
        ),
        (
            "kind = 'list'\n[[variation]]\nname = 'a'\nagainst = 'b'\n[[variation]]\nname = 'b'",
            r"a: against = 'b' is not a variation above it \(none\)",
        ),
        (
            "kind = 'list'\nbaseline = 'b'\n[[variation]]\nname = 'a'\n"
            "[[variation]]\nname = 'b'\nagainst = 'a'",
            "b is the baseline: remove its against",
        ),
        (
            "measure = [{ key = 'a', label = 'b', better = 'more' }]\n" + GRID,
            "not one of lower, higher",
        ),
        ("measure = [{ label = 'b' }]\n" + GRID, "lacks its key"),
        ("measure = { key = 'a' }\n" + GRID, "measure = .* must be a list"),
        ("title = 5\n" + GRID, "title = 5 must be a text"),
        ("notes = 'one'\n" + GRID, "notes = 'one' must be a list"),
        ("axis = 5\n" + GRID, "axis = 5 must be a text"),
        ("scale = 'cpu'\n" + GRID, "write .scale.cpu."),
        ("scale.cpu = 3\n" + GRID, "write .scale.cpu."),
        (GRID + "[scale.cpu]\nrecipe = 'x'", "scale.cpu: recipe = 'x' must be a table"),
        ("[grid", "cannot be read as TOML"),
    ],
)
def test_a_wrong_study_is_one_clear_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_study(write(tmp_path, text))


def test_a_missing_study_names_the_packaged_ones():
    with pytest.raises(InputError, match=r"give a \.toml file or one of .*ladder"):
        read_study("nothing")


def test_a_missing_base_is_said(tmp_path):
    path = write(tmp_path, GRID)
    path.write_text(path.read_text().replace("base.toml", "absent"))
    with pytest.raises(
        InputError, match="base = 'absent' is neither a file beside it nor a packaged recipe"
    ):
        read_study(path)
    path.write_text(path.read_text().replace("absent", "demo"))
    assert read_study(path).recipe(read_study(path).baseline, 0).teacher == "smollm2-135m"


def test_variations_need_distinct_names():
    with pytest.raises(InputError, match="different names"):
        variations("list", {"variation": [{"name": "a"}, {"name": "a"}]}, "", "here")


def test_a_setting_that_a_later_tinylm_adds_leaves_finished_runs_finished():
    recipe = Recipe(seed=3)
    hashed = recipe_hash(recipe)
    assert hashed == recipe_hash(Recipe(name="other", seed=3)) != recipe_hash(Recipe(seed=4))
    assert hashed == hash_of({"seed": 3}), "defaults stand nowhere in it"
    assert hashed != recipe_hash(Recipe(seed=3, train=TrainConfig(steps=7)))
