import dataclasses

import numpy as np
import pytest
from tokenizer_builders import byte_level_dir, corpus

from tinylm.errors import InputError
from tinylm.tokenizer import choose
from tinylm.tokenizer.count import Counts, count
from tinylm.tokenizer.source import read_source
from tinylm.tokenizer.splits import splits_of


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    source = read_source(byte_level_dir(tmp_path_factory.mktemp("tokenizer") / "t"))
    counts = count(source.folder, corpus())
    return source, counts, choose.rank(source, counts)


def test_bytes_specials_and_template_literals_come_first(ranked):
    source, _, ranking = ranked
    forced = {source.strings[int(i)] for i in ranking.order[: ranking.forced]}
    assert {"<|endoftext|>", "<|im_start|>", "<|im_end|>"} <= forced
    assert {source.strings[i] for i in source.byte_ids.values()} <= forced


def test_order_is_by_formed_then_shorter_then_lower_id(ranked):
    source, counts, ranking = ranked
    splits = splits_of(source)
    formed, rest = splits.formed(counts.counts), ranking.order[ranking.forced :]
    keys = [(-formed[i], splits.lengths[i], i) for i in rest if formed[i]]
    assert keys == sorted(keys)


def test_curve_rises_in_coverage_and_falls_in_growth(ranked):
    source, counts, ranking = ranked
    rows = ranking.curve(
        range(ranking.forced, len(source.strings)), hidden_size=64, parameters=100_000, tied=False
    )
    assert np.all(np.diff([row["coverage"] for row in rows]) >= 0)
    assert np.all(np.diff([row["growth"] for row in rows]) <= 0)
    last = ranking.curve([len(source.strings)], 64, 200_000)[0]
    assert last["coverage"] == 1 and last["growth"] == 1
    assert last["tokens_per_byte"] == pytest.approx(counts.tokens_per_byte)
    assert last["embedding_parameters"] == 64 * len(source.strings)
    assert rows[0]["embedding_parameters"] == 2 * 64 * ranking.forced
    assert last["embedding_share"] == pytest.approx(64 * len(source.strings) / 200_000)


def test_the_papers_embedding_shares():
    """100,883 tokens at width 2048 and 48,000 at 1792, untied: 38.19 % and 18.07 % of the paper's
    1B models [2nd]."""
    for size, width, total, share in (
        (100_883, 2048, 1.082e9, 0.3819),
        (48_000, 1792, 0.952e9, 0.1807),
    ):
        assert size * width * 2 / total == pytest.approx(share, abs=2e-3)


def test_smallest_size_by_coverage_and_by_growth(ranked):
    _, _, ranking = ranked
    size = ranking.smallest(max_growth=1.3)
    assert ranking.growth()[size - 1] <= 1.3 < ranking.growth()[size - 2]
    size = ranking.smallest(coverage=0.9)
    assert ranking.coverage()[size - 1] >= 0.9 > ranking.coverage()[size - 2]
    assert ranking.smallest(coverage=0.0001) == ranking.forced


def test_recommended_size_is_the_best_trade_on_the_grid(ranked):
    _, _, ranking = ranked
    size = ranking.recommended(100_000, 64, multiple_of=8)
    growth = ranking.growth()

    def value(k):
        return (100_000 - 64 * k) / growth[k - 1]

    assert size % 8 == 0 and all(
        value(size) >= value(k) for k in range(-(-ranking.forced // 8) * 8, len(growth), 8)
    )
    with pytest.raises(InputError, match="do not hold"):
        ranking.recommended(1000, 64)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"vocab_size": 100, "coverage": None, "max_growth": None}, "too small"),
        ({"vocab_size": None, "coverage": None, "max_growth": None}, "exactly one"),
        ({"vocab_size": 400, "coverage": 0.9, "max_growth": None}, "exactly one"),
        ({"vocab_size": None, "coverage": 1.5, "max_growth": None}, "coverage"),
        ({"vocab_size": None, "coverage": None, "max_growth": 0.9}, "growth"),
    ],
)
def test_wrong_sizes_are_input_errors(ranked, wanted, message):
    with pytest.raises(InputError, match=message):
        choose.choose_size(ranked[2], **wanted)


def test_counts_must_belong_to_the_tokenizer_and_hold_something(ranked):
    source, counts, _ = ranked
    with pytest.raises(InputError, match="count again"):
        choose.rank(source, Counts(counts.counts, 1, 1, "another", "elsewhere"))
    with pytest.raises(InputError, match="empty"):
        choose.rank(source, Counts(np.zeros_like(counts.counts), 0, 0, source.hash, "here"))


@pytest.mark.parametrize(
    ("size", "multiple", "available", "result"),
    [(400, 128, 700, 512), (512, 128, 700, 512), (690, 128, 700, 700), (401, 1, 700, 401)],
)
def test_rounding_up(size, multiple, available, result):
    assert choose.round_up(size, multiple, available) == result


def test_literals_of_a_template():
    template = "{% for m in x %}{{ '<a>' + m['role'] + \"\\n\" }} told {% endfor %}"
    assert {"<a>", "role", "\n"} <= set(choose.template_literals(template))
    assert any("told" in text for text in choose.template_literals(template))


def test_expected_growth_is_that_of_each_stretch_without_the_choice_it_made(ranked, monkeypatch):
    source, counts, ranking = ranked
    assert ranking.new_growth is None, "the corpus is too short to leave a part of it out"
    monkeypatch.setattr(choose, "LEAST_BYTES", 1)
    found = choose.rank(source, counts).expected_growth()
    splits = splits_of(source)
    for size in (ranking.forced + 5, ranking.forced + 60, len(found)):
        after = 0
        for stretch in counts.stretches:
            others = dataclasses.replace(counts, counts=counts.counts - stretch, stretches=None)
            gone = choose.rank(source, others).order[size:]
            cost = splits.formed(stretch) * (splits.arity() - 1)
            after += stretch.sum() + cost[gone].sum()
        assert found[size - 1] == pytest.approx(after / counts.tokens)
    assert found[-1] == 1


def test_the_growth_that_is_asked_for_is_that_of_new_text(ranked, monkeypatch):
    source, counts, ranking = ranked
    monkeypatch.setattr(choose, "LEAST_BYTES", 1)
    left_out = choose.rank(source, counts)
    size = left_out.smallest(max_growth=1.3)
    assert left_out.expected_growth()[size - 1] <= 1.3 < left_out.expected_growth()[size - 2]
    assert size > ranking.smallest(max_growth=1.3)
