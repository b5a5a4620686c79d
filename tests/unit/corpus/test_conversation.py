"""Conversations: written by the chat template, and only what the assistant says is learned."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from builders import byte_level_tokenizer, texts

from tinylm.cli import main
from tinylm.corpus.conversation import render
from tinylm.corpus.document import Document
from tinylm.corpus.pack import pack
from tinylm.corpus.read import documents
from tinylm.corpus.split import prepare, read_part, write_split
from tinylm.corpus.store import open_store
from tinylm.errors import InputError
from tinylm.evaluate.bits_per_byte import score_documents, token_bits, tokenize_documents
from tinylm.tokenizer.encoders import encoder_of
from tinylm.train.batches import micro_batches
from tinylm.train.config import TrainConfig
from tinylm.train.loss import IGNORE

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TALK = [
    {"role": "user", "content": "the river?"},
    {"role": "assistant", "content": "the old river."},
    {"role": "user", "content": "and the city?"},
    {"role": "assistant", "content": "a large city."},
]


def chat_tokenizer(template: str | None = TEMPLATE):
    tokenizer = byte_level_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = template
    return tokenizer


def conversation(*messages, source="c.jsonl") -> Document:
    return Document("", source, messages=tuple((m["role"], m["content"]) for m in messages))


def written(messages=TALK, loss_on="assistant", tokenizer=None) -> Document:
    (document,) = render([conversation(*messages)], tokenizer or chat_tokenizer(), loss_on)
    return document


def taught(document: Document) -> list[str]:
    return [text for text, counts in document.pieces() if counts]


def test_what_the_assistant_says_with_its_end_of_turn_counts():
    document = written()
    assert document.text.startswith("<|im_start|>user\nthe river?<|im_end|>\n<|im_start|>assistant")
    assert taught(document) == ["the old river.<|im_end|>", "a large city.<|im_end|>"]
    assert "".join(text for text, _ in document.pieces()) == document.text
    whole = written(loss_on="all")
    assert taught(whole) == [whole.text] == [document.text]


def test_plain_text_passes():
    plain = Document("the river", "a.txt")
    assert list(render([plain], chat_tokenizer(), "assistant")) == [plain]
    assert plain.pieces() == [("the river", True)]


def test_bos_of_the_template_is_not_there_twice():
    from tokenizers import processors

    tokenizer = chat_tokenizer("{{ bos_token }}" + TEMPLATE)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    document = written(tokenizer=tokenizer)
    assert document.text.startswith("<s>")  # it does not put one itself
    start = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", start)]
    )
    document = written(tokenizer=tokenizer)
    assert document.text.startswith("<|im_start|>user")
    assert taught(document)[0] == "the old river.<|im_end|>"


@pytest.mark.parametrize(
    ("messages", "template", "words"),
    [
        (TALK, None, "has no chat template"),
        (TALK, "{{ raise_exception('only one turn') }}", "refuses a conversation in c.jsonl"),
        (TALK[:1], TEMPLATE, "has no message of the role 'assistant'"),
        (TALK, "{{ messages | length }}" + TEMPLATE, "writes a turn differently"),
    ],
)
def test_conversations_that_cannot_be_learned_from(messages, template, words):
    with pytest.raises(InputError, match=words):
        written(messages, tokenizer=chat_tokenizer(template))
    if "differently" in words or "no message" in words:  # the way out that the line names
        whole = written(messages, "all", chat_tokenizer(template))
        assert taught(whole) == [whole.text]


@pytest.mark.parametrize(
    "messages",
    ["hello", [], [{"role": "user"}], [{"role": "user", "content": None}], [["user", "hi"]]],
)
def test_messages_that_are_none_are_one_line(messages, tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps({"messages": TALK}) + "\n" + json.dumps({"messages": messages}))
    with pytest.raises(InputError, match=r"c\.jsonl line 2: 'messages' must be a list"):
        list(documents([path], "messages"))


def test_records_of_all_kinds_are_read(tmp_path):
    import pyarrow
    import pyarrow.parquet

    lines = [{"messages": TALK}, {"text": "plain"}, {"messages": None}, {"messages": TALK[:2]}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    pyarrow.parquet.write_table(pyarrow.table({"messages": [TALK, TALK]}), tmp_path / "b.parquet")
    found = list(documents([tmp_path / "a.jsonl", tmp_path / "b.parquet"], "messages"))
    assert [len(one.messages) for one in found] == [4, 0, 2, 4, 4]
    assert found[1].text == "plain"
    with pytest.raises(InputError, match="has no 'text' or 'content'; it has messages"):
        list(documents([tmp_path / "a.jsonl"]))


def test_a_split_keeps_what_counts(tmp_path):
    talks = [written([*TALK[:1], {"role": "assistant", "content": f"city {n}"}]) for n in range(40)]
    write_split([prepare(talks, 0.3)], tmp_path)
    back = [*read_part(tmp_path, "train"), *read_part(tmp_path, "valid")]
    assert {one.text: one.taught for one in back} == {one.text: one.taught for one in talks}


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("plain_first", [0, 3])
def test_a_store_says_which_tokens_count(fast, plain_first, tmp_path):
    tokenizer = chat_tokenizer()
    every = [Document(text, "a") for text in texts(plain_first)] + [written(), written(TALK[:2])]
    every += [Document(text, "a") for text in texts(2)]
    encode = encoder_of(tokenizer) if fast else None
    store = pack(every, tokenizer, tmp_path / "s", encode=encode)
    expected, ids = [], []
    for document in every:
        for text, counts in document.pieces():
            row = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids += row
            expected += [counts] * len(row)
        ids.append(store.separator)
        expected.append(True)
    assert store.tokens.tolist() == ids
    assert store.counted.astype(bool).tolist() == expected
    assert store.num_documents == len(every)
    store.verify()
    (store.path / "counted.bin").write_bytes(b"\x01" * (store.num_tokens - 1))
    with pytest.raises(InputError, match=r"counted\.bin is truncated"):
        open_store(store.path)


def test_a_store_of_plain_text_has_no_such_file(tmp_path):
    store = pack(texts(5), chat_tokenizer(), tmp_path / "s")
    assert store.counted is None and not (store.path / "counted.bin").exists()
    assert store.counted_targets([0], 8) is None


def test_training_learns_what_counts_and_no_more(tmp_path, teacher_dir):
    """The loss and its gradient equal a mean over the counted positions alone."""
    from tinylm.models.teacher import load_model
    from tinylm.train.student import Student

    tokenizer = chat_tokenizer()
    talks = [
        written([*TALK[:1], {"role": "assistant", "content": text}]) for text in texts(20, words=6)
    ]
    store = pack(talks, tokenizer, tmp_path / "s")
    config = TrainConfig(sequence_length=24, batch_size=3, bf16=False, compile=False)
    (piece,) = micro_batches(store, config, np.array([0, 2, 5]), torch.device("cpu"))
    assert ((piece.targets == IGNORE) == ~piece.counted).all() and (~piece.counted).any()
    model = load_model(teacher_dir, torch.float32)
    model.resize_token_embeddings(len(tokenizer))
    student = Student(model.train(), config, torch.device("cpu"), torch.float32)
    loss, nats = student(piece)
    logits = model(piece.ids).logits.double()
    plain = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), piece.targets.flatten(), ignore_index=IGNORE, reduction="none"
    ).view_as(piece.targets)
    counts = piece.counted.sum(1)
    assert loss.item() == pytest.approx((plain.sum() / counts.sum()).item(), rel=1e-4)
    assert torch.allclose(nats.double(), plain.sum(1) / counts.clamp(min=1), rtol=1e-4)


def test_markers_are_scored_as_they_are_trained():
    tokenizer = chat_tokenizer()
    talk, plain = written(), Document("a <|im_end|> in a text", "a")
    ids, _ = tokenize_documents(tokenizer, [talk, plain])
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert (ids[0] == end).sum() == 4
    assert end not in ids[1]  # there it is text
    changed = dataclasses.replace(talk, taught=())
    assert end not in tokenize_documents(tokenizer, [changed])[0][0]


def test_what_counts_in_training_is_what_is_scored(tmp_path, teacher_dir):
    from tinylm.models.teacher import load_model

    tokenizer = chat_tokenizer()
    model = load_model(teacher_dir, torch.float32)
    model.resize_token_embeddings(len(tokenizer))
    every = [written(), Document("a plain text", "a"), written(loss_on="all")]
    scores = score_documents(model, tokenizer, every, context=32)
    tokens, _ = tokenize_documents(tokenizer, every)
    bits = token_bits(model, tokenizer, tokens, 32)
    store = pack(every, tokenizer, tmp_path / "s")
    counted = store.counted.astype(bool)
    for number, (start, end) in enumerate(zip(store.documents[:-1], store.documents[1:])):
        mask = counted[start : end - 1]  # the separator is not scored
        assert scores.bits[number] == pytest.approx(bits[number][mask].sum())
        assert scores.tokens[number] == mask.sum()
    said = sum(len(text) for text in taught(every[0]))
    assert scores.bytes.tolist() == [said, len("a plain text"), len(every[2].text)]
    assert scores.bits[0] < bits[0].sum()


@pytest.mark.parametrize("files", [1, 2])
def test_the_command_packs_what_a_recipe_would(files, tmp_path, capsys):
    tokenizer = chat_tokenizer()
    tokenizer.save_pretrained(tmp_path / "t")
    paths = [tmp_path / f"{number}.jsonl" for number in range(files)]
    for path in paths:
        path.write_text(
            json.dumps({"messages": TALK}) + "\n" + json.dumps({"text": "a river"}) + "\n"
        )
    command = ["corpus", "pack", "--tokenizer", str(tmp_path / "t"), "--corpus", *map(str, paths)]
    main([*command, "--text-key", "messages", "--out", str(tmp_path / "store")])
    store = open_store(tmp_path / "store")
    read = render(documents(paths, "messages"), tokenizer, "assistant")
    expected = pack(read, tokenizer, tmp_path / "expected")
    assert np.array_equal(store.tokens, expected.tokens)
    assert np.array_equal(store.counted, expected.counted) and 0 < store.counted.mean() < 1
    main([*command, "--text-key", "messages", "--loss-on", "all", "--out", str(tmp_path / "all")])
    whole = open_store(tmp_path / "all").counted
    assert whole is None or whole.all()
    assert f"{2 * files} documents" in capsys.readouterr().out
