from hypothesis import given, settings
from hypothesis import strategies as st

from tinylm.evaluate import trie
from tinylm.evaluate.trie import Plan, Scored


def run(plan):
    """Walk the steps as the adapter does, with the token path itself as cache; returns what each
    target has seen."""
    cache, seen = [], {}
    for step in plan:
        assert step.base <= len(cache)
        del cache[step.base :]
        visible, positions = step.visible(), step.positions()
        for row in range(len(step.tokens)):
            inside = [
                step.tokens[other]
                for other in range(len(step.tokens))
                if visible[row, step.base + other]
            ]
            path = cache + inside
            assert visible[row, : step.base].all()
            assert positions[row] == len(path) - 1
            for target in step.targets:
                if target.row == row:
                    seen.setdefault(target.sequence, []).append((tuple(path), target.token))
        if step.header:
            assert step.linear
            cache += step.tokens
    return seen


def expected(sequence):
    offset = len(sequence.inputs) - len(sequence.targets)
    return [(sequence.inputs[: offset + k + 1], token) for k, token in enumerate(sequence.targets)]


@st.composite
def sequence_lists(draw):
    """Few distinct tokens and joined pieces, so that prefixes are shared at every depth."""
    pieces = draw(
        st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=4)
    )
    result = []
    for _ in range(draw(st.integers(1, 14))):
        chosen = draw(st.lists(st.integers(0, len(pieces) - 1), min_size=1, max_size=4))
        inputs = tuple(token for piece in chosen for token in pieces[piece])
        length = draw(st.integers(1, len(inputs)))
        result.append(
            Scored(
                inputs, tuple(draw(st.lists(st.integers(0, 9), min_size=length, max_size=length)))
            )
        )
    return result


@given(sequences=sequence_lists(), pack_tokens=st.integers(1, 40), min_header=st.integers(1, 8))
@settings(max_examples=300, deadline=None)
def test_every_target_sees_exactly_its_own_prefix_once(sequences, pack_tokens, min_header):
    before = trie.MIN_HEADER
    trie.MIN_HEADER = min_header
    try:
        seen = run(Plan(sequences, pack_tokens))
    finally:
        trie.MIN_HEADER = before
    for number, sequence in enumerate(sequences):
        assert sorted(seen[number], key=lambda pair: len(pair[0])) == expected(sequence)


def test_few_shot_examples_run_once_and_choices_share_their_question():
    examples = tuple(range(100, 180))
    questions = [(*examples, 1000 + q, *range(20)) for q in range(10)]
    sequences = [Scored(question, (letter,)) for question in questions for letter in range(4)]
    plan = Plan(sequences, pack_tokens=64)
    steps = list(plan)
    assert sum(len(step.tokens) for step in steps) == plan.tokens == 80 + 10 * 21
    assert [step.header for step in steps] == [True] + [False] * (len(steps) - 1)
    assert all(step.base == 80 for step in steps[1:])
    assert sum(len(step.targets) for step in steps) == 40


def test_a_tree_that_fits_is_one_step_without_a_cache():
    plan = Plan(
        [Scored((1, 2, 3), (7,)), Scored((1, 2, 4), (8, 9)), Scored((5,), (6,))], pack_tokens=100
    )
    (step,) = plan
    assert step.base == 0 and not step.header and not step.linear
    assert step.tokens == [1, 2, 3, 4, 5] and step.parents == [-1, 0, 1, 1, -1]


def test_nothing_to_score_is_no_step():
    assert list(Plan([], 10)) == [] and Plan([], 10).tokens == 0
