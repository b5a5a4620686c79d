"""What the readers share: checks of one row, and the few layouts that benchmark files have."""

from functools import cache
from pathlib import Path
from typing import Any

import datasets

from tinylm.evaluate.tasks.files import Bad, Folder, Row, build, from_hub, local_root

LETTERS = "ABCDE"


def require(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Bad(f"{name} is empty")
    return value


def require_choices(choices: Any, *gold: int, least: int = 2) -> None:
    if not isinstance(choices, (list, tuple)) or len(choices) < least:
        raise Bad(f"fewer than {least} choices")
    for choice in choices:
        require(choice, "a choice")
    if not gold or not all(0 <= index < len(choices) for index in gold):
        raise Bad("the answer is not among the choices")


def lettered(row: Row, question: str, answer: str) -> Row:
    """A four-choice row with columns A to D, as C-Eval and CMMLU have it."""
    if row[answer] not in tuple(LETTERS[:4]):
        raise Bad(f"the answer {row[answer]!r} is not A to D")
    return {name: require(row[name], name) for name in (question, *LETTERS[:4], answer)}


def by_subject(
    folder: Folder, name: str, patterns: dict[str, str], convert
) -> datasets.DatasetDict:
    sources = []
    for role, pattern in patterns.items():
        suffix = pattern.rpartition("*")[2]
        for path in folder.paths(pattern):
            subject = Path(path).name.removesuffix(suffix)
            rows: list[Row | Bad] = [{**row, "subject": subject} for row in folder.csv(path)]
            sources.append((role, subject, rows))
    return build(name, sources, described(convert, name), folder.digest)


def one_file(
    task_data: str | None,
    name: str,
    folder_name: str,
    path: str,
    convert,
    hub: tuple[str, str | None, str],
) -> datasets.DatasetDict:
    if not (root := local_root(task_data)):
        return hub_table(name, convert, hub)
    folder = Folder(root, folder_name)
    return build(name, [("item", "", folder.jsonl(path))], convert, folder.digest)


def hub_table(name: str, convert, hub: tuple[str, str | None, str]) -> datasets.DatasetDict:
    path, config, split = hub
    ((_, rows),) = from_hub(path, [config], split)
    return build(name, [("item", "", rows)], convert, f"hub:{path}")


def subjects_from_hub(
    name: str, path: str, splits: dict[str, str], convert
) -> datasets.DatasetDict:
    sources = [
        (role, subject, [{**row, "subject": subject} for row in rows])
        for role, split in splits.items()
        for subject, rows in from_hub(path, sorted(descriptions(name)), split)
    ]
    return build(name, sources, described(convert, name), f"hub:{path}")


def described(convert, benchmark: str):
    """``convert`` plus the line that lm-eval puts before the questions of that subject."""
    texts = descriptions(benchmark)

    def with_description(row: Row) -> Row:
        return {**convert(row), "description": texts.get(row["subject"], "")}

    return with_description


@cache
def descriptions(benchmark: str) -> dict[str, str]:
    """{subject: description} from the task files inside lm-eval, so that prompts stay the same as
    its own."""
    import yaml

    found = {}
    for path in sorted(lm_eval_folder(benchmark).glob("**/*.yaml")):
        text = path.read_text(encoding="utf-8")
        if "dataset_name" in text and "!function" not in text:
            values = yaml.safe_load(text)
            found[values["dataset_name"]] = values.get("description", "")
    return found


def lm_eval_folder(benchmark: str) -> Path:
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__file__).parent / benchmark
    return folder / "default" if benchmark == "mmlu" else folder
