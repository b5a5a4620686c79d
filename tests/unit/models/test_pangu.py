"""The PanGu-pi block: a plain block at birth, exact with a cache, whole after saving, loadable
without tinylm."""

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from tinylm.errors import InputError
from tinylm.models.pangu import PanguPiConfig, PanguPiForCausalLM, from_llama, pangu_config

SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def trained_looking(**settings) -> PanguPiForCausalLM:
    """A tiny model whose series and shortcuts are far from their start, so that a forgotten one
    would show."""
    torch.manual_seed(0)
    model = PanguPiForCausalLM(PanguPiConfig(**SIZES, **settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


def tokens(length: int = 12) -> torch.Tensor:
    return torch.randint(0, 97, (2, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_graft_keeps_the_function_exactly(dtype) -> None:
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(
        LlamaConfig(**SIZES, tie_word_embeddings=True), dtype=dtype
    ).eval()
    grafted = from_llama(plain)
    assert not grafted.training
    assert torch.equal(plain(tokens()).logits, grafted(tokens()).logits)
    assert grafted.lm_head.weight is grafted.model.embed_tokens.weight
    extra = sum(p.numel() for p in grafted.parameters()) - sum(
        p.numel() for p in plain.parameters()
    )
    assert extra == 3 * (2 * 2 * 96 + 2 * 64 * (64 // 32))


def test_both_additions_learn_from_the_start() -> None:
    model = PanguPiForCausalLM(PanguPiConfig(**SIZES))
    model(tokens(), labels=tokens()).loss.backward()
    layer = model.model.layers[1]
    for parameter in (*layer.mlp.series.parameters(), layer.self_attn.shortcut.up.weight):
        assert parameter.grad.abs().sum() > 0


def test_block_follows_its_formula() -> None:
    model = trained_looking(series_terms=3)
    mlp, shortcut = model.model.layers[0].mlp, model.model.layers[0].self_attn.shortcut
    x = torch.randn(5, 64)
    gate = x @ mlp.gate_proj.weight.T
    series = sum(torch.nn.functional.silu(term.scale * gate + term.shift) for term in mlp.series)
    torch.testing.assert_close(
        mlp(x), (series * (x @ mlp.up_proj.weight.T)) @ mlp.down_proj.weight.T
    )
    expected = torch.nn.functional.gelu(x @ shortcut.down.weight.T) @ shortcut.up.weight.T
    torch.testing.assert_close(shortcut(x), expected)


def test_cached_steps_equal_the_full_forward() -> None:
    model, ids = trained_looking(), tokens()
    full, past, steps = model(ids).logits, None, []
    for position in range(ids.shape[1]):
        out = model(ids[:, position : position + 1], past_key_values=past, use_cache=True)
        past = out.past_key_values
        steps.append(out.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), full, atol=1e-4, rtol=1e-4)


def test_cached_generation_equals_generation_without_a_cache() -> None:
    model, ids = trained_looking(), tokens(4)
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(
        model.generate(ids, **settings), model.generate(ids, **settings, use_cache=False)
    )


def test_compiles_without_a_graph_break() -> None:
    model, ids = trained_looking(), tokens()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(
        compiled(ids, use_cache=False).logits, model(ids, use_cache=False).logits
    )


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = trained_looking().train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(tokens(), labels=tokens(), use_cache=False).loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, checkpointed in zip(*gradients):
        torch.testing.assert_close(plain, checkpointed)


def test_reload_in_this_process_gives_the_same_logits(tmp_path) -> None:
    model = trained_looking(shortcut_ratio=16)
    model.save_pretrained(tmp_path / "m")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "m", trust_remote_code=False).eval()
    assert type(again) is PanguPiForCausalLM and again.config.shortcut_size == 4
    assert torch.equal(again(tokens()).logits, model(tokens()).logits)


def test_reload_in_a_fresh_process_without_tinylm(tmp_path) -> None:
    model = trained_looking()
    model.save_pretrained(tmp_path / "m")
    (tmp_path / "ids.json").write_text(json.dumps(tokens().tolist()))
    program = f"""
import sys
sys.modules["tinylm"] = None  # as if it were not installed: any import of it fails
import json, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(tmp_path / "m")!r}, trust_remote_code=True).eval()
ids = torch.tensor(json.load(open({str(tmp_path / "ids.json")!r})))
out = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0)
print(json.dumps([type(model).__module__, model(ids).logits.double().sum().item(), out.tolist()]))
"""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    module, total, generated = json.loads(done.stdout.strip().splitlines()[-1])
    assert module.startswith("transformers_modules")
    assert total == pytest.approx(model(tokens()).logits.double().sum().item(), rel=1e-6)
    here = model.generate(
        tokens(), max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert generated == here.tolist()


def test_only_llama_can_be_extended() -> None:
    with pytest.raises(InputError, match="not 'qwen2'"):
        pangu_config(Qwen2Config())
    with pytest.raises(InputError, match="series_terms 0"):
        pangu_config(LlamaConfig(), series_terms=0)
