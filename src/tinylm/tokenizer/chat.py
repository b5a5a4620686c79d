"""Render a chat template, for checking that it still gives the same text."""

from pathlib import Path
from typing import Any

from tinylm.artifact import optional_json


def render(template: str, folder: Path, words: list[str]) -> str | None:
    """The text of a short conversation saying ``words``, or None when the template refuses it
    (other roles, tools)."""
    from transformers.utils.chat_template_utils import render_jinja_template

    settings = optional_json(folder / "tokenizer_config.json") | optional_json(
        folder / "special_tokens_map.json"
    )
    named: dict[str, Any] = {
        key: _content(value) for key, value in settings.items() if key.endswith("_token")
    }
    conversation = [
        {"role": role, "content": word} for role, word in zip(("user", "assistant", "user"), words)
    ]
    try:
        rendered = render_jinja_template(
            conversations=[conversation],
            chat_template=template,
            add_generation_prompt=True,
            **named,
        )
    except Exception:  # a template may raise on purpose, or need variables only its owner knows
        return None
    return rendered[0][0]


def _content(value) -> str:
    return value.get("content", "") if isinstance(value, dict) else value
