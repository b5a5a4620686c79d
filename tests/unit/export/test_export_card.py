"""The model card says what was measured, and leaves out what was not."""

import json

import pytest
import yaml
from builders import tiny_teacher

from tinylm.cli import main
from tinylm.export.card import model_card

PIQA = {"metric": "acc", "n": 150, "chance": 0.5}
RESULTS = {
    "recipe": {
        "name": "demo",
        "corpus": {"paths": ["embedded"], "languages": ["sl"], "license": "CC BY 4.0"},
        "train": {"sequence_length": 512},
    },
    "teacher": {"spec": "smollm2-135m", "name": "SmolLM2: 135M", "license": "apache-2.0"},
    "parameters": {"teacher": 134_515_008, "student": 39_990_000},
    "bits_per_byte": {"control": 2.5, "student": 1.75, "teacher": 1.0},
    "bits_per_byte_stderr": {"teacher": 0.01, "student": 0.02, "control": 0.03},
    "corpus": {
        "train": {"documents": 10, "bytes": 5_000_000},
        "valid": {"documents": 1, "bytes": 1000},
    },
    "tokens_trained": 1_228_800,
    "seconds": {"train": 300.0, "score": 20.0},
    "tokenizer": {"growth_predicted": 1.044},
    "tasks": {
        "models": [
            {
                "model": "teacher",
                "tasks": {"piqa": {"score": 0.64, "stderr": 0.039, **PIQA}},
            },
            {
                "model": "student",
                "tasks": {"piqa": {"score": 0.55, "stderr": 0.04, **PIQA}},
            },
        ]
    },
}
EXPORT = {
    "file": "/somewhere/s-Q8_0.gguf",
    "bytes": 42_500_000,
    "bits_per_weight": 8.5,
    "check": {"bits_per_byte": {"transformers": 2.0, "llama.cpp": 2.01}},
}
ROW = {
    "model": "student",
    "format": "Q8_0",
    "bytes": 42_500_000,
    "load_s": 0.1,
    "prefill_tokens_per_s": 900.4,
    "decode_tokens_per_s": 120.25,
    "peak_mb": 61.2,
}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return tiny_teacher(tmp_path_factory.mktemp("card") / "run" / "model")


def test_every_fact_is_told(model_dir):
    card = model_card(model_dir, RESULTS, exports=[EXPORT], device=[ROW])
    header = yaml.safe_load(card.split("---")[1])
    assert (
        header["license"] == "apache-2.0"
        and header["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
        and header["language"] == ["sl"]
    )
    assert card.index("| teacher | 1.0000 ± 0.0100 |") < card.index(
        "| this model | 1.7500 ± 0.0200 |"
    )
    for told in (
        "# run\n",
        "40.0M parameters",
        "(134.5M)",
        "| piqa | 0.640 ± 0.039 | 0.550 ± 0.040 | 0.500 | 150 |",
        "| s-Q8_0.gguf | 42.5 | 8.50 | +0.50 % in llama.cpp |",
        "| student | Q8_0 | 42.5 | 0.10 | 900 | 120.2 | 61 |",
        "10 documents, 5.00 MB",
        "| licence of the text | CC BY 4.0 |",
        "| tokens trained | 1,228,800 |",
        "x1.044 longer",
        "sequences of 512 tokens",
        "Licence: apache-2.0",
        "llama-cli -m s-Q8_0.gguf",
    ):
        assert told in card, told
    assert "/somewhere" not in card


def test_without_facts_nothing_is_invented(model_dir):
    card = model_card(model_dir)
    assert yaml.safe_load(card.split("---")[1])["license"] == "unknown"
    assert "The licence is unknown" in card
    for absent in (
        "Bits per byte",
        "## Tasks",
        "Files for devices",
        "Speed",
        "How it was made",
        "None",
    ):
        assert absent not in card


def test_command(model_dir, tmp_path, capsys):
    files = []
    for name, value in (
        ("results", RESULTS),
        ("export", EXPORT),
        ("device", {"rows": [ROW], "ratio": 3.0}),
    ):
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(value))
    out = tmp_path / "README.md"
    main(
        [
            "export",
            "--model",
            str(model_dir),
            "--format",
            "card",
            "--out",
            str(out),
            "--facts",
            *map(str, files),
        ]
    )
    assert out.read_text() == model_card(model_dir, RESULTS, exports=[EXPORT], device=[ROW])
    files[0].write_text("{}")
    with pytest.raises(SystemExit) as stop:
        main(["export", "--model", str(model_dir), "--format", "card", "--facts", str(files[0])])
    assert stop.value.code == 2 and "--facts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("/models/qwen", None),
        ("models/a folder", None),
        ("teacher.gguf", None),
        ("", None),
    ],
)
def test_the_base_model_is_an_id_of_the_hub_or_is_left_out(spec, expected, model_dir):
    """By the library that the hub's own client checks cards with."""
    from huggingface_hub import ModelCard

    card = model_card(model_dir, RESULTS | {"teacher": {"spec": spec, "name": "Some Name"}})
    data = ModelCard(card).data
    assert data.base_model == expected
    assert data.pipeline_tag == "text-generation" and data.library_name == "transformers"
    assert 'from_pretrained("' not in card


def test_the_hub_reads_the_scores_and_the_data_sets(model_dir):
    from huggingface_hub import ModelCard

    paths = ["hub:some/texts@en:train", "hub:some/texts:validation", "more.jsonl"]
    data = ModelCard(model_card(model_dir, RESULTS | {"recipe": {"corpus": {"paths": paths}}})).data
    assert data.model_name == "run" and data.datasets == ["some/texts"]
    found = {(one.dataset_name, one.metric_type): one.metric_value for one in data.eval_results}
    assert found == {
        ("held-out part of the corpus", "bits_per_byte"): 1.75,
        ("piqa", "acc"): 0.55,
    }
    plain = ModelCard(model_card(model_dir)).data
    assert plain.eval_results is None and plain.datasets is None


def test_a_student_from_random_weights_has_no_base_model(model_dir):
    recipe = RESULTS["recipe"] | {"inherit": {"init": "random"}}
    card = model_card(model_dir, RESULTS | {"recipe": recipe})
    header = yaml.safe_load(card.split("---")[1])
    assert not {"base_model", "base_model_relation"} & header.keys()
    assert "pruned" not in header["tags"]
    assert "from random weights, with the tokenizer of SmolLM2: 135M" in card
    assert "as its tokenizer comes from SmolLM2: 135M" in card and "weights come" not in card


def test_no_folder_of_this_machine_is_published(model_dir):
    corpus = RESULTS["recipe"]["corpus"] | {"paths": ["/home/me/texts", "/data/more.jsonl"]}
    results = RESULTS | {
        "recipe": RESULTS["recipe"] | {"teacher": "/home/me/teacher", "corpus": corpus},
        "teacher": {"spec": "/home/me/teacher"},
    }
    card = model_card(model_dir, results)
    assert "/home" not in card and "/data" not in card
    assert "made from teacher" in card and "texts, more.jsonl" in card


def test_a_base_model_says_so_and_one_that_talks_is_asked_by_messages(tmp_path):
    folder = tiny_teacher(tmp_path / "tiny")
    card = model_card(folder, RESULTS)
    assert "base model:" not in card and "apply_chat_template" in card and "-cnv\n" in card
    (folder / "chat_template.jinja").unlink()
    card = model_card(folder, RESULTS)
    assert "This is a base model" in card and "-no-cnv" in card
    (folder / "tokenizer.json").unlink()
    assert "This is a base model" in model_card(folder, RESULTS)
