"""The report from made-up results: everything in it is shown, and nothing breaks when optional
parts are missing."""

import copy
import re
from html.parser import HTMLParser

import pytest

from tinylm.pipeline.report import write_report

PARTS = {"embedding": 4_000_000, "head": 0, "attention": 3_000_000, "ffn": 5_000_000, "norms": 1000}
SHAPE = {"num_layers": 4, "hidden_size": 64, "vocab_size": 384}
PIQA = {"score": 0.6, "stderr": None, "n": 9, "chance": 0.5}
RESULTS = {
    "name": "made-<up>",
    "bits_per_byte": {
        "teacher": 1.0,
        "compact": 1.1,
        "inherited": 2.0,
        "student": 1.4,
        "control": 2.1,
    },
    "bits_per_byte_stderr": {
        "teacher": 0.1,
        "compact": 0.1,
        "inherited": None,
        "student": 0.1,
        "control": 0.1,
    },
    "gain_over_control": {"tokens": 4096, "student": 1.4, "control": 2.1, "percent": 33.333},
    "parameters": {"teacher": 30_001_000, "compact": 20_000_000, "student": 12_001_000},
    "parts": {"teacher": {**PARTS, "ffn": 23_000_000}, "compact": PARTS, "student": PARTS},
    "shapes": {"teacher": SHAPE, "compact": SHAPE, "student": SHAPE},
    "seconds": {"teacher": 1.0, "train": 59.0},
    "tokens_trained": 4096,
    "tokens_at": {"inherited": 0, "student": 4096, "control": 4096},
    "tokenizer": {
        "parent_vocab_size": 500,
        "vocab_size": 384,
        "coverage": 0.95,
        "growth_predicted": 1.05,
        "unreachable": 0,
        "lines": [{}, {}],
        "held_out": {"all": {"growth": 1.06}},
        "curve": [
            {"vocab_size": k, "coverage": k / 512, "growth": 2 - k / 512} for k in (128, 256, 512)
        ],
    },
    "inherit": {"layer_scores": [3.0, 0.1, 0.2, 2.0], "kept_layers": [0, 3]},
    "losses": {"student": [[1024, 5.0], [2048, 4.0]], "control": [[1024, 6.0], [2048, 5.5]]},
    "round_starts": [0, 1024],
    "tasks": {"models": [{"model": "teacher", "tasks": {"piqa": PIQA}}]},
    "samples": [{"model": "student", "prompt": "The", "text": "The <b>river</b>"}],
    "machine": {"short": "2 CPU cores"},
    "versions": {"tinylm": "0.1.0"},
    "artifacts": {"train": "train-1"},
    "recipe_toml": 'name = "made-up"\n',
    "recipe_path": "demo",
}


class Balanced(HTMLParser):
    """Fails on a tag that is closed in the wrong order."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "link", "br", "img", "use", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("meta", "link", "br", "img", "use", "path"):
            assert self.open.pop() == tag


def test_page_is_whole_escaped_and_self_contained(tmp_path):
    write_report(RESULTS, tmp_path)
    page = (tmp_path / "report.html").read_text()
    parser = Balanced()
    parser.feed(page)
    assert parser.open == [] and page.count("<svg") == 5
    assert "made-&lt;up&gt;" in page and "<b>river" not in page
    assert not re.search(r'(src|href)="(?!data:|#)', page) and "<script" not in page
    for words in ("<td>60.0</td>", "33.3 %", "6.00 % longer", "2 checks", "1.4000"):
        assert words in page
    for name in re.findall(r"\((figures/\w+\.svg)\)", (tmp_path / "report.md").read_text()):
        assert (tmp_path / name).stat().st_size > 1000


def test_forgetting_and_held_out_losses_are_drawn_when_they_were_measured(tmp_path):
    round_one = {"round": 0, "loss_at_end": [4.0, 3.5, 3.0], "loss_when_seen": [5.0, 4.0, 3.1]}
    measured = {"forgetting": [round_one], "validation": {"student": [[1024, 5.1], [2048, 4.2]]}}
    write_report(RESULTS | measured, tmp_path)
    assert (tmp_path / "report.html").read_text().count("<svg") == 6
    assert (tmp_path / "figures" / "forgetting.svg").exists()
    write_report(RESULTS, tmp_path / "without")
    assert (tmp_path / "figures" / "loss.svg").read_text() != (
        tmp_path / "without" / "figures" / "loss.svg"
    ).read_text()


@pytest.mark.parametrize("absent", ["control", "tasks", "layers", "curve"])
def test_optional_parts_may_be_missing(tmp_path, absent):
    results = copy.deepcopy(RESULTS)
    if absent == "control":
        for key in ("bits_per_byte", "bits_per_byte_stderr", "tokens_at", "losses"):
            results[key].pop("control")
        results["gain_over_control"] = None
    elif absent == "tasks":
        results["tasks"] = {}
    elif absent == "layers":
        results["inherit"] = {}
    else:
        results["tokenizer"] = {"vocab_size": 500, "curve": []}
    write_report(results, tmp_path)
    assert (tmp_path / "report.html").read_text().count("<svg") == (
        4 if absent in ("layers", "curve") else 5
    )


def test_a_loss_to_the_control_is_shouted(tmp_path):
    results = copy.deepcopy(RESULTS)
    results["gain_over_control"]["percent"] = -5.0
    write_report(results, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "HIGHER than the same shape" in page and "-5.0 %" not in page


def test_what_a_pangu_pi_block_adds_is_drawn_and_counted(tmp_path):
    results = copy.deepcopy(RESULTS)
    results["parts"]["student"] |= {"shortcut": 2_000_000, "series": 1000}
    results["inherit"] = {}
    write_report(results, tmp_path)
    with_block = (tmp_path / "figures" / "parts.svg").read_text()
    write_report(RESULTS, tmp_path / "plain")
    assert with_block != (tmp_path / "plain" / "figures" / "parts.svg").read_text()
    assert "random weights, before training" in (tmp_path / "report.md").read_text()
