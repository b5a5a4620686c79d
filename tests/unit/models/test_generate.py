"""Text from a model: greedy and sampled, streamed in whole characters, stopping where it must."""

import io
import math

import pytest
import torch
from builders import byte_level_tokenizer, random_model, sentencepiece_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from tinylm.cli import main
from tinylm.errors import InputError
from tinylm.models.generate import (
    Sampling,
    Speed,
    TextStream,
    chat_prompt,
    choose,
    fit_context,
    generate,
    until,
)
from tinylm.models.teacher import load_model, load_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_model(
        tmp_path_factory.mktemp("generate") / "m",
        "llama",
        byte_level_tokenizer(),
        max_position_embeddings=64,
    )


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


def test_greedy_is_what_transformers_generates(model, tokenizer):
    speed = Speed()
    text = "".join(generate(model, tokenizer, "the river", 20, speed=speed))
    prompt = torch.tensor([tokenizer("the river")["input_ids"]])
    theirs = model.generate(prompt, max_new_tokens=20, do_sample=False)[
        0, prompt.shape[1] :
    ].tolist()
    assert speed.ids == theirs[: len(speed.ids)]
    assert text == tokenizer.decode([token for token in speed.ids if token != 2])
    assert speed.prompt_tokens == prompt.shape[1] and speed.new_tokens == len(speed.ids)


def test_the_same_seed_draws_the_same_text_and_another_another(model, tokenizer):
    def text(seed):
        return "".join(generate(model, tokenizer, "the", 12, Sampling(temperature=1.0, seed=seed)))

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(4)}) > 1


def test_stops_at_the_end_of_text(model, tokenizer, monkeypatch):
    first = Speed()
    list(generate(model, tokenizer, "stone people", 5, speed=first))
    monkeypatch.setattr(model.generation_config, "eos_token_id", [first.ids[2]])
    speed = Speed()
    list(generate(model, tokenizer, "stone people", 5, speed=speed))
    assert speed.stopped_by == "end of text"
    assert speed.ids == first.ids[: first.ids.index(first.ids[2]) + 1]


def test_stops_where_the_context_ends(model, tokenizer):
    speed = Speed()
    prompt = [10] * 60
    list(generate(model, tokenizer, prompt, 50, speed=speed))
    assert speed.new_tokens <= 4 and speed.stopped_by in ("context", "end of text")


@pytest.mark.parametrize(
    ("prompt", "tokens", "message"), [([10] * 64, 5, "context is 64"), ("the", 0, "max-new-tokens")]
)
def test_what_cannot_be_generated(model, tokenizer, prompt, tokens, message):
    with pytest.raises(InputError, match=message):
        list(generate(model, tokenizer, prompt, tokens))


def test_an_empty_prompt_needs_a_bos_token(model, tokenizer, monkeypatch):
    assert list(generate(model, tokenizer, "", 3)) is not None
    monkeypatch.setattr(type(tokenizer), "bos_token_id", None, raising=False)
    with pytest.raises(InputError, match="prompt is empty"):
        list(generate(model, tokenizer, "", 3))


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_wrong_sampling(wrong):
    with pytest.raises(InputError):
        Sampling(**wrong)


def draws(logits, sampling, count=400):
    generator = torch.Generator().manual_seed(0)
    return [choose(torch.tensor(logits), sampling, generator) for _ in range(count)]


def test_choose():
    logits = [math.log(p) for p in (0.5, 0.3, 0.15, 0.05)]
    assert set(draws(logits, Sampling(0.0), 3)) == {0}
    assert set(draws(logits, Sampling(1.0))) == {0, 1, 2, 3}
    assert set(draws(logits, Sampling(1.0, top_k=2))) == {0, 1}
    # 0.5 does not reach 0.6, the next crosses it
    assert set(draws(logits, Sampling(1.0, top_p=0.6))) == {0, 1}
    assert set(draws(logits, Sampling(1.0, top_p=0.01))) == {0}
    share = draws(logits, Sampling(1.0), 4000).count(0) / 4000
    assert share == pytest.approx(0.5, abs=0.04)


TOKENIZERS = {"bytes": byte_level_tokenizer(), "sentencepiece": sentencepiece_tokenizer()}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(TOKENIZERS)),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=30),
)
def test_the_pieces_of_a_stream_join_to_the_text(kind, text):
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    stream = TextStream(tokenizer)
    pieces = [stream.put(token) for token in ids]
    assert "".join(pieces) + stream.finish() == tokenizer.decode(ids)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)  # no half characters on the way


def test_chat_with_and_without_a_template(tokenizer, monkeypatch):
    messages = [{"role": "user", "content": "old city"}]
    assert tokenizer.decode(chat_prompt(tokenizer, messages)).startswith(
        "<|im_start|>user\nold city<|im_end|>"
    )
    monkeypatch.setattr(tokenizer, "chat_template", None)
    assert tokenizer.decode(chat_prompt(tokenizer, messages)) == "User: old city\nAssistant:"


def test_the_oldest_exchanges_make_room_and_the_system_message_stays(tokenizer):
    messages = [{"role": "system", "content": "be short"}]
    for number in range(6):
        messages += [
            {"role": "user", "content": f"question {number}"},
            {"role": "assistant", "content": "yes"},
        ]
    messages.append({"role": "user", "content": "last"})
    ids, kept = fit_context(tokenizer, messages, context=120, reserve=40)
    assert len(ids) <= 80 and len(kept) < len(messages)
    assert (
        kept[0]["role"] == "system" and kept[1]["role"] == "user" and kept[-1]["content"] == "last"
    )


def test_generate_command(folder, capsys):
    main(["generate", "--model", str(folder), "--prompt", "the river", "--max-new-tokens", "5"])
    told = capsys.readouterr()
    assert told.out.strip() and "tokens/s" in told.err


def test_chat_command(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("old city\nnew city\n\nnever read\n"))
    main(["chat", "--model", str(folder), "--max-new-tokens", "4", "--temperature", "0"])
    assert capsys.readouterr().err.count("tokens/s") == 4  # two answers, "prompt" and "new" each


def test_a_model_that_is_not_there(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["generate", "--model", "./no-such-model", "--prompt", "x"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_keys_are_made_anew_where_long_range_factors_begin(tokenizer):
    """Phi-3 128k rotates all keys otherwise once a text is longer than what the model was first
    trained on."""
    from transformers import Phi3Config, Phi3ForCausalLM

    factors = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 16,
    }
    rope = factors | {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    torch.manual_seed(0)
    config = Phi3Config(
        **sizes, vocab_size=500, max_position_embeddings=64, rope_parameters=rope, pad_token_id=0
    )
    config.original_max_position_embeddings = 16
    model = Phi3ForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.model.layers.parameters():
            weight.mul_(12)
    speed = Speed()
    list(generate(model, tokenizer, [5, 6, 7, 8, 9, 10], 24, speed=speed))
    ids = [5, 6, 7, 8, 9, 10]
    for token in speed.ids:  # without any cache
        assert token == int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()), (
            len(ids)
        )
        ids.append(token)
    assert len(ids) > 20


def test_a_template_that_refuses_a_system_message_is_one_line(tokenizer, monkeypatch):
    monkeypatch.setattr(
        tokenizer, "chat_template", "{{ raise_exception('System role not supported') }}"
    )
    with pytest.raises(InputError, match="System role not supported"):
        chat_prompt(tokenizer, [{"role": "system", "content": "be short"}])


@pytest.mark.parametrize("cuts", [[3], [9, 10], [10], [11, 12, 13], []])
def test_an_answer_ends_where_the_user_speaks(cuts):
    text = "an answer\nUser: and more"
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]
    assert "".join(until(iter(pieces), "\nUser:")) == "an answer"
    assert "".join(until(iter(["one\nUs", "able"]), "\nUser:")) == "one\nUsable"
