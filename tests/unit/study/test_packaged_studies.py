"""The studies that come with tinylm, at every scale: valid recipes, and fair comparisons on
paper."""

import tomllib

import pytest
from transformers import LlamaConfig

from tinylm.models.pangu import pangu_config
from tinylm.models.parameters import parameters
from tinylm.models.shape import Shape
from tinylm.study.spec import SCALES, packaged_studies, read_study

# What the teachers of the bases are; a student that inherits must fit inside.
TEACHERS = {
    "smollm2-135m": Shape(30, 576, 1536, 9, 3, 64, 49152, True),
    "runs/nano-teacher/model": Shape(12, 96, 240, 4, 4, 24, 2048, True),  # of nano-teacher
    "allenai/OLMo-2-1124-7B": Shape(32, 4096, 11008, 32, 32, 128, 100278, False),
    "deepseek-ai/deepseek-llm-7b-base": Shape(30, 4096, 11008, 32, 32, 128, 102400, False),
}
# rows that show what a second round itself brings, or that read the same text in fewer tokens
WITHOUT = {
    **{("resampling", scale): ("once",) for scale in SCALES},
    ("ladder", "nano"): ("baseline", "+ a second round, uniform", "+ drawn by exp(loss)"),
}
EVERY = [
    (name, scale)
    for name, path in packaged_studies().items()
    for scale in SCALES
    if scale != "nano" or "nano" in tomllib.loads(path.read_text()).get("scale", {})
]


def students(name, scale):
    """(variation, recipe, shape) of each variation at its first seed."""
    study = read_study(name, scale)
    for variation in study.variations:
        recipe = study.recipe(variation, study.seeds[0])
        teacher = TEACHERS[recipe.teacher]
        vocabulary = (
            recipe.tokenizer.vocab_size if recipe.tokenizer.vocab_size > 0 else teacher.vocab_size
        )
        yield (
            variation,
            recipe,
            Shape.from_dict({"vocab_size": vocabulary, **recipe.architecture.shape}),
        )


def test_all_the_studies_of_the_paper_are_there():
    assert set(packaged_studies()) >= {
        *(
            "ladder",
            "vocabulary",
            "depth",
            "expansion",
            "inheritance",
            "layers",
            "batch-size",
            "sampling-rate",
        ),
        *(
            "rounds",
            "strategies",
            "learned-masks",
            "initialisation",
            "block",
            "cut",
            "distillation",
            "resampling",
            "control",
            "demo-best",
        ),
    }


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_every_recipe_is_valid_and_the_claim_is_stated(name, scale):
    study = read_study(name, scale)
    assert study.claim and study.title and study.question
    assert len(study.seeds) >= 3 and study.noise_seeds, "every study measures its noise floor"
    assert not any(run.recipe.has_control() for run in study.runs())


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_variations_have_equal_parameters_and_equal_tokens(name, scale):
    tokens = set()
    for variation, recipe, shape in students(name, scale):
        config = (
            pangu_config(shape.to_config(LlamaConfig()))
            if recipe.architecture.block == "pangu-pi"
            else None
        )
        assert parameters(shape, config) == pytest.approx(recipe.architecture.budget, rel=0.011), (
            variation.name
        )
        if variation.name not in WITHOUT.get((name, scale), ()):
            tokens.add(recipe.train.steps * recipe.train.tokens_per_batch)
    assert max(tokens) <= 1.02 * min(tokens)


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_what_inherits_fits_inside_its_teacher(name, scale):
    for variation, recipe, shape in students(name, scale):
        teacher = TEACHERS[recipe.teacher]
        assert shape.vocab_size <= teacher.vocab_size
        if recipe.inherit.init == "inherit":
            for field in (
                "num_layers",
                "hidden_size",
                "intermediate_size",
                "num_key_value_heads",
                "heads_per_group",
            ):
                assert getattr(shape, field) <= getattr(teacher, field), (variation.name, field)
            assert shape.head_dim == teacher.head_dim
            assert shape.tie_word_embeddings == teacher.tie_word_embeddings


def test_the_ladder_climbs_in_the_papers_order():
    study = read_study("ladder")
    recipes = [study.recipe(variation, 0) for variation in study.variations]
    assert [r.tokenizer.vocab_size for r in recipes] == [-1, 16384, 16384, 16384, 16384]
    assert [r.inherit.init for r in recipes] == ["random", "random", "random", "inherit", "inherit"]
    assert [r.train.rounds for r in recipes] == [1, 1, 1, 1, 2]
    depths = [r.architecture.shape["num_layers"] for r in recipes]
    assert depths[0] == depths[1] < depths[2] == depths[3] == depths[4]


def test_the_small_ladder_has_a_control_for_each_part_of_a_second_round():
    study = read_study("ladder", "nano")
    recipes = {v.name: study.recipe(v, 0) for v in study.variations}
    once, uniform, drawn = (
        recipes[name]
        for name in ("+ inheritance", "+ a second round, uniform", "+ drawn by exp(loss)")
    )
    assert {v.name: v.reference for v in study.variations[4:]} == {
        "two rounds in the same steps": "+ inheritance",
        "+ a second round, uniform": "+ inheritance",
        "+ drawn by exp(loss)": "+ a second round, uniform",
    }
    assert recipes["two rounds in the same steps"].train.steps == once.train.steps
    assert uniform.train.steps == drawn.train.steps == 1.5 * once.train.steps
    assert (uniform.train.strategy, drawn.train.strategy) == ("uniform", "exp-loss")
    for recipe in recipes.values():
        assert recipe.train.steps * recipe.train.tokens_per_batch >= 20 * 1.9e5
