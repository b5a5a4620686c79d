"""A Modelfile for ollama: what a GGUF alone does not tell it.

ollama has a template language of its own and guesses at chat templates it does not know. Its
template is made here out of what the model's own chat template writes for a short conversation, and
is left out where a conversation cannot be put together from it. Format: ollama's docs/modelfile.md.
"""

from pathlib import Path
from typing import Any

from tinylm.artifact import write_text
from tinylm.corpus.pack import find_start
from tinylm.errors import InputError
from tinylm.models.generate import stops_of
from tinylm.models.teacher import load_tokenizer

SYSTEM, PROMPT, RESPONSE, AGAIN = "tinylm-system", "tinylm-prompt", "tinylm-response", "tinylm-more"


def modelfile_of(gguf: Path) -> Path:
    """Where the Modelfile of ``gguf`` lies."""
    return gguf.with_name(f"{gguf.stem}.Modelfile")


def write_modelfile(model_dir: Path, gguf: Path) -> Path:
    """GGUF.Modelfile beside ``gguf``; its path."""
    path = modelfile_of(gguf)
    write_text(path, modelfile(model_dir, gguf))
    return path


def modelfile(model_dir: Path, gguf: Path) -> str:
    """The text of a Modelfile that lies beside ``gguf``, the model of ``model_dir``."""
    tokenizer = load_tokenizer(model_dir)
    lines = [f"FROM ./{gguf.name}"]
    if tokenizer.chat_template is None:
        lines.append(_quoted("TEMPLATE", "{{ .Prompt }}"))  # a base model: it continues a text
    elif (found := template_of(tokenizer)) is not None:
        template, system = found
        lines.append(_quoted("TEMPLATE", template))
        if system:
            lines.append(_quoted("SYSTEM", system))
    else:
        lines.append("# the chat template in the file has no counterpart in ollama's language")
    for token in stops_of(model_dir, tokenizer):
        lines.append(f'PARAMETER stop "{tokenizer.convert_ids_to_tokens(token)}"')
    return "\n".join(lines) + "\n"


def template_of(tokenizer: Any) -> tuple[str, str] | None:
    """ollama's template of one exchange and the system text that stands for none, from the chat
    template of ``tokenizer``; None where a conversation is not a row of such exchanges."""
    start = tokenizer.bos_token if find_start(tokenizer) is not None else ""

    def rendered(*turns: tuple[str, str]) -> str | None:
        conversation = [{"role": role, "content": text} for role, text in turns]
        try:
            text = tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=turns[-1][0] == "user"
            )
        except Exception:  # a template may raise on purpose: no system text, say
            return None
        return text.removeprefix(start)  # the runtime puts it there by itself

    user, answer = ("user", PROMPT), ("assistant", RESPONSE)
    first, done = rendered(user), rendered(user, answer)
    twice = rendered(user, answer, ("user", AGAIN))
    if first is None or done is None or twice is None:
        return None
    before, _, after = first.partition(PROMPT)
    said, _, ending = done.partition(RESPONSE)
    again = twice.removeprefix(done).partition(AGAIN)[0]  # what begins a later turn
    if said != first or twice != done + again + AGAIN + after:
        return None
    turn = f"{{{{ .Prompt }}}}{after}{{{{ .Response }}}}{ending}"
    with_system = rendered(("system", SYSTEM), user)
    if with_system is None or SYSTEM not in with_system:
        return (again + turn, "") if before == again else None
    head, _, rest = with_system.partition(SYSTEM)
    tail = rest.removesuffix(PROMPT + after)
    begun = f"{{{{ if .System }}}}{head}{{{{ .System }}}}{tail}{{{{ else }}}}{again}{{{{ end }}}}"
    if rest != tail + PROMPT + after:
        return None
    if before == again:
        return begun + turn, ""
    if before.startswith(head) and before.endswith(tail):
        return begun + turn, before[len(head) : len(before) - len(tail)]  # its own system text
    return None


def _quoted(word: str, text: str) -> str:
    if '"""' in text:
        raise InputError(f'the chat template writes """: no {word} of a Modelfile can hold it')
    return f'{word} """{text}"""'
