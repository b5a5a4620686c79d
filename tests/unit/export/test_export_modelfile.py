"""A Modelfile for ollama: its template, run as ollama runs one, writes what the chat template
does."""

import re

import pytest
from builders import byte_level_tokenizer, tiny_teacher
from jinja2 import TemplateError
from tokenizers import processors

from tinylm.errors import InputError
from tinylm.export import run
from tinylm.export.modelfile import modelfile, template_of, write_modelfile
from tinylm.export.run import export

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' +"
    " '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WITH_DEFAULT = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are small.<|im_end|>\n' }}"
    "{% endif %}" + CHATML
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|h|>' + m['role'] + '<|e|>\n\n' + m['content'] +"
    " '<|eot|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|h|>assistant<|e|>\n\n' }}"
    "{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}{{ '<s>' + ('model' if m['role'] == 'assistant' else 'user') + '\n' }}"
    "{{ m['content'] + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>model\n' }}{% endif %}"
)
INSTRUCTION = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
)
TEMPLATES = [CHATML, WITH_DEFAULT, LLAMA_3, NO_SYSTEM, INSTRUCTION]
TALK = [("user", "What is it?"), ("assistant", "A stone."), ("user", "Why?")]


def as_ollama(template: str, system: str, turns: list[tuple[str, str]]) -> str:
    """ollama's rule for templates of one exchange: one rendering an exchange, the system text with
    the first, and of the last one what stands before its answer."""
    exchanges, text = list(zip(turns[::2], [*turns[1::2], ("assistant", "")])), ""
    for number, ((_, prompt), (_, response)) in enumerate(exchanges):
        values = {"System": system if number == 0 else "", "Prompt": prompt, "Response": response}
        chosen = re.sub(
            r"\{\{ if \.System \}\}(.*?)\{\{ else \}\}(.*?)\{\{ end \}\}",
            r"\1" if values["System"] else r"\2",
            template,
            flags=re.DOTALL,
        )
        if number == len(exchanges) - 1:
            chosen = chosen.partition("{{ .Response }}")[0]
        text += re.sub(r"\{\{ \.(\w+) \}\}", lambda found, v=values: v[found[1]], chosen)
    return text


def tokenizer_with(template: str):
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = template
    if "bos_token" in template:  # as Llama 3's does, whose text begins with it
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)]
        )
    return tokenizer


def written(tokenizer, turns: list[tuple[str, str]]) -> str:
    """What the chat template writes."""
    conversation = [{"role": role, "content": text} for role, text in turns]
    return tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("turns", [TALK[:1], TALK])
@pytest.mark.parametrize("system", ["", "Speak plainly."])
def test_it_writes_what_the_chat_template_writes(template, turns, system) -> None:
    tokenizer = tokenizer_with(template)
    found = template_of(tokenizer)
    assert found is not None
    ours, standard = found
    if system and template is NO_SYSTEM:
        assert ".System" not in ours
        with pytest.raises(TemplateError, match="no system"):
            written(tokenizer, [("system", system), *turns])
        return
    conversation = [("system", system)] * bool(system) + turns
    expected = written(tokenizer, conversation)
    bos = tokenizer.bos_token if "bos_token" in template else ""
    assert as_ollama(ours, system or standard, turns) == expected.removeprefix(bos)


def test_a_template_that_numbers_its_turns_is_left_to_ollama(tmp_path) -> None:
    numbered = "{% for m in messages %}{{ loop.index }}: {{ m['content'] }}\n{% endfor %}"
    assert template_of(tokenizer_with(numbered)) is None


def test_a_start_that_the_runtime_does_not_put_there_is_left_to_ollama() -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = LLAMA_3
    assert template_of(tokenizer) is None


def test_a_base_model_continues_a_text_and_stops_where_it_ends(tmp_path) -> None:
    folder = tiny_teacher(tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    text = modelfile(folder, tmp_path / "tiny.gguf")
    assert text.splitlines()[0] == "FROM ./tiny.gguf"
    assert 'TEMPLATE """{{ .Prompt }}"""' in text
    assert 'PARAMETER stop "<|im_end|>"' in text


def test_it_lies_beside_the_gguf_and_goes_where_that_goes(tmp_path, monkeypatch) -> None:
    folder = tiny_teacher(tmp_path / "model")
    path = write_modelfile(folder, tmp_path / "tiny.Q8_0.gguf")
    assert path == tmp_path / "tiny.Q8_0.Modelfile"
    assert path.read_text().startswith("FROM ./tiny.Q8_0.gguf\n")
    for out, kind, verify in (("out", "mlx", None), (None, "gguf", tmp_path / "t.gguf")):
        with pytest.raises(InputError, match="--modelfile goes with a GGUF that is written now"):
            export(folder, out and tmp_path / out, kind, modelfile=True, verify=verify)
    pushed = []
    monkeypatch.setattr(run, "push", lambda folder, name, files, **_: pushed.extend(files))
    export(folder, tmp_path / "t.gguf", modelfile=True, check=False, push="me/tiny")
    assert pushed == [tmp_path / "t.gguf", tmp_path / "t.Modelfile"]
    assert all(path.exists() for path in pushed)
