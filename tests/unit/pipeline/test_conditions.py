"""What later stages need is asked before anything is trained."""

import dataclasses
import shutil

import pytest
from benchmark_files import write_all
from builders import byte_level_tokenizer, corpus_file, random_model
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from tinylm.corpus.pack import pack
from tinylm.corpus.read import documents
from tinylm.corpus.store import open_store
from tinylm.errors import InputError
from tinylm.evaluate.forward import text_context
from tinylm.models.teacher import load_config
from tinylm.pipeline import run as pipeline
from tinylm.pipeline.conditions import check_data, check_model, check_tasks
from tinylm.pipeline.recipe import EvaluateConfig, InheritConfig, Recipe
from tinylm.pipeline.score_stages import scored_length
from tinylm.train.config import TrainConfig

SHORT = Recipe(
    train=TrainConfig(sequence_length=32, batch_size=2, steps=2),
    inherit=InheritConfig(calibration_length=32),
    evaluate=EvaluateConfig(prompts=("the river",)),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "m"
    random_model(folder, "llama", byte_level_tokenizer(), max_position_embeddings=64)
    return folder


def test_what_fits_is_fine_and_the_score_takes_what_there_is(model):
    check_model(SHORT, model)
    assert text_context(load_config(model)) == 64


@pytest.mark.parametrize(("trained", "scored"), [(32, 32), (48, 48), (512, 64)])
def test_nothing_is_scored_at_positions_that_no_training_saw(model, trained, scored):
    train = dataclasses.replace(SHORT.train, sequence_length=trained)
    assert scored_length(dataclasses.replace(SHORT, train=train), model) == scored


def test_weights_that_are_cut_short_show_at_the_start(model, tmp_path):
    shutil.copytree(model, tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model\.safetensors is damaged"):
        check_model(SHORT, tmp_path / "m")


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        ("train", {"sequence_length": 128}, "train.sequence_length = 128, the teacher has 64"),
        ("inherit", {"calibration_length": 128}, "inherit.calibration_length = 128"),
        ("evaluate", {"prompts": ("river " * 80,)}, "evaluate.prompts"),
        ("evaluate", {"prompts": ("the river", "city " * 64)}, "evaluate.prompts"),
    ],
)
def test_what_does_not_fit_the_teacher(section, values, words, model):
    changed = dataclasses.replace(getattr(SHORT, section), **values)
    with pytest.raises(InputError, match=words):
        check_model(dataclasses.replace(SHORT, **{section: changed}), model)


@pytest.mark.parametrize("missing", ["an end", "a start"])
def test_a_tokenizer_that_cannot_be_packed_or_scored(missing, tmp_path):
    tokenizer = byte_level_tokenizer()
    random_model(tmp_path / "m", "llama", tokenizer)
    tokenizer.bos_token = tokenizer.eos_token = None
    if missing == "an end":
        state = tokenizer.backend_tokenizer.to_str().replace("<|endoftext|>", "<|none|>")
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(state))
    tokenizer.save_pretrained(tmp_path / "m")
    with pytest.raises(InputError, match="end-of-text" if missing == "an end" else "BOS"):
        check_model(SHORT, tmp_path / "m")


def test_an_empty_prompt_needs_a_start(tmp_path):
    tokenizer = byte_level_tokenizer()
    tokenizer.bos_token = None
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|im_end|>", special_tokens=[("<|im_end|>", 2)]
    )
    random_model(tmp_path / "m", "llama", tokenizer)
    recipe = dataclasses.replace(SHORT, evaluate=EvaluateConfig(prompts=("",)))
    with pytest.raises(InputError, match="empty prompt"):
        check_model(recipe, tmp_path / "m")


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        ("train", {"batch_size": 5000}, "less than one batch"),
        ("train", {"steps": 2, "rounds": 3}, "one for each of 3 rounds"),
        ("inherit", {"calibration_length": 100_000}, "calibration chunk"),
        ("train", {"distillation": "stored", "stored_top_k": 5000}, "stored_top_k"),
    ],
)
def test_too_little_text(section, values, words, model, tmp_path):
    corpus = corpus_file(tmp_path / "c.jsonl", 40)
    pack(documents([corpus]), byte_level_tokenizer(), tmp_path / "store" / "train")
    check_data(SHORT, tmp_path / "store", model)
    changed = dataclasses.replace(getattr(SHORT, section), **values)
    with pytest.raises(InputError, match=words):
        check_data(dataclasses.replace(SHORT, **{section: changed}), tmp_path / "store", model)


def test_no_stage_is_built_before_the_teacher_fits(model, tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(pipeline, "corpus_stage", lambda *_: built.append("corpus"))
    recipe = dataclasses.replace(
        SHORT,
        teacher=str(model),
        architecture=dataclasses.replace(SHORT.architecture, budget=1e5),
        train=dataclasses.replace(SHORT.train, sequence_length=65),
    )
    with pytest.raises(InputError, match="sequence_length"):
        pipeline.run(recipe, tmp_path / "out")
    assert not built


def test_tasks_that_do_not_fit_the_context_are_refused_before_the_training(model, tmp_path):
    write_all(tmp_path / "data")
    tasks = EvaluateConfig(tasks=("piqa",), task_data=str(tmp_path / "data"), prompts=())
    check_tasks(dataclasses.replace(SHORT, evaluate=tasks), model)  # 64 positions hold these
    long = dataclasses.replace(tasks, tasks=("mmlu",))  # five solved examples before each
    with pytest.raises(InputError, match=r"mmlu: .* do not fit the context of 64"):
        check_tasks(dataclasses.replace(SHORT, evaluate=long), model)


def test_text_read_more_than_four_times_is_said(model, tmp_path, capsys):
    pack(documents([corpus_file(tmp_path / "c.jsonl", 40)]), byte_level_tokenizer(), tmp_path / "s")
    (tmp_path / "store").mkdir()
    (tmp_path / "s").rename(tmp_path / "store" / "train")
    check_data(SHORT, tmp_path / "store", model)
    assert "passes over" not in capsys.readouterr().err
    steps = 5 * open_store(tmp_path / "store" / "train").num_tokens // 64
    longer = dataclasses.replace(SHORT, train=dataclasses.replace(SHORT.train, steps=steps))
    check_data(longer, tmp_path / "store", model)
    assert "5.0 passes over" in capsys.readouterr().err
