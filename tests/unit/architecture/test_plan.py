"""Plans: within the budget, reachable, ranked by the stated rule, and clear when nothing fits."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig

from tinylm.architecture.plan import Candidate, parse_numbers, plan, write_plan
from tinylm.errors import InputError
from tinylm.models.parameters import parameters
from tinylm.models.shape import Shape, read_shape

SMOLLM2 = Shape(30, 576, 1536, 9, 3, 64, 49152, True)
TEACHER = SMOLLM2.to_config(LlamaConfig())


def test_the_paper_size_gives_the_paper_shape() -> None:
    best = plan(1e9, 48000)[0]
    assert 19 <= best.shape.num_layers <= 22
    assert abs(best.shape.hidden_size - 1792) <= 128
    assert best.shape.head_dim == 128 and not best.shape.tie_word_embeddings
    assert "20 layers (wish 20)" in best.why


@settings(max_examples=8, deadline=None)
@given(budget=st.floats(25e6, 105e6), vocab_size=st.sampled_from([4096, 16384, 32000]))
def test_every_candidate_can_be_cut_from_the_teacher(budget: float, vocab_size: int) -> None:
    for candidate in plan(budget, vocab_size, TEACHER, limit=1000):
        shape = candidate.shape
        assert abs(candidate.parameters - budget) <= 0.01 * budget
        assert candidate.parameters == parameters(shape, TEACHER)
        assert shape.vocab_size == vocab_size and shape.head_dim == 64 and shape.tie_word_embeddings
        assert (
            shape.num_layers <= 30 and shape.hidden_size <= 576 and shape.intermediate_size <= 1536
        )
        assert shape.num_key_value_heads <= 3 and shape.heads_per_group <= 3
        # Llama's config refuses to load otherwise
        assert shape.hidden_size % shape.num_attention_heads == 0


def test_a_cut_keeps_the_width_first() -> None:
    candidates = plan(40e6, 16384, TEACHER, limit=1000)
    assert candidates[0].shape.hidden_size == 576
    assert {c.shape.hidden_size for c in candidates} > {576}  # narrower ones exist, ranked lower
    assert [c.cost for c in candidates] == sorted(c.cost for c in candidates)


def test_the_uncut_teacher_costs_nothing() -> None:
    best = plan(134_515_008, 49152, TEACHER)[0]
    assert best.shape == SMOLLM2 and best.cost == 0


def test_depths_give_the_best_of_each() -> None:
    candidates = plan(1e9, 48000, depths=[15, 20, 25, 30])
    assert sorted(c.shape.num_layers for c in candidates) == [15, 20, 25, 30]
    for candidate in candidates:
        alone = plan(1e9, 48000, depths=[candidate.shape.num_layers])
        assert alone[0] == candidate


def test_written_plan_is_read_back_as_its_best_shape(tmp_path) -> None:
    candidates = plan(40e6, 16384, TEACHER)
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "notes.txt").write_text("mine")
    for _ in range(2):
        write_plan(candidates, tmp_path / "plan", {"budget": 40e6, "teacher": "t"})
    assert (tmp_path / "plan" / "notes.txt").read_text() == "mine"
    assert read_shape(tmp_path / "plan" / "plan.json") == candidates[0].shape
    assert read_shape(tmp_path / "plan" / "SHAPE.toml") == candidates[0].shape
    written = json.loads((tmp_path / "plan" / "plan.json").read_text())
    assert written["candidates"][0]["parameters"] == candidates[0].parameters
    assert len(written["candidates"]) == len(candidates)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"budget": 400e6, "vocab_size": 16384, "teacher": TEACHER},
            "the nearest has 115.6 million",
        ),
        (
            {"budget": 40e6, "vocab_size": 60000, "teacher": TEACHER},
            "larger than the teacher's 49152",
        ),
        (
            {"budget": 40e6, "vocab_size": 16384, "teacher": TEACHER, "depths": [40]},
            "more than the teacher's 30",
        ),
        ({"budget": -1, "vocab_size": 16384}, "must be positive"),
        ({"budget": float("nan"), "vocab_size": 16384}, "must be positive"),
        ({"budget": float("inf"), "vocab_size": 16384}, "must be positive"),
        ({"budget": 40e6, "vocab_size": 16384, "limit": 0}, "must be positive"),
        ({"budget": 1e6, "vocab_size": 1_000_000}, "no shape has 1 million"),
    ],
)
def test_what_cannot_be_planned_is_one_clear_line(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(**arguments)


def test_depths_are_parsed() -> None:
    assert parse_numbers("depths", "25,15, 20,15") == [15, 20, 25]
    assert parse_numbers("depths", None) is None
    for wrong in ("", "a", "0,3", "1.5"):
        with pytest.raises(InputError, match="depths"):
            parse_numbers("depths", wrong)


def test_candidate_as_dict_has_the_contract_keys() -> None:
    keys = set(plan(40e6, 16384)[0].to_dict())
    assert {
        "num_layers",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
    } <= keys
    assert {"head_dim", "vocab_size", "tie_word_embeddings", "parameters"} <= keys
    assert isinstance(plan(40e6, 16384)[0], Candidate)


@pytest.mark.parametrize("teacher", [None, TEACHER])
def test_pangu_shapes_are_matched_to_the_same_budget(teacher) -> None:
    from tinylm.models.pangu import PanguPiForCausalLM

    for candidate in plan(40e6, 16384, teacher, block="pangu-pi", limit=3):
        assert abs(candidate.parameters - 40e6) <= 0.01 * 40e6
        config = candidate.shape.to_config(candidate.config)
        assert config.shortcut_size == candidate.shape.hidden_size // 32
        with torch.device("meta"):
            model = PanguPiForCausalLM(config)
        assert sum(parameter.numel() for parameter in model.parameters()) == candidate.parameters
        assert candidate.to_dict()["block"] == "pangu-pi"


def test_unknown_block_is_one_clear_line() -> None:
    with pytest.raises(InputError, match="plain or pangu-pi"):
        plan(40e6, 16384, block="moe")  # type: ignore[arg-type]
