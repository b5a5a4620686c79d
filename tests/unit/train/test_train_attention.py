import pytest
import torch
import torch.nn.functional as F

from tinylm.train.attention import blocked_attention, use_blocked_attention


@pytest.mark.parametrize("length", [1, 100, 128, 300])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
def test_equals_causal_attention_with_its_gradients(length, heads):
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(2, h, length, 16, requires_grad=True) for h in (heads[0], heads[1], heads[1])
    )
    ours, _ = blocked_attention(q * 0.25, k, v)
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    upstream = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, (q, k, v), upstream),
        torch.autograd.grad(theirs, (q, k, v), upstream),
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("sequences", "key_heads"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_torch_accepts_the_operator(sequences, key_heads):
    """Queries as projections leave them, [B, T, H, D] in memory: of one sequence or one key head
    that is a view."""
    q = torch.randn(sequences, 130, 4, 8).transpose(1, 2).requires_grad_()
    k = torch.randn(sequences, key_heads, 130, 8, requires_grad=True)
    torch.library.opcheck(blocked_attention, (q, k, k.detach().clone().requires_grad_()))


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma3_text"])
def test_models_give_the_same_logits_with_it(model_type):
    """gemma3 has sliding windows of 64 here: those layers must keep their own mask."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        model_type,
        vocab_size=90,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        **(
            {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}
            if "gemma" in model_type
            else {}
        ),
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.randint(0, 90, (2, 200))
    expected = model(ids).logits
    use_blocked_attention(model)
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("blocked", [False, True])
def test_documents_keep_their_sliding_window(blocked):
    """Two documents in a sequence, both longer than the window of 8: each as if it were alone."""
    from transformers import AutoModelForCausalLM, Gemma3TextConfig

    from tinylm.train.config import TrainConfig
    from tinylm.train.student import Student

    sizes = {
        "vocab_size": 90,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "head_dim": 8,
    }
    heads = {"num_attention_heads": 4, "num_key_value_heads": 1}
    layers = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(Gemma3TextConfig(**sizes, **heads, **layers)).eval()
    student = Student(model, TrainConfig(compile=False), torch.device("cpu"), torch.float32)
    if blocked:
        use_blocked_attention(model)
    first, second = torch.randint(0, 90, (1, 20)), torch.randint(0, 90, (1, 30))
    positions = torch.cat([torch.arange(20), torch.arange(30)])[None]
    packed = student.hidden(torch.cat([first, second], dim=1), positions)
    alone = torch.cat([model.model(ids).last_hidden_state[0] for ids in (first, second)])
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-4)
