import copy

import pytest

from tinylm.study import gate


def rung(name, mean, bigram, reference=None, verdict="better"):
    floors = None if bigram is None else {"unigram": 9.0, "bigram": bigram}
    return {"name": name, "mean": mean, "floors": floors, "reference": reference} | {
        "verdict": verdict if reference else "reference"
    }


@pytest.mark.parametrize(
    ("own", "reference", "passes"),
    [
        ((2.5, 2.2), (2.6, 2.2), False),
        ((2.1, 2.2), (2.6, 2.2), True),  # its size is overstated, its sign is not
        ((2.5, 2.2), (2.1, 2.2), True),
        ((2.5, 2.2), (2.2, 2.2), False),  # equal is not below
        ((2.5, None), (2.6, 2.2), True),  # nobody knows
        ((None, 2.2), (2.6, 2.2), True),  # not measured: the word says so already
    ],
)
def test_no_verdict_between_two_that_are_worse_than_counting(own, reference, passes):
    rungs = [rung("a", *reference), rung("b", *own, reference="a")]
    gate.apply(rungs)
    assert rungs[1]["verdict"] == ("better" if passes else gate.BELOW)
    assert rungs[0]["verdict"] == "reference"
    again = copy.deepcopy(rungs)
    gate.apply(again)
    assert again == rungs


def test_a_ladder_is_judged_rung_by_rung():
    rungs = [
        rung("baseline", 1.98, 1.82),
        rung("tokenizer", 2.00, 1.84, "baseline", "worse"),
        rung("inheritance", 1.51, 1.84, "tokenizer", "better"),
        rung("rounds", 1.53, 1.84, "inheritance", "worse"),
    ]
    gate.apply(rungs)
    assert [one["verdict"] for one in rungs] == ["reference", gate.BELOW, "better", "worse"]
    assert gate.sentence(rungs).endswith(
        "Not below that: baseline, tokenizer; between such variations there is no verdict."
    )


@pytest.mark.parametrize(
    ("rungs", "words"),
    [
        ([rung("a", 1.0, None)], "Not measured"),
        ([rung("a", 1.0, 2.0)], "2.000 bits per byte on the same held-out text. All variations"),
        ([rung("a", 3.0, 2.0), rung("b", 3.1, 2.1)], "2.000 to 2.100 bits per byte"),
        ([rung("a", 3.0, 2.0)], "No variation is below that"),
    ],
)
def test_sentence(rungs, words):
    assert words in gate.sentence(rungs)
