"""Tokenizers less tidy than one expects: what ends a text, what stands around it, ids without a
row, flags of added tokens, templates. llama.cpp and `transformers` are the references."""

import json
import shutil

import numpy as np
import pytest
import torch
from builders import byte_level_tokenizer, corpus_file, random_model, sentencepiece_tokenizer, texts
from tokenizers import AddedToken, Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from tinylm.artifact import read_json, write_json
from tinylm.corpus.pack import pack
from tinylm.corpus.store import open_store
from tinylm.errors import InputError, WorkError
from tinylm.evaluate.encoding import encode_pairs
from tinylm.export import hard_text
from tinylm.export.check import export_checked
from tinylm.export.check_tokens import compare_tokens
from tinylm.export.gguf import export
from tinylm.export.llamacpp import Llama
from tinylm.inherit.inheritance import inherit
from tinylm.models.generate import Speed, chat_prompt, end_tokens, generate
from tinylm.models.shape import Shape
from tinylm.models.teacher import load_model, load_tokenizer
from tinylm.models.tokenizer import prompt_ids
from tinylm.tokenizer import certificate
from tinylm.tokenizer.compress import compress
from tinylm.tokenizer.count import count
from tinylm.tokenizer.engines import Engine
from tinylm.tokenizer.source import read_source
from tinylm.train.config import TrainConfig
from tinylm.train.inputs import check_inputs

NAMES = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def model_with(folder, stops, eos="<|im_end|>", rename=None, **changes):
    """A random Llama whose generation config names ``stops``; ``rename`` the special tokens."""
    state = json.loads(byte_level_tokenizer().backend_tokenizer.to_str())
    text = json.dumps(state)
    for old, new in (rename or {}).items():
        text = text.replace(old, new)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(text), eos_token=eos, **changes
    )
    random_model(folder, "llama", tokenizer, eos_token_id=tokenizer.eos_token_id)
    path = folder / "generation_config.json"
    write_json(path, {**read_json(path), "eos_token_id": stops})
    return folder


OWN = {"<|im_start|>": "<|user_start|>", "<|im_end|>": "<|assistant_end|>"}


@pytest.mark.parametrize(
    ("stops", "eos", "rename", "expected"),
    [
        ([2, 0], "<|im_end|>", None, {0, 2}),
        ([0], "<|endoftext|>", None, {0}),
        (2, "<|endoftext|>", OWN, {0, 2}),
        ([0, 1, 2], "<|endoftext|>", OWN, {0, 1, 2}),
        ([0, 2], "<|assistant_end|>", OWN, {0, 2}),
    ],
)
def test_both_runtimes_end_a_text_at_the_same_tokens(stops, eos, rename, expected, tmp_path):
    model = model_with(tmp_path / "m", stops, eos, rename)
    export_checked(model, tmp_path / "m.gguf", "F32")
    assert end_tokens(load_model(model), load_tokenizer(model)) == expected
    with Llama(tmp_path / "m.gguf") as llama:
        assert {i for i in range(llama.vocab_size) if llama.is_end(i)} >= expected
        ordinary = set(range(3, llama.vocab_size))
        assert not {i for i in ordinary if llama.is_end(i)}
    # and the file as a teacher
    back = tmp_path / "m.gguf"
    assert end_tokens(load_model(back), load_tokenizer(back)) >= expected


def test_a_model_without_an_end_does_not_end_at_a_letter(tmp_path):
    model = model_with(tmp_path / "m", None, None)
    settings = read_json(model / "config.json")
    write_json(model / "config.json", settings | {"eos_token_id": None})
    export(model, tmp_path / "m.gguf", "F32")
    with Llama(tmp_path / "m.gguf") as llama:
        assert not any(llama.is_end(i) for i in range(3, llama.vocab_size))


def test_more_ends_than_a_gguf_names_are_refused(tmp_path):
    model = model_with(tmp_path / "m", [0, 1, 2, 7], "<|endoftext|>", OWN)
    with pytest.raises(InputError, match="names three"):
        export(model, tmp_path / "m.gguf", "F32")


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
@pytest.mark.parametrize("content", ["<tool>", "river"])
def test_flags_that_llamacpp_lacks_are_found(flag, content, tmp_path):
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens([AddedToken(content, normalized=False, **{flag: True})])
    random_model(tmp_path / "m", "llama", tokenizer)
    with pytest.raises(WorkError, match=f"{flag} of '{content}'"):
        export_checked(tmp_path / "m", tmp_path / "m.gguf", "F32")
    assert not (tmp_path / "m.gguf").exists()
    report = export(tmp_path / "m", tmp_path / "m.gguf", "F32")
    assert flag in report["lost"][0] and content in report["lost"][0]


@pytest.mark.parametrize("piece", ["ab", "the river", "\u2581city"])
def test_pieces_that_no_merge_makes_are_compared(piece, tmp_path):
    """llama.cpp's SentencePiece joins any two neighbours whose union is a token."""
    state = json.loads(sentencepiece_tokenizer().backend_tokenizer.to_str())
    model = state["model"]
    model["merges"] = [m for m in model["merges"] if "".join(m) != piece]
    model["vocab"].setdefault(piece, len(model["vocab"]))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), unk_token="<unk>", eos_token="</s>"
    )
    random_model(tmp_path / "m", "llama", tokenizer)
    export(tmp_path / "m", tmp_path / "m.gguf", "F32")
    loaded = load_tokenizer(tmp_path / "m")
    spelled = loaded.decode([model["vocab"][piece]]).strip()
    with Llama(tmp_path / "m.gguf") as llama:
        same = llama.tokenize(spelled) == loaded(spelled, add_special_tokens=False)["input_ids"]
        if same:
            compare_tokens(llama, loaded)
        else:
            with pytest.raises(WorkError, match="differently"):
                compare_tokens(llama, loaded)


def spm(normalizer="keep", pre_tokenizer=None, ends=()):
    state = json.loads(sentencepiece_tokenizer().backend_tokenizer.to_str())
    if normalizer != "keep":
        state["normalizer"] = normalizer
    state["pre_tokenizer"] = pre_tokenizer
    backend = Tokenizer.from_str(json.dumps(state))
    if ends:
        parts = [part for part in ("<s>", "$A", "</s>") if part == "$A" or part in ends]
        ids = [(name, backend.token_to_id(name)) for name in ends]
        backend.post_processor = processors.TemplateProcessing(single=parts, special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
FIRST = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
LEADING = [" a", "  two", "   three and", "\n x", "a <s> b", " <s> b", "x</s>y", "\t tab", ""]


@pytest.mark.parametrize(
    "tokenizer",
    [spm(), spm(SPACES), spm(None, FIRST), spm(ends=("<s>",)), spm(SPACES, ends=("<s>", "</s>"))],
    ids=["a space before all", "none", "only where none is", "BOS", "BOS and EOS"],
)
def test_a_sentencepiece_gguf_splits_text_as_llamacpp_does(tokenizer, tmp_path):
    random_model(tmp_path / "m", "llama", tokenizer)
    (tmp_path / "elsewhere").mkdir()
    file = tmp_path / "elsewhere" / "m.gguf"
    export(tmp_path / "m", file, "F32")
    shutil.copy(tmp_path / "m" / "tokenizer.json", tmp_path / "elsewhere")  # must not be read
    back = load_tokenizer(file)
    with Llama(file) as llama:
        for text in [*hard_text.TEXTS, *LEADING]:
            ids = back(text, add_special_tokens=False)["input_ids"]
            assert ids == llama.tokenize(text), text
        assert back("a b")["input_ids"] == llama.tokenize("a b", add_special=True)


def around(before=(), behind=()):
    tokenizer = byte_level_tokenizer()
    backend = tokenizer.backend_tokenizer
    names = [*before, *behind]
    if names:
        backend.post_processor = processors.TemplateProcessing(
            single=[*before, "$A", *behind],
            special_tokens=[(name, backend.token_to_id(name)) for name in dict.fromkeys(names)],
        )
    tokenizer.bos_token = "<|endoftext|>"
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "text", "before"),
    [
        (around(), "the river", []),
        (around(["<|endoftext|>"]), "the river", [0]),
        (around([], ["<|im_end|>"]), "the river", []),
        (around(["<|endoftext|>"], ["<|im_end|>"]), "the river", [0]),
        (around(["<|endoftext|>"], ["<|im_end|>", "<|im_end|>"]), "the river", [0]),
        (around(["<|endoftext|>"]), "<|endoftext|>the river", []),  # its own, and no second
        (around(["<|endoftext|>"], ["<|im_end|>"]), "", [0]),
    ],
)
def test_a_text_goes_on_where_it_ends(tokenizer, text, before, tmp_path):
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert prompt_ids(tokenizer, text) == before + plain
    random_model(tmp_path / "m", "llama", tokenizer)
    model, said, expected = load_model(tmp_path / "m"), Speed(), Speed()
    list(generate(model, tokenizer, text, 5, speed=said))
    list(generate(model, tokenizer, before + plain or [0], 5, speed=expected))
    assert said.ids == expected.ids
    ends = chat_prompt(around([], ["<|im_end|>"]), [{"role": "user", "content": "hi"}])
    assert ends[-1] != 2 or tokenizer.chat_template


@pytest.mark.parametrize(
    "flags",
    [{"single_word": True}, {"lstrip": True}, {"rstrip": True}],
)
def test_counts_are_exact_wherever_an_odd_token_stands(flags, tmp_path):
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens([AddedToken("river", normalized=False, **flags)])
    tokenizer.save_pretrained(tmp_path)
    words = texts(30, words=400)  # further in than any sample looks
    engine = Engine(read_source(tmp_path))
    expected = np.zeros(engine.source.size, dtype=np.int64)
    for text in words:
        np.add.at(expected, tokenizer(text, add_special_tokens=False)["input_ids"], 1)
    assert np.array_equal(engine.count(words)[0], expected)
    assert "river" in engine.name


@pytest.mark.parametrize(
    "change",
    [
        {
            "padding": {
                "strategy": "BatchLongest",
                "direction": "Left",
                "pad_to_multiple_of": None,
                "pad_id": 480,
                "pad_type_id": 0,
                "pad_token": "x",
            }
        },
        {
            "truncation": {
                "direction": "Right",
                "max_length": 4,
                "strategy": "LongestFirst",
                "stride": 0,
            }
        },
        {"flags": {"normalized": True}},
        {"flags": {"normalized": True, "special": True}},
        {"flags": {"single_word": True}},
    ],
    ids=["padding", "truncation", "default flags", "special", "whole words"],
)
def test_an_untidy_tokenizer_is_cut(change, tmp_path, monkeypatch):
    monkeypatch.setattr(certificate, "FUZZ_STRINGS", 200)
    tokenizer = byte_level_tokenizer()
    if "flags" in change:
        tokenizer.add_tokens([AddedToken("found ", **change["flags"])])
    tokenizer.save_pretrained(tmp_path / "t")
    path = tmp_path / "t" / "tokenizer.json"
    write_json(path, read_json(path) | {k: v for k, v in change.items() if k != "flags"})
    corpus = str(corpus_file(tmp_path / "c.jsonl", 60))
    counts = count(tmp_path / "t", [corpus])
    result = compress(tmp_path / "t", counts, out=tmp_path / "o", vocab_size=384, multiple_of=1)
    assert result["passed"]
    child = read_json(tmp_path / "o" / "tokenizer.json")
    assert child["padding"] is None and child["truncation"] is None


@pytest.fixture
def rowless(tmp_path):
    """A model of 500 rows whose tokenizer has a 501st token, and texts that spell it."""
    tokenizer = byte_level_tokenizer()
    random_model(tmp_path / "m", "llama", tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.parametrize("prompt", ["<pad>", "the <pad> river", "the river<pad>"])
def test_a_token_without_a_row_is_named(prompt, rowless, tmp_path):
    model, tokenizer = load_model(rowless), load_tokenizer(rowless)
    with pytest.raises(InputError, match=r"'<pad>' \(id 500\) has no row"):
        list(generate(model, tokenizer, prompt, 2))
    ids = torch.tensor([tokenizer((prompt + " city") * 20)["input_ids"][:32]] * 2)
    with pytest.raises(InputError, match="token id 500"):
        inherit(model, Shape.from_config(model.config), ids)
    store = pack([prompt + " city"] * 20, tokenizer, tmp_path / "store")
    with pytest.raises(InputError, match="token id 500"):
        check_inputs(model, store, TrainConfig(steps=1, sequence_length=8, batch_size=1), None)


def test_a_token_without_a_row_that_no_text_spells_is_no_reason(rowless, tmp_path):
    model, tokenizer = load_model(rowless), load_tokenizer(rowless)
    tokenizer.add_tokens([f"<more{i}>" for i in range(40)])
    pack(texts(20), tokenizer, tmp_path / "store")
    config = TrainConfig(steps=1, sequence_length=8, batch_size=1)
    check_inputs(model, open_store(tmp_path / "store"), config, None)
    assert "".join(generate(model, tokenizer, "the river", 3))


SAYS = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.mark.parametrize(
    ("templates", "expected"),
    [
        ({"default": SAYS, "tool_use": "x"}, "hi"),
        ({"rag": SAYS}, "hi"),
        (SAYS, "hi"),
        ({"rag": SAYS, "tool_use": SAYS}, None),
    ],
)
def test_named_chat_templates(templates, expected):
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = templates
    talk = [{"role": "user", "content": "hi"}]
    if expected is None:
        with pytest.raises(InputError, match="rag, tool_use"):
            chat_prompt(tokenizer, talk)
        return
    assert tokenizer.decode(chat_prompt(tokenizer, talk)) == expected


@pytest.mark.parametrize("before", [[], ["<|endoftext|>"]], ids=["nothing before", "BOS before"])
@pytest.mark.parametrize(
    "behind", [[], ["<|im_end|>"], ["<|im_end|>", "<|im_end|>"]], ids=["nothing", "EOS", "two"]
)
def test_a_task_scores_the_answer_and_not_what_stands_behind_it(before, behind):
    tokenizer = around(before, behind)
    pairs = [("the river", " was old"), ("a new", " court"), ("", "the river")]
    plain = [
        tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in ("the river was old", "a new court", "the river")
    ]
    for (context, answer), whole in zip(encode_pairs(tokenizer, pairs), plain, strict=True):
        assert [*context, *answer][-len(whole) :] == whole
        assert 2 not in answer
