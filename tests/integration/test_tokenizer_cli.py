"""The tokenizer commands as a user types them: count -> coverage -> compress -> remap, and wrong
input."""

import json
import shutil

import numpy as np
import pytest
from builders import corpus_file, tiny_teacher

from tinylm import cli
from tinylm.tokenizer import certificate, model_checks


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    tiny_teacher(folder / "teacher", vocab_size=600, num_hidden_layers=2)
    for name, seed in (("a", 0), ("b", 1), ("c", 2)):
        corpus_file(folder / f"{name}.jsonl", count=60, seed=seed)
        run(
            "tokenizer",
            "count",
            "--tokenizer",
            folder / "teacher",
            "--corpus",
            folder / f"{name}.jsonl",
            "--out",
            folder / f"{name}.npz",
        )
    return folder


@pytest.fixture(autouse=True)
def fewer_fuzz_strings(monkeypatch):
    monkeypatch.setattr(certificate, "FUZZ_STRINGS", 200)


def run(*words) -> None:
    cli.main([str(word) for word in words])


def refused(capsys, *words) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stopped:
        run(*words)
    return stopped.value.code, capsys.readouterr().err


def test_compress_cuts_tokenizer_and_model_and_says_so(work, tmp_path, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run(
        "tokenizer",
        "compress",
        "--model",
        work / "teacher",
        "--counts",
        work / "a.npz",
        "--vocab-size",
        400,
        "--held-out",
        work / "b.jsonl",
        "--out",
        tmp_path / "out",
    )
    shown = capsys.readouterr().out
    assert (
        "newly unreachable tokens" in shown
        and "held out, b.jsonl" in shown
        and "600 -> 512 tokens" in shown
    )
    found = json.loads((tmp_path / "out/certificate.json").read_text())
    assert found["passed"] and found["vocab_size"] == 512 and found["unreachable"] == 0
    # found by the names in the counts
    assert any("words of the corpus" in one["check"] for one in found["lines"])
    model, tokenizer = (
        kind.from_pretrained(tmp_path / "out") for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    assert (
        model.config.vocab_size
        == len(tokenizer)
        == len(np.load(tmp_path / "out/id_map.npy"))
        == 512
    )


def test_coverage_writes_the_matrix_and_its_figure(work, tmp_path, capsys):
    run(
        "tokenizer",
        "coverage",
        "--counts",
        work / "a.npz",
        work / "b.npz",
        work / "c.npz",
        "--vocab-size",
        320,
        400,
        "--hidden-size",
        64,
        "--parameters",
        2e5,
        "--out",
        tmp_path / "out",
    )
    assert "recommended for this budget" in capsys.readouterr().out
    found = json.loads((tmp_path / "out/coverage.json").read_text())
    assert found["measured_on"] == ["a", "b", "c"] and found["chosen_on"] == ["a", "b", "c", "all"]
    for matrix in found["matrices"]:
        coverage, growth = np.array(matrix["coverage"]), np.array(matrix["growth"])
        assert coverage.shape == growth.shape == (4, 3)
        assert (coverage.max(axis=0) <= 1).all() and (growth >= 1).all()
        # a corpus' own vocabulary suits it best
        assert (growth[:3].argmin(axis=0) == np.arange(3)).all()
    assert (tmp_path / "out/coverage.svg").read_text().startswith("<svg")


def test_coverage_of_one_corpus_is_a_curve(work, capsys):
    run("tokenizer", "coverage", "--counts", work / "a.npz", "--vocab-size", 320, 400)
    assert "tokens/byte" in capsys.readouterr().out


def test_remap_gives_a_store_that_opens(work, tmp_path):
    from tinylm.corpus.store import open_store

    run(
        "corpus",
        "pack",
        "--tokenizer",
        work / "teacher",
        "--corpus",
        work / "a.jsonl",
        "--out",
        tmp_path / "store",
    )
    run(
        "tokenizer",
        "compress",
        "--model",
        work / "teacher",
        "--counts",
        work / "a.npz",
        "--max-growth",
        1.05,
        "--out",
        tmp_path / "compact",
    )
    run(
        "tokenizer",
        "remap",
        "--data",
        tmp_path / "store",
        "--compact",
        tmp_path / "compact",
        "--out",
        tmp_path / "new",
    )
    old, new = open_store(tmp_path / "store"), open_store(tmp_path / "new")
    assert (
        old.num_tokens <= new.num_tokens <= 1.05 * old.num_tokens
        and new.vocab_size < old.vocab_size
    )


def test_wrong_input_is_one_line_exit_2_and_nothing_written(work, tmp_path, capsys):
    start = ("tokenizer", "compress", "--model", work / "teacher", "--out", tmp_path / "out")
    tiny_teacher(tmp_path / "other", vocab_size=450, num_hidden_layers=1)
    for words, message in (
        ((*start, "--counts", work / "a.npz", "--vocab-size", 100), "too small"),
        ((*start, "--counts", work / "a.npz"), "exactly one"),
        ((*start, "--counts", work / "none.npz", "--vocab-size", 400), "do not exist"),
        (
            (
                "tokenizer",
                "compress",
                "--model",
                tmp_path / "other",
                "--out",
                tmp_path / "out",
                "--counts",
                work / "a.npz",
                "--vocab-size",
                400,
            ),
            "count again",
        ),
        (("tokenizer", "coverage", "--counts", work / "a.npz", "--vocab-size", 5), "not possible"),
        (
            (
                "tokenizer",
                "count",
                "--tokenizer",
                work / "teacher",
                "--corpus",
                work / "no.txt",
                "--out",
                tmp_path / "c",
            ),
            "does not exist",
        ),
    ):
        code, error = refused(capsys, *words)
        assert code == 2 and message in error and len(error.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_store_of_another_tokenizer_is_not_remapped(work, tmp_path, capsys):
    tiny_teacher(tmp_path / "other", vocab_size=500, num_hidden_layers=2)
    run(
        "corpus",
        "pack",
        "--tokenizer",
        tmp_path / "other",
        "--corpus",
        work / "a.jsonl",
        "--out",
        tmp_path / "store",
    )
    run(
        "tokenizer",
        "compress",
        "--model",
        work / "teacher",
        "--counts",
        work / "a.npz",
        "--vocab-size",
        400,
        "--out",
        tmp_path / "compact",
    )
    capsys.readouterr()
    code, error = refused(
        capsys,
        "tokenizer",
        "remap",
        "--data",
        tmp_path / "store",
        "--compact",
        tmp_path / "compact",
        "--out",
        tmp_path / "new",
    )
    assert code == 2 and "another tokenizer" in error and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-growth", "nan"], "max growth nan must be 1 or more"),
        (["--vocab-size", "100"], "too small"),
        (["--vocab-size", "384", "--coverage", "0.9"], "exactly one of"),
    ],
)
def test_a_size_that_cannot_be_is_one_line(work, tmp_path, capsys, options, message):
    code, error = refused(
        capsys,
        "tokenizer",
        "compress",
        "--model",
        work / "teacher",
        "--counts",
        work / "a.npz",
        "--out",
        tmp_path / "out",
        *options,
    )
    assert code == 2 and message in error and not (tmp_path / "out").exists()


def test_a_pickle_checkpoint_is_refused_not_ignored(work, tmp_path, capsys):
    folder = shutil.copytree(work / "teacher", tmp_path / "teacher")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    code, error = refused(
        capsys,
        "tokenizer",
        "compress",
        "--model",
        folder,
        "--counts",
        work / "a.npz",
        "--vocab-size",
        400,
        "--out",
        tmp_path / "out",
    )
    assert code == 2 and "pickle" in error and not (tmp_path / "out").exists()


def test_coverage_with_a_size_needs_the_width(work, capsys):
    assert (
        "--hidden-size"
        in refused(
            capsys, "tokenizer", "coverage", "--counts", work / "a.npz", "--parameters", 2e5
        )[1]
    )
    words = (
        "tokenizer",
        "coverage",
        "--counts",
        work / "a.npz",
        "--hidden-size",
        64,
        "--parameters",
    )
    assert refused(capsys, *words, "nan")[0] == 2


def test_ids_of_a_config_are_spelled():
    assert model_checks.spelled_ids(
        {"a": {"eos_token_id": [1, 2]}, "pad_token_id": None}, {1: "x", 2: "y"}
    ) == {
        "a.eos_token_id": ["x", "y"],
        "pad_token_id": [],
    }


def test_what_each_size_costs_the_model(work, tmp_path, capsys):
    words = ["tokenizer", "coverage", "--counts", work / "a.npz", "--vocab-size", 300, 400, 600]
    run(*words, "--measure", work / "b.jsonl", "--out", tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "coverage.json").read_text())["measured"]
    assert [row["vocab_size"] for row in rows] == [600, 400, 300]
    assert rows[0]["cost"] == 0 and rows[0]["cost_low"] == rows[0]["cost_high"] == 0
    for row in rows[1:]:
        assert row["cost"] == pytest.approx(row["bits_per_byte"] - rows[0]["bits_per_byte"])
        assert row["cost_low"] <= row["cost"] <= row["cost_high"]
    assert "the teacher with each vocabulary" in capsys.readouterr().out
    code, said = refused(capsys, *words[:3], work / "a.npz", work / "c.npz", "--measure", "x")
    assert code == 2 and "give one --counts file" in said
    shutil.copytree(work / "teacher", tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").unlink()
    measured = ["--measure", work / "b.jsonl", "--tokenizer", tmp_path / "bare"]
    code, said = refused(capsys, *words, *measured)
    assert code == 2 and "has no weights: give --tokenizer MODEL" in said
