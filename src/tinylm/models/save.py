"""Models written so that older programs read them right.

`transformers` 5 keeps the rotary base in ``rope_parameters``. `transformers` 4 and mlx-lm look for
``rope_theta``, find none and take 10,000 without a word: SmolLM2's base of 100,000 was lost so, and
the text came out wrong. Every config.json of ours says it both ways.
"""

from pathlib import Path
from typing import Any

from tinylm.artifact import read_object, write_json


def save_model(model: Any, folder: Path | str, **options: Any) -> None:
    """``model.save_pretrained(folder, **options)``, with the keys of older programs."""
    model.save_pretrained(folder, **options)
    add_old_keys(Path(folder))


def add_old_keys(folder: Path) -> None:
    """Write the old keys into the config.json of ``folder``."""
    settings = read_object(folder / "config.json")
    write_json(folder / "config.json", with_old_keys(settings))


def with_old_keys(settings: dict[str, Any]) -> dict[str, Any]:
    """``settings`` of a config.json with what `transformers` 4 called its rotary settings:
    ``rope_theta``, ``rope_local_base_freq`` (Gemma 3's windows), ``partial_rotary_factor`` and
    ``rope_scaling``."""
    settings = dict(settings)
    if isinstance(settings.get("text_config"), dict):
        settings["text_config"] = with_old_keys(settings["text_config"])
    rope = settings.get("rope_parameters")
    if not isinstance(rope, dict):
        return settings
    by_layer = isinstance(rope.get("full_attention"), dict)
    whole = rope["full_attention"] if by_layer else rope
    if by_layer and isinstance(rope.get("sliding_attention"), dict):
        local = rope["sliding_attention"].get("rope_theta")
        settings |= {} if local is None else {"rope_local_base_freq": local}
    for name in ("rope_theta", "partial_rotary_factor"):
        if whole.get(name) is not None:
            settings[name] = whole[name]
    kind = whole.get("rope_type", "default")
    if kind == "longrope":  # transformers 4 allows these three and no more
        names = ("short_factor", "long_factor")
        settings["rope_scaling"] = {"type": kind} | {name: whole[name] for name in names}
    elif kind != "default":
        own = {"rope_theta", "partial_rotary_factor"}
        settings["rope_scaling"] = {k: v for k, v in whole.items() if k not in own}
    return settings
