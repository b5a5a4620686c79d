"""Cutting every family, and a certificate that notices when something is wrong."""

import json
import shutil

import numpy as np
import pytest
from tokenizer_builders import byte_level_dir, corpus, sentencepiece_dir, wordpiece_dir

from tinylm.artifact import write_json
from tinylm.errors import InputError, WorkError
from tinylm.tokenizer import certificate, compress, rewrite
from tinylm.tokenizer.compress import compress as cut
from tinylm.tokenizer.count import count
from tinylm.tokenizer.source import read_source

FAMILIES = ("byte-level", "ignore-merges", "sentencepiece-bpe", "unigram", "wordpiece")
SIZES = {
    "byte-level": 512,
    "ignore-merges": 512,
    "sentencepiece-bpe": 448,
    "unigram": 160,
    "wordpiece": 256,
}


def make(family: str, folder):
    if family == "sentencepiece-bpe":
        return sentencepiece_dir(folder, "bpe")
    if family == "unigram":
        return sentencepiece_dir(folder, "unigram")
    if family == "wordpiece":
        return wordpiece_dir(folder)
    byte_level_dir(folder)
    if family == "ignore-merges":
        data = read_source(folder).data
        # A word that no merge reaches, which only `ignore_merges` can give: as a whole pre-token.
        vocab = data["model"]["vocab"] | {"Ġpeoplehouse": len(data["model"]["vocab"])}
        write_json(
            folder / "tokenizer.json",
            {**data, "model": {**data["model"], "vocab": vocab, "ignore_merges": True}},
        )
    return folder


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    root = tmp_path_factory.mktemp("parents")
    return {family: make(family, root / family) for family in FAMILIES}


@pytest.fixture(autouse=True)
def fewer_fuzz_strings(monkeypatch):
    monkeypatch.setattr(certificate, "FUZZ_STRINGS", 600)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes_its_certificate(parents, tmp_path, family):
    counts = count(parents[family], corpus())
    result = cut(
        parents[family],
        counts,
        out=tmp_path / "out",
        vocab_size=SIZES[family],
        multiple_of=32,
        texts=corpus(),
        held_out=corpus(seed=5),
    )
    child = read_source(tmp_path / "out")
    assert result["passed"] and result["unreachable"] == 0 and result["vocab_size"] == SIZES[family]
    assert json.loads((tmp_path / "out/certificate.json").read_text())["passed"]
    kept = np.load(tmp_path / "out/id_map.npy")
    assert len(kept) == len(child.strings) == SIZES[family]
    parent = read_source(parents[family])
    assert [parent.strings[int(old)] for old in kept] == list(child.strings.values())
    assert set(result["held_out"]) == {"part0", "part1", "all"}
    assert result["held_out"]["all"]["growth"] == pytest.approx(
        result["growth_predicted"], rel=0.05
    )
    assert (tmp_path / "out/tokenizer.model").exists() == (
        parents[family] / "tokenizer.model"
    ).exists()


def test_predicted_growth_is_what_counting_again_gives(parents, tmp_path):
    counts = count(parents["byte-level"], corpus())
    result = cut(parents["byte-level"], counts, out=tmp_path / "out", vocab_size=400, multiple_of=1)
    again = count(tmp_path / "out", corpus())
    assert again.tokens / counts.tokens == pytest.approx(result["growth_predicted"], rel=0.01)


@pytest.mark.parametrize("rule", [{"coverage": 0.95}, {"max_growth": 1.1}])
def test_size_by_rule(parents, tmp_path, rule):
    result = cut(
        parents["byte-level"],
        count(parents["byte-level"], corpus()),
        out=tmp_path / "out",
        multiple_of=8,
        **rule,
    )
    assert result["vocab_size"] % 8 == 0
    assert result["coverage"] >= rule.get("coverage", 0)
    assert result["growth_predicted"] <= rule.get("max_growth", 9)


def test_the_whole_vocabulary_is_the_same_tokenizer(parents, tmp_path):
    source = read_source(parents["byte-level"])
    size = len(source.strings)
    result = cut(
        source.folder, count(source.folder, corpus()), out=tmp_path / "out", vocab_size=size
    )
    assert result["vocab_size"] == size and result["growth_predicted"] == 1
    assert read_source(tmp_path / "out").strings == source.strings


def test_pre_tokenizer_name_and_parent_are_carried(parents, tmp_path):
    parent = shutil.copytree(parents["byte-level"], tmp_path / "parent")
    cut(parent, count(parent, corpus()), out=tmp_path / "unnamed", vocab_size=512)
    assert "pre_tokenizer" not in json.loads((tmp_path / "unnamed/tinylm.json").read_text())
    write_json(parent / "tinylm.json", {"pre_tokenizer": "gpt-2"})  # as a converted GGUF has it
    cut(parent, count(parent, corpus()), out=tmp_path / "out", vocab_size=512)
    facts = json.loads((tmp_path / "out/tinylm.json").read_text())
    assert facts["pre_tokenizer"] == "gpt-2" and facts["parent_vocab_size"] == len(
        read_source(parent).strings
    )


def test_stale_files_of_the_parent_do_not_come_along(parents, tmp_path):
    folder = byte_level_dir(tmp_path / "parent")
    for name in ("vocab.json", "merges.txt", "README.md"):
        (folder / name).write_text("{}")
    cut(folder, count(folder, corpus()), out=tmp_path / "out", vocab_size=512)
    assert not {"vocab.json", "merges.txt", "README.md"} & {
        path.name for path in (tmp_path / "out").iterdir()
    }


def without(monkeypatch, change):
    """Run ``change(data, mapping)`` on the tokenizer.json that is about to be written."""
    real = rewrite.cut

    def broken(source, mapping):
        data = real(source, mapping)
        change(data)
        return data

    monkeypatch.setattr(rewrite, "cut", broken)


def drop_a_merge(data):
    data["model"]["merges"] = data["model"]["merges"][:-1]


def swap_two_merges(data):
    data["model"]["merges"] = data["model"]["merges"][::-1]


def drop_a_byte(data):
    vocab = data["model"]["vocab"]
    vocab["zzzz"] = vocab.pop("~")


def lose_a_special_flag(data):
    data["added_tokens"][1]["special"] = False


def change_the_template(data):
    data["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {},
    }


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (drop_a_merge, "newly unreachable"),
        (swap_two_merges, "same ids"),
        (drop_a_byte, "lost text"),
        (lose_a_special_flag, "added and special"),
        (change_the_template, "post-processor"),
    ],
)
def test_a_broken_tokenizer_fails_its_certificate_and_leaves_nothing(
    parents, tmp_path, monkeypatch, change, check
):
    without(monkeypatch, change)
    with pytest.raises(WorkError, match=check):
        cut(
            parents["byte-level"],
            count(parents["byte-level"], corpus()),
            out=tmp_path / "out",
            vocab_size=512,
            texts=corpus(),
        )
    assert list(tmp_path.iterdir()) == []


def test_a_chat_template_that_renders_other_text_is_noticed(parents, tmp_path, monkeypatch):
    real = compress.write_tokenizer

    def other_template(source, kept, folder):
        real(source, kept, folder)
        (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")

    monkeypatch.setattr(compress, "write_tokenizer", other_template)
    with pytest.raises(WorkError, match="chat template"):
        cut(
            parents["byte-level"],
            count(parents["byte-level"], corpus()),
            out=tmp_path / "out",
            vocab_size=512,
        )


def test_wrong_input_is_one_line_and_writes_nothing(parents, tmp_path):
    folder = parents["byte-level"]
    counts = count(folder, corpus())
    for wanted, message in (
        ({"vocab_size": 200}, "too small"),
        ({"vocab_size": 10**6}, "larger than"),
        ({"vocab_size": 512, "coverage": 0.9}, "exactly one"),
        ({"vocab_size": 512, "multiple_of": 0}, "1 or more"),
    ):
        with pytest.raises(InputError, match=message):
            cut(folder, counts, out=tmp_path / "out", **wanted)
    with pytest.raises(InputError, match="count again"):
        cut(parents["wordpiece"], counts, out=tmp_path / "out", vocab_size=256)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_type_of_tokenizer_is_an_input_error(tmp_path):
    model = {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"}
    write_json(tmp_path / "tokenizer.json", {"version": "1.0", "added_tokens": [], "model": model})
    with pytest.raises(InputError, match="WordLevel"):
        read_source(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="no model"):
        read_source(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="no tokenizer"):
        read_source(tmp_path)
