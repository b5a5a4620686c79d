"""Speed: what is counted, how rounds are laid out, and that a measurement is never made twice."""

import pytest
import torch

from tinylm.architecture import speed
from tinylm.architecture.speed import Protocol, Timing, measure
from tinylm.errors import InputError
from tinylm.models.pangu import PanguPiConfig
from tinylm.models.shape import Shape

SMALL, LARGE = Shape(1, 32, 64, 2, 2, 16, 50, True), Shape(2, 32, 64, 2, 2, 16, 50, True)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TINYLM_CACHE", str(tmp_path))


def test_shapes_take_turns_and_results_are_medians() -> None:
    seconds = {SMALL: iter([1.0, 9.0, 2.0]), LARGE: iter([4.0, 5.0, 6.0])}
    order = []

    def run(shape, config, protocol) -> Timing:
        order.append(shape)
        return Timing(0.5, next(seconds[shape]), 1000 * shape.num_layers)

    results = measure(
        [SMALL, LARGE], Protocol(batch=2, prompt_tokens=10, new_tokens=11, repeats=3), run=run
    )
    assert order == [SMALL, LARGE] * 3
    assert results[0]["decode_tokens_per_second"] == {"median": 10.0, "low": 20 / 9, "high": 20.0}
    assert results[1]["decode_tokens_per_second"]["median"] == 4.0
    assert results[0]["prefill_tokens_per_second"]["median"] == 40.0
    assert results[1]["peak_bytes"] == 2000


def test_the_second_time_comes_from_the_cache_and_another_protocol_does_not() -> None:
    calls = []

    def run(shape, config, protocol) -> Timing:
        calls.append(protocol.batch)
        return Timing(1.0, 1.0, None)

    protocol = Protocol(repeats=2)
    first = measure([SMALL], protocol, run=run)
    assert measure([SMALL], protocol, run=run) == first and len(calls) == 2
    measure([SMALL], Protocol(repeats=2, batch=20), run=run)
    measure([SMALL], protocol, run=run, backend="other")
    assert calls == [1, 1, 20, 20, 1, 1]
    measure([SMALL], protocol, run=run, again=True)
    assert calls[6:] == [1, 1]


def test_transformers_generates_what_the_protocol_says(monkeypatch) -> None:
    lengths = []
    generate = speed._generate

    def spy(model, prompt, new_tokens, device):
        lengths.append((tuple(prompt.shape), new_tokens, model.dtype))
        return generate(model, prompt, new_tokens, device)

    monkeypatch.setattr(speed, "_generate", spy)
    protocol = Protocol(batch=3, prompt_tokens=5, new_tokens=6, repeats=1, dtype="bfloat16")
    pangu = PanguPiConfig(hidden_size=32, num_attention_heads=2)
    for config in (None, pangu):
        timing = speed.generate_once(SMALL, config, protocol)
        assert timing.first_token_seconds > 0 and timing.decode_seconds > 0
    assert lengths == [((3, 5), 4, torch.bfloat16), ((3, 5), 6, torch.bfloat16)] * 2


def test_peak_memory_covers_the_weights() -> None:
    shape = Shape(2, 512, 2048, 8, 8, 64, 8000, True)
    timing = speed.generate_once(shape, None, Protocol(new_tokens=2, repeats=1, dtype="float32"))
    assert timing.peak_bytes is None or timing.peak_bytes > 0.8 * 4 * 10e6


def test_impossible_protocol_is_one_clear_line() -> None:
    with pytest.raises(InputError, match="at least 2 new tokens"):
        Protocol(new_tokens=1)
