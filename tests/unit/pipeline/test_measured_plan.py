"""Plans with measurements: the front, the runners on tiny shapes, the figure."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinylm.architecture.plan import Candidate
from tinylm.architecture.speed import Protocol
from tinylm.corpus.pack import pack
from tinylm.errors import InputError
from tinylm.models.parameters import parameters_by_part
from tinylm.models.shape import Shape
from tinylm.pipeline import measured_plan
from tinylm.pipeline.plan_options import PlanOptions

SMALL, LARGE = Shape(1, 32, 64, 2, 2, 16, 300, True), Shape(2, 32, 64, 2, 2, 16, 300, True)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TINYLM_CACHE", str(tmp_path / "cache"))


def candidate(shape: Shape) -> Candidate:
    parts = parameters_by_part(shape)
    return Candidate(shape, sum(parts.values()), 0.0, "test", parts)


def test_front_keeps_what_nothing_beats() -> None:
    points = [(10.0, 1.0), (20.0, 1.5), (15.0, 1.6), (5.0, 0.9), (5.0, 1.0)]
    assert measured_plan.pareto_front(points) == [3, 0, 1]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_every_point_is_matched_or_beaten_by_the_front(points: list[tuple[int, int]]) -> None:
    front = [points[index] for index in measured_plan.pareto_front(points)]
    assert front
    assert all(any(f >= fast and q <= loss for f, q in front) for fast, loss in points)
    speeds, losses = [f for f, _ in front], [q for _, q in front]
    assert speeds == sorted(speeds) and losses == sorted(losses)


def test_speed_by_transformers_and_llamacpp_on_tiny_shapes() -> None:
    pytest.importorskip("xllamacpp", reason="the extra `device` (llama.cpp) is not installed")
    protocols = [Protocol(batch, 4, 3, 1) for batch in (1, 2)]
    found = measured_plan.measure_speed(
        [candidate(SMALL), candidate(LARGE)], protocols, finalists=1
    )
    assert [[(r["backend"], r["batch"]) for r in results] for results in found] == [
        [("transformers", 1), ("transformers", 2), ("llama.cpp", 1)],
        [("transformers", 1), ("transformers", 2)],
    ]
    assert all(r["decode_tokens_per_second"]["median"] > 0 for results in found for r in results)


def test_quality_is_the_loss_after_real_training(tmp_path) -> None:
    tokenizer = measured_plan.byte_tokenizer(300)
    text = ["the cat sat on the mat and the dog sat on the cat. " * 60] * 4
    pack(text, tokenizer, tmp_path / "data" / "train")
    pack(text[:1], tokenizer, tmp_path / "data" / "valid")
    candidates = [candidate(SMALL), candidate(LARGE)]
    results = measured_plan.measure_quality(
        candidates, tmp_path / "data", 8192, None, compile_layers=False
    )
    for result in results:
        assert result["steps"] == 2 and result["start"] == "random"
        # Two steps on bytes: better than guessing among 300 tokens, far from knowing the text.
        assert 1.0 < result["valid_bits_per_byte"] < math.log2(300) + 0.1
    assert results[0]["valid_bits_per_byte"] != results[1]["valid_bits_per_byte"]


def test_students_of_one_seed_start_alike() -> None:
    first, second = measured_plan._fresh([candidate(LARGE)] * 2, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))


def test_figure_is_drawn_from_the_measurements(tmp_path) -> None:
    def speeds(rate: float) -> list[dict]:
        spread = {"median": rate, "low": rate * 0.9, "high": rate * 1.1}
        return [
            {
                "backend": "transformers",
                "batch": 1,
                "dtype": "bfloat16",
                "decode_tokens_per_second": spread,
            }
        ]

    extra = [
        {"speed": speeds(100.0 * n), "quality": {"valid_bits_per_byte": 1.0 + n}} for n in (1, 2)
    ]
    measured_plan.draw([candidate(SMALL), candidate(LARGE)], extra, tmp_path / "pareto.svg")
    drawn = (tmp_path / "pareto.svg").read_text()
    assert drawn.startswith("<svg") and len(drawn) > 5000 and "Pareto front" in drawn


def test_training_without_data_is_one_clear_line() -> None:
    with pytest.raises(InputError, match="needs --data"):
        measured_plan.measure([candidate(SMALL)], PlanOptions(train_tokens=4096))


def test_a_gpu_that_is_not_there_is_one_clear_line(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="sees no such device"):
        measured_plan.measure([candidate(SMALL)], PlanOptions(measure=True, device="cuda"))


def test_byte_tokenizer_covers_every_text() -> None:
    tokenizer = measured_plan.byte_tokenizer(300)
    ids = tokenizer("caf\u00e9 th\n")["input_ids"]
    assert len(tokenizer) == 300 and np.max(ids) < 300 and tokenizer.decode(ids) == "caf\u00e9 th\n"
