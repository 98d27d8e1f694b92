"""Converts the files of a plan: skips what is done, shows a bar, ends with a line or a table and an exit status."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import typer

from codec.cli import files, rows, workers
from codec.cli.plan import FilePlan, Planned
from codec.cli.rows import EXISTS, FAILED, OUTDATED, FileRow
from codec.errors import SettingsError
from codec.support import processors
from codec.support.terminal import printable, say

MOST_ON_A_GPU = 4
"""Each process has its own copy of the models there."""


class Described(workers.Settings, Protocol):
    """Settings of a conversion that also say what a row means."""

    @property
    def verb(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def overwrite(self) -> bool: ...

    def line(self, row: FileRow) -> str:
        """What a command for one file prints."""
        ...


def run(plan: FilePlan, settings: Described, *, jobs: int, named: bool, as_json: bool) -> None:
    """Converts everything, prints what became of it, and raises typer.Exit if an output is not there.

    `named` says that the output was named by itself: then it must not exist. Raises SettingsError for that.
    """
    first = plan.files[0].output
    if first == files.PIPE:
        if as_json:
            raise SettingsError("--json prints to standard output, where the picture goes; name a file with --output")
        files.check_pipe()
    elif named:
        files.check_output(Path(first), settings.overwrite)
    found = _converted(plan, settings, jobs)
    if as_json:
        typer.echo(rows.document(found, plan.ignored))
    elif plan.is_many:
        rows.show(found, plan.ignored)
    else:
        _show_one(found[0], settings)
    if rows.exit_status(found):
        raise typer.Exit(1)


def _show_one(row: FileRow, settings: Described) -> None:
    if row.error is not None:
        say(f"error: {row.error}", err=True)
    elif row.status == EXISTS:
        say(f"{row.output}: exists already; replace it with --overwrite")
    else:
        say(settings.line(row), err=row.output == files.PIPE)


def _converted(plan: FilePlan, settings: Described, jobs: int) -> list[FileRow]:
    """The rows in the order of the plan."""
    done: dict[str, FileRow] = {}
    left: list[Planned] = []
    for own in plan.files:
        row = None if settings.overwrite else _existing(own)
        if row is None:
            left.append(own)
        else:
            done[own.output] = row
    for row in _followed(left, settings, jobs, shown=plan.is_many):
        done[row.output] = row
    return [done[own.output] for own in plan.files]


def _existing(own: Planned) -> FileRow | None:
    """The row of an output that is there already, or None. One older than its source is not what was asked for."""
    if own.output == files.PIPE:
        return None
    try:
        made = Path(own.output).stat().st_mtime
    except OSError:
        return None
    try:
        changed = Path(own.source).stat().st_mtime
    except OSError:
        return None  # converting says what is wrong with it
    if changed > made:
        why = f"{own.output} is older than {own.source}; replace it with --overwrite"
        return FileRow(own.source, own.output, OUTDATED, error=why)
    return FileRow(own.source, own.output, EXISTS)


def _followed(left: list[Planned], settings: Described, jobs: int, *, shown: bool) -> Iterator[FileRow]:
    """Yields rows, and prints their warnings to stderr, under a bar if that is a terminal."""
    count = min(jobs or _processes(settings.device), max(1, len(left)))
    converted = workers.convert(left, settings, count)
    if not (shown and sys.stderr.isatty()):  # a single file is not worth the import of rich
        for row in converted:
            for warning in row.warnings:
                say(f"warning: {warning}", err=True)
            yield row
        return
    import rich.progress
    from rich.console import Console

    columns = (*rich.progress.Progress.get_default_columns(), rich.progress.MofNCompleteColumn())
    with rich.progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(settings.verb, total=len(left))
        for row in converted:
            bar.advance(task)
            for warning in row.warnings:
                text = printable(f"warning: {warning}")
                bar.console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)
            yield row


def _processes(device: str) -> int:
    available = processors.available()
    return available if device == "cpu" else min(available, MOST_ON_A_GPU)


def failed(own: Planned, error: Exception) -> FileRow:
    """The row of a file that could not be converted."""
    return FileRow(own.source, own.output, FAILED, error=str(error))


def deliver(data: bytes, own: Planned, *, overwrite: bool) -> None:
    """Writes an output to its file, in a folder that is made if it is missing, or to standard output."""
    if own.output == files.PIPE:
        files.send(data)
        return
    output = Path(own.output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"cannot make the folder {output.parent}: {error.strerror}") from None
    files.publish(data, output, overwrite=overwrite)


class Stopwatch:
    """Seconds since it was made, to the millisecond."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def seconds(self) -> float:
        return round(time.perf_counter() - self._started, 3)
