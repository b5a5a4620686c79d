"""What a person sees: one console on stderr, progress bars with speed and time left, tables.

Progress goes to stderr so that a command's own output can be piped.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

PLAIN_SECONDS = 30.0
console = Console(stderr=True, soft_wrap=True)


@contextmanager
def progress_bar(
    label: str, total: float | None, unit: str = "", *, shown: bool = True
) -> Iterator["Bar"]:
    """A progress bar as a context: ``bar.advance(n, "12.3k tokens/s")``. Where stderr is not a
    terminal, a plain line every ``PLAIN_SECONDS``."""
    if shown and not console.is_terminal:
        yield PlainBar(label, total, unit)
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]} {task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (shown and console.is_terminal),
    ) as progress:
        task = progress.add_task(label, total=total, unit=unit, note="")
        yield Bar(progress, task)


def quiet_transformers() -> None:
    """No bars and no warnings from `transformers`: ours say what a user needs to know."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


class Bar:
    def __init__(self, progress: Progress, task) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: float = 1, note: str | None = None) -> None:
        if note is None:
            self._progress.update(self._task, advance=amount)
        else:
            self._progress.update(self._task, advance=amount, note=note)


class PlainBar(Bar):
    """Progress for a log file: a line now and then, none for what is quickly done."""

    def __init__(self, label: str, total: float | None, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._done, self._started = 0.0, time.monotonic()
        self._said = self._started

    def advance(self, amount: float = 1, note: str | None = None) -> None:
        self._done += amount
        now = time.monotonic()
        if now - self._said < PLAIN_SECONDS:
            return
        self._said = now
        share = self._done / self._total if self._total else 0.0
        left = (now - self._started) * (1 - share) / share if share else 0.0
        of = f"/{self._total:.0f}" if self._total else ""
        words = [f"{self._done:.0f}{of}", self._unit, note or ""]
        words += [f"about {left / 60:.1f} min left"] if 0 < share < 1 else []
        said = " ".join(word for word in words if word)
        console.print(f"{self._label}: {said}", markup=False, highlight=False)


def track(items: Iterable, label: str, total: int | None = None) -> Iterator:
    """Iterate with a progress bar."""
    if total is None and isinstance(items, Sequence):
        total = len(items)
    with progress_bar(label, total) as bar:
        for item in items:
            yield item
            bar.advance()


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence], *, to_stdout: bool = True
) -> None:
    """A small table; numbers right-aligned by being given as already formatted strings."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*[str(cell) for cell in row])
    (Console(soft_wrap=False) if to_stdout else console).print(table)
