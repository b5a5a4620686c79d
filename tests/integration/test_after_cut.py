"""The published rules of pruning that benchmarks/after_cut.py lays ours beside: each is exact where
it should be, and the program goes its whole way."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from builders import family_model, texts, tiny_teacher

from tinylm.models.shape import Shape

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
IDS = torch.randint(64, (16, 48), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def rules(monkeypatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import cut_rules

    return cut_rules


def far(model, other) -> float:
    with torch.no_grad():
        return float((model(IDS).logits - other(IDS).logits).abs().max())


def test_parameters_are_those_of_the_layers(rules) -> None:
    model = family_model("llama")
    counted = sum(
        p.numel() for name, p in model.named_parameters() if "layers." in name and p.dim() == 2
    )
    assert rules.count(Shape.from_config(model.config)) == counted


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text"])
def test_nothing_removed_changes_nothing(rules, family) -> None:
    model = family_model(family)
    for rule, share in ((rules.flap, -0.1), (rules.shortgpt, 0.0)):  # FLAP's biases are paid for
        cut, removed = rule(model, IDS, share)
        assert removed <= 0 and far(cut, model) == 0
    cut, removed = rules.modegpt(model, IDS, 0.0)
    assert removed == 0 and far(cut, model) < 1e-2  # its ridge


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_the_share_is_what_was_asked(rules, share) -> None:
    model = family_model("llama", num_hidden_layers=10, hidden_size=64, intermediate_size=160)
    for rule, near in (
        (rules.flap, 0.03),
        (rules.slicegpt, 0.03),
        (rules.modegpt, 0.03),
        (rules.shortgpt, 1e-9),
    ):
        cut, removed = rule(model, IDS, share)
        assert abs(removed - share) <= near, rule.__name__
        assert torch.isfinite(cut(IDS).logits).all() and far(cut, model) > 0
        assert cut is not model


def test_zeros_and_ranks_are_as_many_as_are_counted(rules) -> None:
    model = family_model("llama")
    shape = Shape.from_config(model.config)
    cut, removed = rules.modegpt(model, IDS, 0.4)
    left = 0
    for layer in cut.model.layers:
        attention = layer.self_attn
        for query in attention.q_proj.weight.split(shape.head_dim):
            left += int((query.abs().sum(1) > 0).sum()) * shape.hidden_size
        for name in ("k_proj", "v_proj"):
            rows = getattr(attention, name).weight.abs().sum(1)
            left += int((rows > 0).sum()) * shape.hidden_size
        left += int((attention.o_proj.weight.abs().sum(0) > 0).sum()) * shape.hidden_size
        units = int((layer.mlp.down_proj.weight.abs().sum(0) > 0).sum())
        left += 3 * units * shape.hidden_size
    assert left == round((1 - removed) * rules.count(shape))


def test_what_has_low_rank_or_repeats_is_removed_without_loss(rules) -> None:
    """Values and outputs of rank 4 of 8; FFN units that four span; a stream in 16 of 32 numbers."""
    model = family_model("llama")
    shape = Shape.from_config(model.config)
    layer = model.model.layers[1]
    with torch.no_grad():
        for rows in layer.self_attn.v_proj.weight.split(shape.head_dim):
            rows[4:] = torch.randn(4, 4) @ rows[:4]
        before = model(IDS).logits
        stack = rules.Stack.of(model)
        entered = [stack.enter(batch) for batch in IDS.split(4)]
        states, calls = [s for s, _ in entered], [c[1] for _, c in entered]
        grams = rules._grams(layer, states, calls)
        root, inverse = rules._root(grams["attention"])
        rules._keep_values(layer.self_attn, root, inverse, shape, 4)
    torch.testing.assert_close(model(IDS).logits, before, rtol=1e-3, atol=1e-3)
    down = torch.nn.Linear(8, 5, bias=False).requires_grad_(False)
    x = torch.randn(200, 4)
    x = torch.cat([x, 0.05 * x @ torch.randn(4, 4)], 1)
    expected = down(x)
    rules._nystrom(down, (x.T @ x).double(), 4, 0.01)
    torch.testing.assert_close(down(x), expected, rtol=1e-2, atol=1e-2)
    basis = torch.linalg.qr(torch.randn(32, 32)).Q[:, :16]
    state = torch.randn(4, 48, 16) @ basis.T
    found = rules.projected(state, rules._projection([state], 16))
    torch.testing.assert_close(found, state, rtol=1e-4, atol=1e-4)


def test_a_layer_that_gives_all_leaves_the_rest_to_the_others(rules) -> None:
    shares = rules._allocation(torch.tensor([0.9, 0.0, 0.1, 0.2]), 0.6, 0.05)
    assert float(shares.mean()) == pytest.approx(0.6)
    assert shares.max() <= rules.MOST + 1e-9 and shares.argmin() == 0


def test_norms_that_do_not_rotate_are_named(rules) -> None:
    with pytest.raises(rules.NotApplicableError, match="norms stand between"):
        rules.slicegpt(family_model("gemma3_text"), IDS, 0.2)


def test_the_program_goes_its_whole_way(tmp_path) -> None:
    folder = tiny_teacher(tmp_path / "teacher", num_hidden_layers=8, intermediate_size=256)
    for part in ("validation", "test"):
        (tmp_path / f"wiki.{part}.raw").write_text("\n".join(texts(400, seed=len(part))))
    corpus = tmp_path / "c.txt"
    corpus.write_text("\n\n".join(texts(30, seed=9)))
    command = [sys.executable, str(BENCHMARKS / "after_cut.py"), "--teacher", str(folder)]
    command += ["--wikitext", str(tmp_path), "--text", str(corpus), "--text-bytes", "2000"]
    command += ["--out", str(tmp_path / "out"), "--chunks", "16", "--windows", "4"]
    subprocess.run([*command, "--shares", "0.5"], check=True, capture_output=True)
    found = json.loads((tmp_path / "out" / "after-cut.json").read_text())
    assert len(found["table"]) == 7 and found["ratio"] > 0
    for name, rows in found["table"].items():
        assert rows["0.50"]["removed"] == pytest.approx(0.5, abs=0.1), name
    assert (tmp_path / "out" / "after-cut.svg").read_text().startswith("<svg")
    written = (tmp_path / "out" / "FLAP-0.50.json").stat().st_mtime_ns
    subprocess.run([*command, "--shares", "0.5"], check=True, capture_output=True)
    assert (tmp_path / "out" / "FLAP-0.50.json").stat().st_mtime_ns == written, "not made again"
