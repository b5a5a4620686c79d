from tinylm.render import html
from tinylm.render.figures import wrap_label


def test_backticks_become_code_and_markup_stays_text():
    assert html.paragraph("say `a <b>` or <i>") == (
        "<p>say <code>a &lt;b&gt;</code> or &lt;i&gt;</p>"
    )
    assert html.paragraph("one ` alone") == "<p>one ` alone</p>"


def test_a_page_has_a_dark_dress():
    page = html.page("t", "l", [("h", "c")])
    assert "prefers-color-scheme:dark" in page and "<script" not in page


def test_labels_wrap_and_a_dollar_begins_no_formula():
    assert wrap_label("control: same shape from random weights") == (
        "control: same shape\nfrom random weights"
    )
    assert wrap_label("6 layers\nagainst $a$") == "6 layers\nagainst \\$a\\$"
    assert max(map(len, wrap_label("word " * 30).split("\n"))) <= 22
