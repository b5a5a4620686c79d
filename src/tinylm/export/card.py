"""The model card: README.md of a model directory, written from what was measured and nothing
else."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinylm import __version__
from tinylm.artifact import read_json, write_text
from tinylm.errors import InputError
from tinylm.export.card_metadata import is_inherited, metadata
from tinylm.export.gguf import refuse_existing
from tinylm.models.shape import Shape
from tinylm.models.teacher import facts as model_facts
from tinylm.models.teacher import load_config, load_tokenizer

# how results name the models, in order
LADDER = ("teacher", "compact", "inherited", "student", "control")
STEPS = {
    "teacher": "teacher",
    "compact": "+ compact tokenizer, before training",
    "inherited": "+ cut to the shape, before training",
    "student": "this model",
    "control": "same shape and training, random weights",
}


def model_card(
    model_dir: str | Path,
    results: Mapping[str, Any] | None = None,
    *,
    exports: Sequence[Mapping[str, Any]] = (),
    device: Sequence[Mapping[str, Any]] = (),
    name: str | None = None,
    license: str | None = None,
    languages: Sequence[str] = (),
) -> str:
    """Markdown with metadata for the model in ``model_dir``.

    Args:
        results: what `tinylm run` wrote to results.json: teacher, corpus, recipe, bits per byte,
            tasks, seconds.
        exports: reports of `tinylm export` (FILE.gguf.json), for the files' sizes and what
            quantisation cost.
        device: rows of benchmarks/device_table.py.
        name: of the model; default: the folder's (or the folder's above it, when it is called
            "model").
        license: of this model; default: the teacher's, which its weights were made from.
        languages: codes such as "en"; default: the recipe's ``corpus.languages``.

    A section without facts is left out; nothing is estimated.
    """
    model_dir, results = Path(model_dir), _public(results or {})
    resolved = model_dir.resolve()
    name = name or (resolved.parent.name if resolved.name == "model" else resolved.name)
    teacher = _public({**model_facts(model_dir), **results.get("teacher", {})})
    license = license or teacher.get("license")
    corpus = results.get("recipe", {}).get("corpus", {})
    sections = [
        metadata(name, license, teacher, languages or corpus.get("languages", ()), results),
        f"# {name}\n\n{_summary(model_dir, teacher, results)}",
        _use(name, exports, _talks(model_dir)),
        _ladder(results),
        _tasks(results),
        _files(exports),
        _device(device),
        _making(results),
        _limits(results, license, teacher),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _public(value: Any) -> Any:
    """``value`` with the last name of every absolute path: the others are of one machine alone."""
    if isinstance(value, Mapping):
        return {key: _public(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_public(one) for one in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def sort_facts(files: Sequence[Path]) -> dict[str, Any]:
    """Arguments of :func:`model_card` from JSON files: results.json, FILE.gguf.json, the device
    table's last line."""
    sorted_facts: dict[str, Any] = {"results": None, "exports": [], "device": []}
    for path in files:
        value = read_json(path)
        if "bits_per_weight" in value:
            sorted_facts["exports"].append(value)
        elif "rows" in value:
            sorted_facts["device"] += value["rows"]
        elif "recipe" in value:
            sorted_facts["results"] = value
        else:
            raise InputError(
                f"{path} is no results.json, export report or device table: leave it out of --facts"
            )
    return sorted_facts


def write_card(
    model_dir: str | Path, out: Path | None = None, *, overwrite: bool = False, **facts: Any
) -> Path:
    """Write the card to ``out`` (default README.md of ``model_dir``). Facts as in
    :func:`model_card`."""
    path = out or Path(model_dir) / "README.md"
    refuse_existing(path, overwrite)
    text = model_card(model_dir, **facts)
    write_text(path, text)
    return path


def _summary(model_dir: Path, teacher: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    config = load_config(model_dir).get_text_config()
    shape = Shape.from_config(config)
    parameters = results.get("parameters", {})
    size = (
        f"{_count(parameters['student'])} parameters"
        if "student" in parameters
        else "A tiny language model"
    )
    made = "made from" if is_inherited(results) else "from random weights, with the tokenizer of"
    origin = f", {made} {_teacher_name(teacher)}" if _teacher_name(teacher) else ""
    if "teacher" in parameters:
        origin += f" ({_count(parameters['teacher'])})"
    context = config.max_position_embeddings
    rows = [
        ("family", config.model_type),
        ("layers x width", f"{shape.num_layers} x {shape.hidden_size}"),
        (
            "attention heads / key-value heads",
            f"{shape.num_attention_heads} / {shape.num_key_value_heads}",
        ),
        ("head size", shape.head_dim),
        ("feed-forward width", shape.intermediate_size),
        ("vocabulary", f"{shape.vocab_size}{', tied' if shape.tie_word_embeddings else ''}"),
        ("context of the architecture", f"{context} tokens"),
    ]
    return f"{size}{origin}, with tinylm {__version__}.\n\n" + _table(("", ""), rows)


def _talks(model_dir: Path) -> bool:
    """Whether its tokenizer writes conversations."""
    known = (model_dir / "tokenizer.json").exists()
    return known and bool(load_tokenizer(model_dir).chat_template)


def _use(name: str, exports: Sequence[Mapping[str, Any]], talks: bool) -> str:
    file = Path(str(exports[0]["file"])).name if exports else f"{name}-Q8_0.gguf"
    convert = "" if exports else f"tinylm export --model . --quantize Q8_0 --out {file}\n"
    if talks:
        kind, how = "It was taught to answer: give it messages.", "-cnv"
        ask = """\
messages = [{"role": "user", "content": "What is a black hole?"}]
ids = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)"""
    else:
        kind = "This is a base model: it goes on with a text and follows no instructions."
        how = '-no-cnv -p "The history of the city begins" -n 60'
        ask = 'ids = tokenizer("The history of the city begins", return_tensors="pt")'
    return f"""## Use

{kind}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this card stands; on the hub, the repository's id
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
{ask}
print(tokenizer.decode(model.generate(**ids, max_new_tokens=60)[0]))
```

```sh
{convert}llama-cli -m {file} {how}
```"""


def _ladder(results: Mapping[str, Any]) -> str:
    bits, errors = results.get("bits_per_byte", {}), results.get("bits_per_byte_stderr", {})
    rows = [
        (
            STEPS.get(key, key),
            f"{bits[key]:.4f} ± {errors[key]:.4f}" if errors.get(key) else f"{bits[key]:.4f}",
        )
        for key in [
            *[key for key in LADDER if key in bits],
            *[key for key in bits if key not in LADDER],
        ]
    ]
    if not rows:
        return ""
    return "## Bits per byte of held-out text (lower is better)\n\n" + _table(
        ("model", "bits per byte"), rows
    )


def _tasks(results: Mapping[str, Any]) -> str:
    tasks = results.get("tasks") or {}
    models = tasks.get("models") if isinstance(tasks, Mapping) else None
    if not models:
        return ""
    names = sorted({name for model in models for name in model.get("tasks", {})})
    if not names:
        return ""

    def cell(model: Mapping[str, Any], name: str) -> str:
        entry = model.get("tasks", {}).get(name)
        if not entry:
            return "-"
        error = entry.get("stderr")
        return f"{entry['score']:.3f}" + (f" ± {error:.3f}" if error is not None else "")

    def fact(name: str, key: str) -> str:
        value = next(
            (model["tasks"][name].get(key) for model in models if name in model.get("tasks", {})),
            None,
        )
        return (
            "-" if value is None else (f"{value:.3f}" if isinstance(value, float) else str(value))
        )

    rows = [
        (name, *[cell(model, name) for model in models], fact(name, "chance"), fact(name, "n"))
        for name in names
    ]
    return "## Tasks\n\n" + _table(
        ("task", *[str(model["model"]) for model in models], "chance", "items"), rows
    )


def _files(exports: Sequence[Mapping[str, Any]]) -> str:
    if not exports:
        return ""
    rows = []
    for report in exports:
        bits = report.get("check", {}).get("bits_per_byte")
        runtime = next((runtime for runtime in bits or {} if runtime != "transformers"), "")
        cost = (
            f"{100 * (bits[runtime] / bits['transformers'] - 1):+.2f} % in {runtime}"
            if bits
            else "not checked"
        )
        name = Path(str(report["file"])).name
        rows.append(
            (name, f"{report['bytes'] / 1e6:.1f}", f"{report['bits_per_weight']:.2f}", cost)
        )
    head = ("file", "MB", "bits per weight", "bits per byte against transformers")
    return "## Files for devices\n\n" + _table(head, rows)


def _device(device: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            row["model"],
            row["format"],
            f"{row['bytes'] / 1e6:.1f}",
            f"{row['load_s']:.2f}",
            f"{row['prefill_tokens_per_s']:.0f}",
            f"{row['decode_tokens_per_s']:.1f}",
            f"{row['peak_mb']:.0f}",
        )
        for row in device
    ]
    head = (
        "model",
        "format",
        "MB",
        "load s",
        "prefill tokens/s",
        "decode tokens/s",
        "peak memory MB",
    )
    return "## Speed on a CPU, llama.cpp\n\n" + _table(head, rows) if rows else ""


def _making(results: Mapping[str, Any]) -> str:
    rows: list[tuple[Any, Any]] = []
    recipe = results.get("recipe", {})
    if recipe.get("corpus"):
        rows.append(("text", ", ".join(str(path) for path in recipe["corpus"]["paths"])))
    corpus = results.get("corpus") or {}
    for part, label in (("train", "trained on"), ("valid", "held out")):
        if part in corpus:
            rows.append(
                (
                    label,
                    (
                        f"{corpus[part]['documents']:,} documents,"
                        f" {corpus[part]['bytes'] / 1e6:.2f} MB"
                    ),
                )
            )
    for source, size in (corpus.get("sources") or {}).items():
        rows.append((f"of which {source}", f"{size / 1e6:.2f} MB"))
    if terms := recipe.get("corpus", {}).get("license"):
        rows.append(("licence of the text", terms))
    if results.get("tokens_trained"):
        rows.append(("tokens trained", f"{results['tokens_trained']:,}"))
    if results.get("seconds"):
        rows.append(("seconds in all", f"{sum(results['seconds'].values()):.0f}"))
    if results.get("machine"):
        rows.append(
            (
                "machine",
                f"{results['machine'].get('cpu', '')}, {results['machine'].get('short', '')}",
            )
        )
    rows += [(package, number) for package, number in (results.get("versions") or {}).items()]
    if not rows:
        return ""
    again = ""
    if recipe:
        values = [
            f"{part}.{key} = {json.dumps(value)}"
            for part, table in recipe.items()
            if isinstance(table, Mapping)
            for key, value in table.items()
        ]
        again = (
            "\n\n<details><summary>The recipe</summary>\n\n```\n"
            + "\n".join(values)
            + "\n```\n\n</details>"
        )
    return "## How it was made\n\n" + _table(("", ""), rows) + again


def _limits(results: Mapping[str, Any], license: str | None, teacher: Mapping[str, Any]) -> str:
    limits = [
        "A model of this size knows little and makes up the rest: check every fact it states.",
        (
            "It was not aligned or filtered for safety here; whatever its teacher and its text"
            " contain can come out."
        ),
    ]
    recipe = results.get("recipe", {})
    length = recipe.get("train", {}).get("sequence_length")
    if length:
        limits.append(
            f"It was trained on sequences of {length} tokens; longer contexts were not measured."
        )
    growth = (results.get("tokenizer") or {}).get("growth_predicted")
    if growth:
        limits.append(
            f"Its compact vocabulary makes new text like its corpus about x{growth:.3f} longer in"
            " tokens than the teacher's, and text of other languages or domains much longer."
        )
    source = _teacher_name(teacher) or "the teacher"
    part = "weights come" if is_inherited(results) else "tokenizer comes"
    limits.append(
        f"Licence: {license}, as its {part} from {source}."
        if license
        else f"The licence is unknown: its {part} from {source}, whose terms apply."
    )
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)


def _teacher_name(teacher: Mapping[str, Any]) -> str:
    return str(teacher.get("name") or teacher.get("spec") or teacher.get("source") or "")


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f}B" if parameters >= 1e9 else f"{parameters / 1e6:.1f}M"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )
