"""What the documents say of a study is what its results.json says."""

import json
import re
from pathlib import Path

import pytest

from tinylm.study import gate

DOCS = Path(__file__).parents[2] / "docs"
STUDIES = {
    path.parent.name: results
    for path in sorted((DOCS / "results").glob("*/results.json"))
    if "rungs" in (results := json.loads(path.read_text("utf-8")))
}
ROWS = {
    match[1]: line
    for line in (DOCS / "results" / "README.md").read_text("utf-8").splitlines()
    if (match := re.match(r"\| \[`([\w-]+)`\]", line))
}


def test_every_study_has_its_row():
    assert set(ROWS) == set(STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_a_row_says_what_the_gate_lets_pass(name):
    results = STUDIES[name]
    judged = json.loads(json.dumps(results["rungs"]))
    assert all(rung["floors"] for rung in judged)
    gate.apply(judged)
    assert [rung["verdict"] for rung in judged] == [rung["verdict"] for rung in results["rungs"]]
    assert results["verdicts"] == {r["name"]: r["verdict"] for r in judged if r["reference"]}
    verdict = ROWS[name].split("|")[-2].strip()
    withdrawn = [word == gate.BELOW for word in results["verdicts"].values()]
    assert verdict.startswith("no verdict") == all(withdrawn)
    assert ("no verdict" in verdict) == any(withdrawn)


@pytest.mark.parametrize("name", STUDIES)
def test_a_row_has_the_means(name):
    for rung in STUDIES[name]["rungs"]:
        assert f"{rung['mean']:.3f}" in ROWS[name], rung["name"]


def test_the_ladder_of_the_overview_is_the_studys():
    page = (DOCS / "measured.md").read_text("utf-8")
    for rung in STUDIES["ladder"]["rungs"]:
        (row,) = re.findall(rf"^\| {re.escape(rung['name'])} \|.*$", page, re.MULTILINE)
        _, _, mean, _, verdict, _ = (cell.strip(" *") for cell in row.split("|"))
        assert mean == f"{rung['mean']:.3f}"
        word = "" if rung["reference"] is None else rung["verdict"].partition(":")[0]
        assert verdict == word


def test_the_paper_page_claims_no_more_than_the_gate_lets_pass():
    page = (DOCS / "paper.md").read_text("utf-8")
    named = re.findall(r"^\|.*\(results/([\w-]+)/report\.md\).*\| ([^|]+) \|$", page, re.MULTILINE)
    assert {name for name, _ in named} == set(STUDIES)
    for name, verdict in named:
        withdrawn = [word == gate.BELOW for word in STUDIES[name]["verdicts"].values()]
        assert verdict.startswith("no verdict") or not all(withdrawn), name
        assert "no verdict" in verdict or not any(withdrawn), name
        assert any(withdrawn) or "no verdict" not in verdict, name
