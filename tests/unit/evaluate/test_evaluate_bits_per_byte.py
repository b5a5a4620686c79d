import copy
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import tiny_llama
from tokenizers import Tokenizer, models
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

from tinylm.corpus.read import Document
from tinylm.errors import InputError, WorkError
from tinylm.evaluate.bits_per_byte import (
    batches,
    bits_per_byte,
    held_out,
    paired_difference,
    score_documents,
    split_windows,
    summarise,
)
from tinylm.evaluate.forward import Scorer, scoring

DOCUMENTS = [
    Document("the quick brown fox jumps over the lazy dog. " * 6, "a.txt"),
    Document("under the old bridge", "a.txt"),
    Document("我们看见一只狐狸 and the river runs.", "b.txt"),
    Document("é", "b.txt"),
]


def brute_force_bits(model, tokenizer, text, context, stride):
    """One forward pass for each token, over exactly the tokens that the documented rule lets it
    see."""
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    sequence = [tokenizer.bos_token_id, *ids]
    bits = 0.0
    for target in range(1, len(sequence)):
        chunk = 0 if target <= context else (target - context - 1) // stride + 1
        first = chunk * stride
        with torch.no_grad():
            logits = model(torch.tensor([sequence[first:target]])).logits[0, -1].double()
        bits -= float(torch.log_softmax(logits, -1)[sequence[target]]) / math.log(2)
    return bits


@pytest.mark.parametrize(("context", "stride"), [(256, 256), (16, 16), (16, 8), (16, 5)])
def test_equals_brute_force(model, tokenizer, context, stride):
    result = score_documents(
        model, tokenizer, DOCUMENTS, context, stride=stride, dtype=None, batch_tokens=64
    )
    expected = [brute_force_bits(model, tokenizer, d.text, context, stride) for d in DOCUMENTS]
    assert result.bits == pytest.approx(expected, rel=1e-5)
    assert list(result.bytes) == [len(d.text.encode()) for d in DOCUMENTS]


def test_batch_size_does_not_change_the_result(model, tokenizer):
    small = bits_per_byte(model, tokenizer, DOCUMENTS, 32, dtype=None, batch_tokens=1)
    large = bits_per_byte(model, tokenizer, DOCUMENTS, 32, dtype=None, batch_tokens=10**6)
    assert small["bits_per_byte"] == pytest.approx(large["bits_per_byte"], rel=1e-6)


def test_whole_is_the_byte_weighted_mean_of_the_sources(model, tokenizer):
    result = bits_per_byte(model, tokenizer, DOCUMENTS, dtype=None, context=128)
    parts = result["by_source"].values()
    assert set(result["by_source"]) == {"a.txt", "b.txt"}
    assert sum(part["bytes"] for part in parts) == result["bytes"]
    mean = sum(part["bits_per_byte"] * part["bytes"] for part in parts) / result["bytes"]
    assert mean == pytest.approx(result["bits_per_byte"])
    json.dumps(result)


def test_bf16_is_close_to_fp32_and_leaves_the_model_alone(model, tokenizer):
    before = copy.deepcopy(model.state_dict())
    exact = bits_per_byte(model, tokenizer, DOCUMENTS, 128, dtype=None)["bits_per_byte"]
    coarse = bits_per_byte(model, tokenizer, DOCUMENTS, 128, dtype=torch.bfloat16)["bits_per_byte"]
    assert coarse != exact and coarse == pytest.approx(exact, rel=0.01)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.dtype == torch.float32


def test_training_mode_is_put_back_and_dropout_is_off(model, tokenizer):
    model.train()
    model.model.layers[0].self_attn.attention_dropout = 0.5
    try:
        first = bits_per_byte(model, tokenizer, DOCUMENTS, 64, dtype=None)["bits_per_byte"]
        assert first == bits_per_byte(model, tokenizer, DOCUMENTS, 64, dtype=None)["bits_per_byte"]
        assert model.training
    finally:
        model.model.layers[0].self_attn.attention_dropout = 0.0
        model.eval()


def test_a_model_that_caps_its_logits_is_scored_a_slice_at_a_time(tokenizer):
    """Whole logits of 8,192 tokens of Gemma 2 are 4 GB."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=128,
        final_logit_softcapping=0.5,
        initializer_range=0.5,
    )
    capped = Gemma2ForCausalLM(config).eval()
    assert Scorer(capped).head is not None
    bits = score_documents(capped, tokenizer, DOCUMENTS, 64, dtype=None).bits
    assert bits[1] == pytest.approx(
        brute_force_bits(capped, tokenizer, DOCUMENTS[1].text, 64, 64), rel=1e-5
    )


def test_head_on_slices_equals_whole_logits(model, monkeypatch):
    monkeypatch.setattr("tinylm.evaluate.forward.LOGITS_AT_ONCE", 3 * model.config.vocab_size)
    ids = torch.randint(0, model.config.vocab_size, (1, 20))
    with scoring(model):
        scorer = Scorer(model)
        assert scorer.head is not None
        features = scorer.features(ids, use_cache=False)
        scores = scorer.score(features[0, :-1], ids[0, 1:])
        logits = model(ids).logits[0, :-1]
    expected = torch.log_softmax(logits, -1).gather(1, ids[0, 1:, None])[:, 0]
    torch.testing.assert_close(scores.logprob, expected)
    assert torch.equal(scores.greedy, logits.argmax(-1) == ids[0, 1:])


@given(
    count=st.integers(0, 60),
    context=st.integers(2, 20),
    stride=st.integers(1, 20),
    batch_tokens=st.integers(1, 100),
)
@settings(max_examples=200, deadline=None)
def test_every_token_is_scored_once_after_the_ones_before_it(count, context, stride, batch_tokens):
    stride = min(stride, context)
    ids = np.arange(1, count + 1)
    windows = list(split_windows(0, ids, 0, context, stride))
    assert [t for w in windows for t in w.targets] == list(ids)
    for window in windows:
        assert 0 < len(window.targets) <= len(window.inputs) <= context
        assert list(window.inputs[-len(window.targets) :] + 1) == list(window.targets)
        assert window.inputs[0] == 0 or len(window.inputs) - len(window.targets) == context - stride
    shuffled = [w for batch in batches(windows, batch_tokens) for w in batch]
    assert sorted(w.targets[0] for w in shuffled) == [w.targets[0] for w in windows]
    for batch in batches(windows, batch_tokens):
        assert len(batch) == 1 or len(batch) * max(len(w.inputs) for w in batch) <= batch_tokens


def test_same_number_through_a_compacted_tokenizer(model, tokenizer):
    """A vocabulary cut to the tokens a text uses gives the same text the same ids up to renaming.
    Predictions are renormalised over fewer tokens, so bits per byte can only fall; giving the cut
    tokens no mass makes it equal."""
    text = "the quick brown fox jumps over the lazy dog while the river runs under the old bridge. "
    used = sorted({tokenizer.eos_token_id, *tokenizer.encode(text, add_special_tokens=False)})
    kept, small = compacted(tokenizer, used)
    twin = copy.deepcopy(model)
    twin.resize_token_embeddings(len(kept))
    with torch.no_grad():
        twin.get_input_embeddings().weight.copy_(model.get_input_embeddings().weight[kept])
    silenced = copy.deepcopy(model)
    silenced.config.tie_word_embeddings = False
    silenced.lm_head = torch.nn.Linear(model.config.hidden_size, model.config.vocab_size)
    with torch.no_grad():
        silenced.lm_head.weight.copy_(model.get_input_embeddings().weight)
        silenced.lm_head.bias.fill_(-1e9)
        silenced.lm_head.bias[kept] = 0
    document = [Document(text, "x")]
    whole, cut, silent = (
        bits_per_byte(m, t, document, 64, dtype=None)["bits_per_byte"]
        for m, t in ((model, tokenizer), (twin, small), (silenced, tokenizer))
    )
    assert cut == pytest.approx(silent, rel=1e-5)
    assert cut < whole


def compacted(tokenizer, used):
    """The tokenizer with only ``used`` ids and what their merges need, renumbered: the ids kept, in
    order."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab, merges = state["model"]["vocab"], [tuple(pair) for pair in state["model"]["merges"]]
    names = {index: name for name, index in vocab.items()}
    keep = {names[index] for index in used}
    for left, right in reversed(merges):
        if left + right in keep:
            keep |= {left, right}
    kept = sorted(vocab[name] for name in keep)
    state["model"]["vocab"] = {names[old]: new for new, old in enumerate(kept)}
    state["model"]["merges"] = [list(p) for p in merges if {p[0], p[1], p[0] + p[1]} <= keep]
    for token in state["added_tokens"]:
        token["id"] = kept.index(token["id"])
    backend = Tokenizer.from_str(json.dumps(state))
    return kept, PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", bos_token="<|endoftext|>"
    )


def test_a_marker_in_the_text_is_paid_for(model, tokenizer):
    marker = score_documents(model, tokenizer, [Document("<|endoftext|>", "x")], 64, dtype=None)
    assert marker.tokens[0] > 1 and marker.bytes[0] == 13


def test_bootstrap_error_matches_the_formula_for_a_mean():
    generator = np.random.default_rng(1)
    byte_counts = np.full(400, 10)
    bits = 10 * generator.normal(1.0, 0.3, 400)
    summary = summarise(bits, byte_counts, resamples=2000)
    assert summary["stderr"] == pytest.approx((bits / 10).std(ddof=1) / 20, rel=0.1)
    assert summarise(bits[:1], byte_counts[:1])["stderr"] is None


def test_paired_difference_is_tighter_than_two_separate_errors(model, tokenizer):
    documents = [Document(d.text[:n], "x") for d in DOCUMENTS for n in range(3, len(d.text), 9)]
    base = score_documents(model, tokenizer, documents, 64, dtype=None)
    noisy = copy.deepcopy(model)
    with torch.no_grad():
        noisy.model.norm.weight.mul_(1.02)
    ours = score_documents(noisy, tokenizer, documents, 64, dtype=None)
    difference = paired_difference(ours, base)
    error = summarise(base.bits, base.bytes)["stderr"]
    assert difference["low"] <= difference["difference"] <= difference["high"]
    assert difference["high"] - difference["low"] < 2 * error
    with pytest.raises(InputError, match="different documents"):
        paired_difference(ours, score_documents(model, tokenizer, documents[1:], 64, dtype=None))


@pytest.mark.parametrize(
    ("documents", "options", "message"),
    [
        ([], {}, "no text"),
        ([Document("", "x")], {}, "no text"),
        (DOCUMENTS, {"context": 1}, "does not fit"),
        (DOCUMENTS, {"context": 257}, "does not fit"),
        (DOCUMENTS, {"context": 16, "stride": 17}, "stride"),
    ],
)
def test_wrong_input_is_one_clear_line(model, tokenizer, documents, options, message):
    with pytest.raises(InputError, match=message):
        bits_per_byte(model, tokenizer, documents, **options)


def test_a_tokenizer_without_a_token_between_documents_is_refused(model):
    backend = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    bare = PreTrainedTokenizerFast(tokenizer_object=backend)
    with pytest.raises(InputError, match="no end-of-text token"):
        bits_per_byte(model, bare, DOCUMENTS, context=64)


def test_unknown_tokens_are_counted(model, tokenizer):
    known = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, bos_token="<|endoftext|>", unk_token="a"
    )
    assert bits_per_byte(model, known, [Document("a b a", "x")], context=64)["unknown_tokens"] == 2


def test_a_tokenizer_of_another_model_is_refused(tokenizer):
    with pytest.raises(InputError, match="own tokenizer"):
        bits_per_byte(tiny_llama(50), tokenizer, DOCUMENTS, context=64)


def test_a_model_of_nan_is_an_error_not_a_result(model, tokenizer):
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.model.norm.weight[0] = float("nan")
    with pytest.raises(WorkError, match="gives NaN or infinity on a text of"):
        score_documents(broken, tokenizer, DOCUMENTS, 64, dtype=None)


def test_files_of_one_name_are_two_sources(tmp_path):
    for language in ("en", "zh"):
        (tmp_path / language).mkdir()
        (tmp_path / language / "test.txt").write_text(f"text in {language}")
    (tmp_path / "other.txt").write_text("alone")
    files = [tmp_path / "en" / "test.txt", tmp_path / "zh" / "test.txt", tmp_path / "other.txt"]
    assert [d.source for d in held_out(files)] == [str(files[0]), str(files[1]), "other.txt"]
    with pytest.raises(InputError, match="--documents -1"):
        held_out(files, -1)
    (tmp_path / "empty.txt").write_text("  ")
    with pytest.raises(InputError, match="no text in"):
        held_out([tmp_path / "empty.txt"])
