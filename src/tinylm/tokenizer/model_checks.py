"""The certificate's lines about the model: same answers on kept text, and no old id left in a
config."""

from pathlib import Path
from typing import Any

import numpy as np

from tinylm.artifact import optional_json
from tinylm.models.save import with_old_keys
from tinylm.models.token_ids import cut_config, is_id_key
from tinylm.tokenizer.certificate import line
from tinylm.tokenizer.choose import Cut
from tinylm.tokenizer.source import Source

PROBE_SHAPE = (4, 32)  # sequences x tokens of kept-only text for the logits
LOGIT_TOLERANCE = 2e-4  # float32; other sizes of a matrix product add in another order


def teacher_answers(model, kept: np.ndarray) -> dict[str, Any]:
    """Logits of the uncut model on kept-only ids, kept columns only, and its tables, for
    :func:`check_model`."""
    import torch

    generator = np.random.default_rng(0)
    probes = generator.integers(0, len(kept), PROBE_SHAPE)
    index = torch.as_tensor(kept)
    with torch.inference_mode():
        logits = model(input_ids=index[torch.as_tensor(probes)]).logits[..., index].float()
    tables = _tables(model)
    tied = "head" in tables and tables["head"] is tables["embedding"]
    # cutting replaces tables, it changes none
    copies = {name: table.detach() for name, table in tables.items()}
    return {"probes": probes, "logits": logits, "tables": copies, "tied": tied}


def _tables(model) -> dict[str, Any]:
    """The tables with one row per token id."""
    head = model.get_output_embeddings()
    tables = {"embedding": model.get_input_embeddings().weight}
    if head is not None:
        tables["head"] = head.weight
        if getattr(head, "bias", None) is not None:
            tables["head bias"] = head.bias
    return tables


def check_model(
    cut: Cut, child: Source, model_dir: Path, expected: dict[str, Any]
) -> list[dict[str, Any]]:
    """All lines about the weights and configs in ``folder``, read back from disk."""
    import torch

    from tinylm.models.teacher import load_model

    folder = child.folder
    model = load_model(folder, dtype=None)
    tables, found = expected["tables"], _tables(model)
    # Rows are compared by the token's spelling in the two tokenizers as loaded, not by the map that
    # cut them.
    old = torch.tensor([cut.source.ids[token] for token in child.ids])
    new = torch.tensor(list(child.ids.values()))
    wrong = [
        name for name, table in tables.items() if not torch.equal(found[name][new], table[old])
    ]
    sizes = {name: table.shape[0] for name, table in found.items()}
    right_size = all(size == len(cut.kept) for size in sizes.values())
    lines = [
        line(
            "rows equal the teacher's",
            not wrong and right_size,
            f"{sizes}, differ: {wrong or 'none'}",
        )
    ]
    tied = "head" in found and found["head"] is found["embedding"]
    lines.append(
        line("tied stays tied", tied == expected["tied"], f"before {expected['tied']}, now {tied}")
    )
    with torch.inference_mode():
        logits = model(input_ids=torch.as_tensor(expected["probes"])).logits.float()
    gap, before = float("inf"), expected["logits"]
    if logits.shape == before.shape:
        # a teacher that overflows on some text is cut as it is; one with a NaN weight is damaged
        whole = all(bool(torch.isfinite(weight).all()) for weight in model.parameters())
        both = logits.isnan() & before.isnan() & whole
        gap = float((logits - before).masked_fill(both, 0).abs().max())
    exact = found["embedding"].dtype == torch.float32
    tolerance = LOGIT_TOLERANCE if exact else 0.02 * float(before.nan_to_num().abs().max())
    lines.append(
        line("logits on kept-only text", gap <= tolerance, f"largest difference {gap:.1e}")
    )
    lines.append(_check_configs(cut, child, model_dir, folder, tables["embedding"].shape[0]))
    return lines


def spelled_ids(config: Any, strings: dict[int, str], at: str = "") -> dict[str, list[str]]:
    """Dotted key -> the tokens that its ids spell, for every key of a config that holds token
    ids."""
    found: dict[str, list[str]] = {}
    for key, value in (config or {}).items():
        if isinstance(value, dict):
            found |= spelled_ids(value, strings, f"{at}{key}.")
        elif is_id_key(key):
            ids = value if isinstance(value, list) else [value]
            found[at + key] = [strings[i] for i in ids if isinstance(i, int) and i in strings]
    return found


def _check_configs(
    cut: Cut, child: Source, model_dir: Path, folder: Path, rows: int
) -> dict[str, Any]:
    """Each id in a config names the same token as before, by its spelling in the two tokenizers as
    loaded."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    wrong = [] if config.get_text_config().vocab_size == len(cut.kept) else ["vocab_size"]
    for name in ("config.json", "generation_config.json"):
        before, now = optional_json(model_dir / name), optional_json(folder / name)
        expected = with_old_keys(cut_config(before, cut.mapping, rows))
        wrong += [] if expected == now else [name]
        spelled_before, spelled_now = (
            spelled_ids(before, cut.source.strings),
            spelled_ids(now, child.strings),
        )
        for key, tokens in spelled_before.items():
            kept = [token for token in tokens if token in child.ids]
            wrong += [f"{name}: {key}"] if spelled_now.get(key, []) != kept else []
    wrong += [str(token) for token in child.added if token >= len(cut.kept)]
    return line("config ids", not wrong, f"wrong: {wrong or 'none'}")
