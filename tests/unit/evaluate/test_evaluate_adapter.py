import json
import math

import pytest
import torch
from lm_eval.api.instance import Instance
from tiny_model import byte_tokenizer, tiny_llama
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tinylm.errors import InputError
from tinylm.evaluate.adapter import TinyLM

SHOTS = (
    "the quick brown fox jumps over the lazy dog while the river runs under the old bridge. " * 2
)
PAIRS = [
    *[(SHOTS + f"question {q}\nAnswer:", f" {letter}") for q in range(6) for letter in "ABCD"],
    *[
        ("the fox", ending)
        for ending in (" jumps over", " runs under the bridge", " jumps", " jumps over the dog")
    ],
    ("the river ", "runs"),  # a trailing space belongs to the continuation
    ("", "the lazy dog"),
    ("", "<|endoftext|>the"),
    ("<|endoftext|>the quick", " brown"),
    ("我们在河边。", "看见一只狐狸"),
    ("the fox", " jumps over"),  # asked twice
]


def requests(kind, arguments, task="t"):
    return [
        Instance(request_type=kind, doc={}, arguments=a, idx=0, metadata=(task, n, 1))
        for n, a in enumerate(arguments)
    ]


def brute_force(model, tokenizer, context, continuation):
    """One plain forward pass over the whole text, without sharing or slices."""
    body = context.rstrip()
    continuation = context[len(body) :] + continuation
    special = {"add_special_tokens": False}
    prefix = tokenizer.encode(body, **special) if body else [tokenizer.bos_token_id]
    whole = tokenizer.encode(body + continuation, **special)
    if not body and whole[0] != tokenizer.bos_token_id:
        whole = [tokenizer.bos_token_id, *whole]
    with torch.no_grad():
        logits = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
    positions = range(len(prefix), len(whole))
    total = sum(float(logits[p - 1, whole[p]]) for p in positions)
    return total, all(int(logits[p - 1].argmax()) == whole[p] for p in positions)


def families(vocab_size):
    sizes = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
    }
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    torch.manual_seed(0)
    return {
        "llama": tiny_llama(vocab_size),
        "qwen3": Qwen3ForCausalLM(Qwen3Config(**sizes)).eval(),
        "mistral": MistralForCausalLM(MistralConfig(**sizes, sliding_window=12)).eval(),
        "gemma3": (
            Gemma3ForCausalLM(
                Gemma3TextConfig(**sizes, sliding_window=12, layer_types=kinds)
            ).eval()
        ),
    }


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma3"])
@pytest.mark.parametrize("batch_size", [8, 64, 4096])
def test_scores_equal_plain_forward_passes(tokenizer, family, batch_size):
    model = families(len(tokenizer))[family]
    lm = TinyLM(model, tokenizer, batch_size=batch_size)
    assert lm.tree.is_exact
    answers = lm.loglikelihood(requests("loglikelihood", PAIRS))
    for (context, continuation), (total, greedy) in zip(PAIRS, answers):
        expected, expected_greedy = brute_force(model, tokenizer, context, continuation)
        assert total == pytest.approx(expected, abs=1e-3)
        assert greedy == expected_greedy


def test_shared_prefixes_are_computed_once(model, tokenizer):
    lm = TinyLM(model, tokenizer, batch_size=64)
    lm.loglikelihood(requests("loglikelihood", PAIRS[:24]))
    assert lm.computed_tokens < lm.requested_tokens / 3


def test_a_model_without_attention_masks_is_scored_one_by_one(tokenizer):
    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, state_size=4
    )
    mamba = MambaForCausalLM(config).eval()
    lm = TinyLM(mamba, tokenizer, max_length=256)
    assert not lm.tree.is_exact
    ((total, _),) = lm.loglikelihood(requests("loglikelihood", [("the fox", " jumps over")]))
    assert total == pytest.approx(
        brute_force(mamba, tokenizer, "the fox", " jumps over")[0], abs=1e-3
    )


def test_whole_texts_in_windows_equal_the_sum_of_their_windows(model, tokenizer):
    text = SHOTS * 2
    lm = TinyLM(model, tokenizer, max_length=32, batch_size=64)
    (total,) = lm.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,)]))
    sequence = [tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]
    expected = 0.0
    for start in range(0, len(sequence) - 1, 32):
        end = min(start + 32, len(sequence) - 1)
        # the last one is as long as the others, its targets are fewer
        window = sequence[max(0, end - 32) : end + 1]
        with torch.no_grad():
            logits = model(torch.tensor([window[:-1]])).logits[0].double().log_softmax(-1)
        scored = logits.gather(1, torch.tensor(window[1:])[:, None])
        expected += float(scored[start - end :].sum())
    assert total == pytest.approx(expected, abs=1e-2)


def test_generation_does_not_depend_on_the_batch(model, tokenizer):
    options = {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}
    asked = [(context, options) for context in ("the fox", SHOTS, "under the old", "the fox")]
    together = TinyLM(model, tokenizer, batch_size=4096).generate_until(
        requests("generate_until", asked)
    )
    alone = [
        TinyLM(model, tokenizer, batch_size=1).generate_until(requests("generate_until", [one]))[0]
        for one in asked
    ]
    assert together == alone and together[0] == together[3] and any(together)


def test_stopped_and_run_again_asks_only_for_what_is_missing(model, tokenizer, tmp_path):
    path = tmp_path / "answers.jsonl"
    first = TinyLM(model, tokenizer, answers=path, batch_size=32)
    whole = first.loglikelihood(requests("loglikelihood", PAIRS))
    lines = path.read_text().splitlines(keepends=True)
    # killed while writing line 11
    path.write_text("".join(lines[:10]) + lines[10][: len(lines[10]) // 2])
    second = TinyLM(model, tokenizer, answers=path, batch_size=32)
    assert len(second.answers) == 10
    again = second.loglikelihood(requests("loglikelihood", PAIRS))
    assert [greedy for _, greedy in again] == [greedy for _, greedy in whole]
    assert [total for total, _ in again] == pytest.approx([total for total, _ in whole], abs=1e-4)
    assert 0 < second.computed_tokens < first.computed_tokens


def test_long_prompts_lose_their_beginning_and_are_counted(model, tokenizer):
    lm = TinyLM(model, tokenizer, max_length=40)
    asked = [("the fox", " jumps"), ("the dog", " runs"), (SHOTS * 2, "the fox")]
    answers = lm.loglikelihood(requests("loglikelihood", asked, task="demo"))
    assert lm.truncated == {"demo": 1}
    whole = tokenizer.encode(SHOTS * 2 + "the fox", add_special_tokens=False)
    count = len(whole) - len(tokenizer.encode((SHOTS * 2).rstrip(), add_special_tokens=False))
    kept = whole[-41:]
    with torch.no_grad():
        logits = model(torch.tensor([kept[:-1]])).logits[0].double().log_softmax(-1)
    expected = sum(float(logits[p, kept[p + 1]]) for p in range(40 - count, 40))
    assert len(whole) > 41 and answers[2][0] == pytest.approx(expected, abs=1e-3)


def test_a_context_too_short_for_the_examples_is_one_clear_line(model, tokenizer):
    lm = TinyLM(model, tokenizer, max_length=40)
    asked = [(SHOTS * 2, " a"), (SHOTS * 2 + "b", " a"), ("the", " fox")]
    with pytest.raises(
        InputError, match=r"demo: 2 of 3 prompts do not fit the context of 40.*--num-fewshot"
    ):
        lm.loglikelihood(requests("loglikelihood", asked, task="demo"))


def test_an_answer_without_tokens_of_its_own_has_no_score(model, tokenizer):
    lm = TinyLM(model, tokenizer)
    whole = tokenizer.decode([max(range(len(tokenizer)), key=lambda i: len(tokenizer.decode([i])))])
    ((total, _),) = lm.loglikelihood(requests("loglikelihood", [(whole[:-1], whole[-1])]))
    shorter = tokenizer.encode(whole[:-1], add_special_tokens=False)
    assert math.isnan(total) == (
        len(shorter) >= len(tokenizer.encode(whole, add_special_tokens=False))
    )
    assert math.isnan(total)


def test_a_model_that_overflows_answers_nan_and_stops_nothing(tokenizer, tmp_path):
    broken = tiny_llama(len(tokenizer))
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("inf"))
    lm = TinyLM(broken, tokenizer, answers=tmp_path / "answers.jsonl")
    ((total, _),) = lm.loglikelihood(requests("loglikelihood", [("the", " fox")]))
    assert math.isnan(total)
    json.loads((tmp_path / "answers.jsonl").read_text().splitlines()[0])


def test_automatic_batch_size_is_timed_when_there_is_enough_to_do(model, tokenizer, monkeypatch):
    for module in ("adapter", "tree"):
        monkeypatch.setattr(f"tinylm.evaluate.{module}.SIZES", (16, 32, 64))
    lm = TinyLM(model, tokenizer)
    tried = []
    forward = lm.tree._forward
    monkeypatch.setattr(
        lm.tree,
        "_forward",
        lambda step, cache: (tried.append(len(step.tokens)), forward(step, cache))[1],
    )
    assert lm.batch_tokens == 32 and not tried
    lm.requested_tokens = 10**6
    assert lm.batch_tokens in (16, 32, 64) and set(tried) == {16, 32, 64}


def with_bos(tokenizer):
    """The same tokenizer, adding BOS by itself as Llama's does."""
    from tokenizers.processors import TemplateProcessing

    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )


@pytest.mark.parametrize("adds_bos", [False, True])
def test_every_answer_equals_lm_evals_own_adapter(adds_bos):
    pytest.importorskip(
        "accelerate", reason="lm-eval's Hugging Face adapter cannot be imported without accelerate"
    )
    from lm_eval.models.huggingface import HFLM

    tokenizer = with_bos(byte_tokenizer()) if adds_bos else byte_tokenizer()
    model = tiny_llama(len(tokenizer))
    theirs = HFLM(model, tokenizer=tokenizer, batch_size=1, max_length=128)
    ours = TinyLM(model, tokenizer, max_length=128, batch_size=64)
    long = [*PAIRS, (SHOTS * 4, " the fox")]
    expected = theirs.loglikelihood(requests("loglikelihood", long), disable_tqdm=True)
    answers = ours.loglikelihood(requests("loglikelihood", long))
    assert [total for total, _ in answers] == pytest.approx(
        [total for total, _ in expected], abs=1e-3
    )
    assert [greedy for _, greedy in answers] == [greedy for _, greedy in expected]
    texts = [(SHOTS * 3,), ("the fox",), ("我们在河边",)]
    assert ours.loglikelihood_rolling(requests("loglikelihood_rolling", texts)) == pytest.approx(
        theirs.loglikelihood_rolling(requests("loglikelihood_rolling", texts), disable_tqdm=True),
        abs=1e-2,
    )
    options = {"until": ["."], "max_gen_toks": 10}
    asked = [(context, options) for context in ("the fox", SHOTS, "under the old")]
    assert ours.generate_until(requests("generate_until", asked)) == theirs.generate_until(
        requests("generate_until", asked), disable_tqdm=True
    )
