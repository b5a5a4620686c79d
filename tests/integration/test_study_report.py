"""The report of a study: what it says, and how it looks on a phone and on a screen."""

import html
import json
import re
import shutil
import subprocess

import pytest
from scipy import stats
from study_fakes import BASE, STUDY, fake_pipeline

from tinylm.study.execute import Job, execute
from tinylm.study.report import sentences, write_report
from tinylm.study.runner import claim_folder
from tinylm.study.spec import read_study
from tinylm.study.summary import summarise

LADDER = STUDY.replace('kind = "list"', 'kind = "ladder"').replace(
    'name = "five rounds"', 'name = "five rounds of all"'
)
WIDE = STUDY + "".join(
    '[[variation]]\nname = "a variation whose name is long enough to wrap, number'
    f' {n}"\nset.train.batch_size = {n}\n'
    for n in (2, 4)
)


def with_tasks(recipe, out, work):
    results = fake_pipeline(recipe, out, work)
    score = 0.3 + 0.02 * recipe.train.rounds + 0.001 * recipe.seed
    tasks = {
        name: {"score": value, "stderr": 0.02, "n": 100, "chance": 0.5}
        for name, value in (("piqa", score), ("c3", 0.25))
    }
    tasks["wikitext"] = {"score": 2 - score, "stderr": 0.01, "n": 10, "chance": None}
    models = [{"model": "teacher", "tasks": {}}, {"model": "student", "tasks": tasks}]
    return {**results, "tasks": {"models": models}}


def study_folder(folder, text, *, runner=fake_pipeline, skip=0):
    """A study with all its runs (but the last ``skip``) done in this process."""
    folder.mkdir(exist_ok=True)
    (folder / "base.toml").write_text(BASE)
    (folder / "synthetic.toml").write_text(text)
    study = read_study(folder / "synthetic.toml")
    claim_folder(study, folder)
    runs = study.runs()
    for run in runs[: len(runs) - skip]:
        place = str(folder)
        execute(Job(run.id, run.variation, run.seed, run.recipe, place, place, runner, 0, False))
    results = summarise(folder)
    write_report(results, folder)
    return results


def test_a_ladder_reports_each_rung_and_the_whole(tmp_path):
    results = study_folder(tmp_path, LADDER)
    assert [rung["reference"] for rung in results["rungs"]] == [None, "one", "two rounds"]
    below, rung, _ = results["rungs"]
    expected = stats.ttest_rel(rung["values"], below["values"])
    assert rung["p"] == pytest.approx(expected.pvalue)
    smallest = min(results["rungs"][1:], key=lambda rung: rung["p"])
    assert smallest["p_holm"] == pytest.approx(2 * smallest["p"]), "two comparisons"
    assert rung["interval"] == pytest.approx(expected.confidence_interval(0.95))
    gain = results["total_gain"]
    first, last = results["rungs"][0]["mean"], results["rungs"][-1]["mean"]
    assert gain["percent"] == pytest.approx(100 * (1 - last / first), abs=0.2)
    assert gain["percent_interval"][0] < gain["percent"] < gain["percent_interval"][1]
    assert sentences(results)[0].startswith(
        "Whole ladder, five rounds of all against one: better, a gain of 2"
    )
    assert json.loads((tmp_path / "results.json").read_text())["verdicts"] == results["verdicts"]


def test_markdown_has_the_same_numbers_and_its_figures(tmp_path):
    results = study_folder(tmp_path, LADDER)
    text = (tmp_path / "report.md").read_text()
    for rung in results["rungs"]:
        assert f"| {rung['name']} | {rung['verdict']} | {rung['mean']:.4f} |" in text
    for name in re.findall(r"\]\((figures/.*?\.svg)\)", text):
        assert "<svg" in (tmp_path / name).read_text()
    assert "tinylm study run" in text and results["hash"] in text


def test_a_half_finished_study_reports_what_it_has(tmp_path):
    results = study_folder(tmp_path, STUDY, skip=8)  # one seed of each variation
    assert results["state"] == {"finished": 3, "failed": 0, "to do": 8}
    assert set(results["verdicts"].values()) == {"one seed: no verdict"}
    assert results["noise_floor"]["sd"] is None
    assert "preliminary" in (tmp_path / "report.html").read_text()


def test_a_study_of_which_nothing_ran_has_a_report(tmp_path):
    study_folder(tmp_path, STUDY, skip=11)
    assert "No run has finished yet" in (tmp_path / "report.html").read_text()


def test_tasks_are_reported_beside_bits_per_byte(tmp_path):
    results = study_folder(tmp_path, STUDY, runner=with_tasks)
    by_name = {other["measure"]["label"]: other["rungs"][2] for other in results["other_measures"]}
    assert list(by_name) == ["average", "c3", "piqa", "wikitext"]
    verdicts = {name: rung["verdict"] for name, rung in by_name.items()}
    assert verdicts == {
        "average": "better",
        "c3": "no difference seen",
        "piqa": "better",
        "wikitext": "better",
    }
    assert by_name["piqa"]["evaluation_error"] == pytest.approx(0.02)
    assert by_name["average"]["evaluation_error"] == pytest.approx(0.02 / 2**0.5)
    assert "average" in (tmp_path / "report.md").read_text()


def test_a_run_without_a_number_counts_as_failed(tmp_path):
    def diverged(recipe, out, work):
        results = fake_pipeline(recipe, out, work)
        return (
            {**results, "bits_per_byte": {"student": float("nan")}}
            if recipe.train.rounds == 2
            else results
        )

    results = study_folder(tmp_path, STUDY, runner=diverged)
    assert results["verdicts"]["two rounds"] == "not measured" and results["state"]["failed"] == 3
    assert "no finite bits_per_byte.student" in (tmp_path / "report.html").read_text()


def test_unequal_budgets_are_pointed_out(tmp_path):
    def larger(recipe, out, work):
        results = fake_pipeline(recipe, out, work)
        return {**results, "parameters": {"student": 1_000_000 * recipe.train.rounds}}

    results = study_folder(tmp_path, STUDY, runner=larger)
    assert not results["equal_budget"]["equal"]
    assert "parameters differ by 400 %" in (tmp_path / "report.md").read_text()


def test_names_cannot_break_the_page(tmp_path):
    study_folder(tmp_path, STUDY.replace('"two rounds"', '"<script>alert(1)</script> & | rounds"'))
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page


PROBE = """<!doctype html><body><iframe id=f style="width:%dpx;height:900px;border:0"
  srcdoc="%s"></iframe><script>
document.getElementById("f").onload = event => {
  const page = event.target.contentDocument, box = node => node.getBoundingClientRect();
  document.body.innerText = "PROBE" + JSON.stringify({
    sideways: page.documentElement.scrollWidth,
    figures: [...page.querySelectorAll("figure svg")].map(box)
      .map(b => [b.left, b.width, b.height]),
    ink: [...page.querySelectorAll("figure svg")].map(svg =>
      svg.querySelectorAll("path, use").length),
    tables: [...page.querySelectorAll(".scroll")].map(box).map(b => [b.left, b.width]),
    cells: [...page.querySelectorAll("td")].map(td => parseFloat(getComputedStyle(td).fontSize)),
    narrowest: Math.min(...[...page.querySelectorAll("tbody td:first-child")]
      .map(td => box(td).width)),
    text: parseFloat(getComputedStyle(page.body).fontSize)}) + "END"; };
</script></body>"""


@pytest.mark.parametrize("width", [390, 1280])
def test_report_in_a_browser(tmp_path, width):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    study_folder(tmp_path / "study", WIDE, runner=with_tasks, skip=1)
    page = (tmp_path / "study" / "report.html").read_text()
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE % (width, html.escape(page, quote=True)))
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
        " --disable-background-networking "
    )
    flags += (
        "--disable-component-update --disable-sync --virtual-time-budget=5000"
        " --enable-logging=stderr --dump-dom "
    )
    command = [
        browser,
        *flags.split(),
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width + 60},1000",
    ]
    done = subprocess.run([*command, probe.as_uri()], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r"PROBE(\{.*\})END", done.stdout)
    assert found, done.stdout[-500:] + done.stderr[-500:]
    seen = json.loads(html.unescape(found.group(1)))
    assert seen["sideways"] <= width, "the page scrolls sideways"
    assert len(seen["figures"]) == 2 and min(seen["ink"]) > 30
    for left, size, height in seen["figures"]:
        assert left >= 0 and left + size <= width and size >= min(330, width) and height > 100
    assert all(left >= 0 and left + size <= width for left, size in seen["tables"] if size)
    assert min(seen["cells"]) >= 12 and seen["text"] >= 16 and seen["narrowest"] >= 40
