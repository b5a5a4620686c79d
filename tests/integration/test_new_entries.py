"""Adding a thing touches one place: a family its table, a criterion, a rule or a strategy its
dict."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from builders import corpus_file, tiny_teacher
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import tinylm
from tinylm.cli import main
from tinylm.models.families import FAMILIES


class NewcomerConfig(LlamaConfig):
    model_type = "newcomer"


class NewcomerForCausalLM(LlamaForCausalLM):
    config_class = NewcomerConfig


@pytest.fixture(scope="module", autouse=True)
def newcomer():
    """A family nobody knows: Llama under another name, known to `transformers` and to one table."""
    AutoConfig.register("newcomer", NewcomerConfig)
    AutoModelForCausalLM.register(NewcomerConfig, NewcomerForCausalLM)
    FAMILIES["newcomer"] = FAMILIES["llama"]
    yield
    del FAMILIES["newcomer"]


RECIPE = """
name = "newcomer"
teacher = "{teacher}"
[corpus]
paths = ["{corpus}"]
valid_fraction = 0.1
eval_bytes = 3000
[tokenizer]
vocab_size = 384
[architecture]
budget = 140e3
[inherit]
calibration_chunks = 16
calibration_length = 32
[train]
sequence_length = 32
batch_size = 4
steps = 6
checkpoint_every = 0
compile = false
"""


def test_a_new_family_goes_the_whole_way(tmp_path, capsys):
    teacher = tiny_teacher(tmp_path / "llama")
    config = json.loads((teacher / "config.json").read_text())
    config |= {"model_type": "newcomer", "architectures": ["NewcomerForCausalLM"]}
    (teacher / "config.json").write_text(json.dumps(config))
    corpus = corpus_file(tmp_path / "corpus.jsonl", count=300)
    recipe = tmp_path / "newcomer.toml"
    recipe.write_text(RECIPE.format(teacher=teacher, corpus=corpus))
    main(["run", str(recipe), "--out", str(tmp_path / "run")])
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert type(student) is NewcomerForCausalLM
    assert results["parameters"]["student"] == student.num_parameters()
    assert {"teacher", "student", "control"} <= set(results["bits_per_byte"])
    assert "newcomer" in (tmp_path / "run" / "report.md").read_text()
    words = f"inherit --teacher {teacher} --shape {shape_of(teacher, tmp_path)} --criterion l2"
    main([*words.split(), "--layers", "first-last", "--repair", "--out", str(tmp_path / "cut")])
    pytest.importorskip("xllamacpp")
    main(
        ["export", "--model", str(tmp_path / "run" / "model"), "--out", str(tmp_path / "m.gguf")]
    )  # loads in llama.cpp and compares the logits
    assert (tmp_path / "m.gguf").stat().st_size > 0


def shape_of(teacher: Path, folder: Path) -> Path:
    from tinylm.models.shape import Shape, write_shape

    shape = Shape.from_config(AutoConfig.from_pretrained(teacher)).to_dict()
    write_shape(folder / "shape.toml", Shape(**shape | {"num_layers": 3, "hidden_size": 48}))
    return folder / "shape.toml"


ENTRIES = {  # file -> the last entry of its table, and what is put before it
    "inherit/criteria.py": (
        '    "learned": UnitCriterion',
        '    "largest": UnitCriterion(from_weights=_l2),\n',
    ),
    "inherit/layers.py": (
        '    "learned": LayerScore',
        '    "outermost": LayerScore(from_position=_first_last),\n',
    ),
}


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """A copy of the package with one more entry in each table."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(Path(tinylm.__file__).parent, folder / "tinylm")
    for file, (before, line) in ENTRIES.items():
        text = (folder / "tinylm" / file).read_text()
        assert text.count(before) == 1, file
        (folder / "tinylm" / file).write_text(text.replace(before, line + before))
    return folder


def run(package: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(package), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_new_entry_is_in_the_help(package):
    shown = run(package, "-m", "tinylm", "inherit", "--help")
    assert "largest" in shown and "outermost" in shown


def test_a_new_entry_is_in_recipes_studies_and_runs(package, teacher_dir, tmp_path):
    (tmp_path / "base.toml").write_text("[architecture]\nbudget = 1e6\n")
    (tmp_path / "study.toml").write_text(
        'base = "base.toml"\n[grid]\ninherit.criterion = ["l2", "largest"]\n'
        'inherit.layers = ["outermost"]\n'
    )
    code = """
import sys, torch
from tinylm.errors import InputError
from tinylm.inherit.score import score
from tinylm.models.teacher import load_model
from tinylm.pipeline.recipe import read_recipe
from tinylm.study.spec import read_study
study = read_study(sys.argv[1] + "/study.toml")
assert [run.recipe.inherit.criterion for run in study.runs()][:2] == ["l2", "largest"], study.runs
teacher = load_model(sys.argv[2])
found, expected = score(teacher, None, "largest", "outermost"), score(teacher, None, "l2", "first-last")
assert torch.equal(found.ffn, expected.ffn) and torch.equal(found.layers, expected.layers)
try:
    open(sys.argv[1] + "/wrong.toml", "w").write("[architecture]\\nbudget = 1e6\\n[inherit]\\ncriterion = 'largst'\\n")
    read_recipe(sys.argv[1] + "/wrong.toml")
except InputError as error:
    assert "largest" in str(error), error
"""  # noqa: E501
    run(package, "-c", code, str(tmp_path), str(teacher_dir))


def test_no_table_is_left_without_a_tiny_run():
    """Every key of every table runs somewhere in the tests; here those of the third formula."""
    from tinylm.inherit.criteria import CRITERIA
    from tinylm.inherit.inheritance import inherit
    from tinylm.inherit.layers import LAYER_RULES
    from tinylm.inherit.repair import REPAIRS
    from tinylm.models.shape import Shape

    torch.manual_seed(0)
    teacher = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8, pad_token_id=0,
        )
    ).eval()  # fmt: skip
    target = Shape.from_config(teacher.config)
    target = Shape(**target.to_dict() | {"num_layers": 2, "hidden_size": 24})
    ids = torch.randint(0, 64, (16, 16))
    choices = [(criterion, "first-last", ()) for criterion in CRITERIA]
    choices += [("l2", layers, ()) for layers in LAYER_RULES]
    choices += [("l2", "first-last", (repair,)) for repair in REPAIRS]
    for criterion, layers, repair in choices:
        student = inherit(teacher, target, ids, criterion, layers, repair=repair).model
        assert Shape.from_config(student.config) == target


def test_every_export_format_writes(teacher_dir, tmp_path):
    from tinylm.errors import InputError
    from tinylm.export.formats import FORMATS

    for name in FORMATS:
        try:
            tinylm.export(teacher_dir, tmp_path / name, name)
        except InputError as error:  # an extra that is not installed
            assert "pip install" in str(error)
        else:
            assert (tmp_path / name).exists()
