"""Write a smaller tokenizer: every id in every file of the directory goes through one old -> new
map."""

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tinylm.artifact import optional_json, write_json
from tinylm.models.token_ids import IdMap
from tinylm.tokenizer.source import Source
from tinylm.tokenizer.splits import pairs

# Copied as they are when present; other files (old vocab.json, merges.txt, README) would contradict
# the new tokenizer.
CARRIED = ("chat_template.jinja", "LICENSE", "LICENSE.txt", "NOTICE")


def write_tokenizer(source: Source, kept: np.ndarray, folder: Path) -> None:
    """Write the tokenizer of the ``kept`` old ids (ascending; position = new id) into
    ``folder``."""
    mapping = {int(old): new for new, old in enumerate(kept)}
    write_json(folder / "tokenizer.json", cut(source, mapping))
    settings = cut_settings(optional_json(source.folder / "tokenizer_config.json"), mapping)
    removed = {token["content"] for i, token in source.added.items() if i not in mapping}
    write_json(folder / "tokenizer_config.json", _without(settings, removed))
    named = optional_json(source.folder / "special_tokens_map.json")
    if named:
        write_json(folder / "special_tokens_map.json", _without(named, removed))
    for name in CARRIED:
        if (source.folder / name).exists():
            shutil.copyfile(source.folder / name, folder / name)
    if (source.folder / "additional_chat_templates").is_dir():
        shutil.copytree(
            source.folder / "additional_chat_templates", folder / "additional_chat_templates"
        )
    if (source.folder / "tokenizer.model").exists():
        from tinylm.tokenizer.sentencepiece import write_sentencepiece

        write_sentencepiece(
            source.folder / "tokenizer.model", {source.strings[old] for old in mapping}, folder
        )


def cut(source: Source, mapping: IdMap) -> dict[str, Any]:
    """tokenizer.json with only the tokens in ``mapping``. Ids stay in order, so ``mapping`` must be
    increasing."""
    data = {key: value for key, value in source.data.items() if key != "model"}
    data = copy.deepcopy(data)
    data["model"] = _cut_model(source, mapping)
    data["added_tokens"] = [
        {**token, "id": mapping[token["id"]]}
        for token in data["added_tokens"]
        if token["id"] in mapping
    ]
    _cut_post_processor(data.get("post_processor"), mapping)
    # the state of a batch that somebody made before saving: it decides no token of a text
    data["padding"] = data["truncation"] = None
    return data


def _cut_model(source: Source, mapping: IdMap) -> dict[str, Any]:
    model = {key: value for key, value in source.model.items() if key not in ("vocab", "merges")}
    if source.kind == "Unigram":
        vocab = source.model["vocab"]
        model["vocab"] = [vocab[old] for old in sorted(mapping) if old < len(vocab)]
        if model.get("unk_id") is not None:
            model["unk_id"] = mapping[model["unk_id"]]
        return model
    ids = source.model["vocab"]
    model["vocab"] = {token: mapping[i] for token, i in ids.items() if i in mapping}
    if source.kind == "BPE":
        here = model["vocab"]
        model["merges"] = [
            merge
            for merge, (left, right) in zip(source.model["merges"], pairs(source.model["merges"]))
            if left in here and right in here and left + right in here
        ]
    return model


def _cut_post_processor(processor: dict[str, Any] | None, mapping: IdMap) -> None:
    if processor is None:
        return
    for part in processor.get("processors", []):
        _cut_post_processor(part, mapping)
    for token in (processor.get("special_tokens") or {}).values():
        token["ids"] = [mapping[i] for i in token["ids"]]
    for name in ("sep", "cls"):
        if name in processor:
            processor[name] = [processor[name][0], mapping[processor[name][1]]]


def cut_settings(settings: dict[str, Any], mapping: IdMap) -> dict[str, Any]:
    """tokenizer_config.json with new ids. The class becomes the generic fast one, which reads
    tokenizer.json as it is; model-specific classes rebuild the tokenizer from code and may drop
    what the file says."""
    settings = dict(settings)
    decoder = settings.get("added_tokens_decoder")
    if decoder:
        settings["added_tokens_decoder"] = {
            str(mapping[int(i)]): token for i, token in decoder.items() if int(i) in mapping
        }
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    return settings


def _without(settings: Any, removed: set[str]) -> Any:
    """``settings`` without entries that name a ``removed`` token: a tokenizer would add it again
    when it loads them."""

    def stays(value: Any) -> bool:
        content = value.get("content") if isinstance(value, dict) else value
        return not (isinstance(content, str) and content in removed)

    if isinstance(settings, dict):
        return {key: _without(value, removed) for key, value in settings.items() if stays(value)}
    if isinstance(settings, list):
        return [_without(value, removed) for value in settings if stays(value)]
    return settings
