"""What became of each file of a command: a row each, shown as lines, a table or JSON."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import typer

from codec.support.terminal import print_table

WRITTEN: Final = "written"
EXISTS: Final = "exists"
OUTDATED: Final = "outdated"
FAILED: Final = "failed"
Status = Literal["written", "exists", "outdated", "failed"]
MOST_SHOWN = 40
"""Most rows of a table; of more files only those that need attention are shown."""


@dataclass(frozen=True)
class FileRow:
    """One file. Fields that do not apply are None."""

    source: str
    output: str
    status: Status
    error: str | None = None
    warnings: tuple[str, ...] = ()
    width: int | None = None
    height: int | None = None
    """Of the stored pixels when encoding, upright when decoding."""
    source_bytes: int | None = None
    output_bytes: int | None = None
    bits_per_pixel: float | None = None
    """8 times the bytes of the .fdc file, by the pixels."""
    quality: float | None = None
    timestep: float | None = None
    steps: int | None = None
    seconds: float | None = None

    @property
    def is_done(self) -> bool:
        """Whether the output is there."""
        return self.status in (WRITTEN, EXISTS)


def exit_status(rows: Sequence[FileRow]) -> int:
    """0 if every output is there, else 1."""
    return 0 if all(row.is_done for row in rows) else 1


def document(rows: Sequence[FileRow], ignored: int) -> str:
    """The rows as JSON, with a count of each status."""
    counts: Counter[str] = Counter(row.status for row in rows)
    totals = {status: counts[status] for status in (WRITTEN, EXISTS, OUTDATED, FAILED)}
    return json.dumps({"files": [dataclasses.asdict(row) for row in rows], **totals, "ignored": ignored}, indent=1)


def show(rows: Sequence[FileRow], ignored: int) -> None:
    """Prints a table of the rows, or of those that need attention, and a line of totals."""
    chosen = list(rows) if len(rows) <= MOST_SHOWN else [row for row in rows if not row.is_done]
    if chosen:
        print_table(("file", "pixels", "bytes", "bpp", "outcome"), map(_cells, chosen[:MOST_SHOWN]))
    if len(chosen) > MOST_SHOWN:
        typer.echo(f"{len(chosen) - MOST_SHOWN} more; --json lists all")
    typer.echo(_totals(rows, ignored))


def _cells(row: FileRow) -> tuple[str, ...]:
    size = "" if row.width is None else f"{row.width} x {row.height}"
    rate = "" if row.bits_per_pixel is None else f"{row.bits_per_pixel:.4f}"
    outcome: str = row.status
    if row.error is not None:
        outcome += f": {row.error.removeprefix(f'{row.source}: ')}"
    bytes_ = "" if row.output_bytes is None else str(row.output_bytes)
    return row.source, size, bytes_, rate, outcome


def _totals(rows: Sequence[FileRow], ignored: int) -> str:
    counts: Counter[str] = Counter(row.status for row in rows)
    parts = [f"{counts[WRITTEN]} written"]
    for status, name in ((EXISTS, "there already"), (OUTDATED, OUTDATED), (FAILED, FAILED)):
        if counts[status]:
            parts.append(f"{counts[status]} {name}")
    if ignored:
        parts.append(f"{ignored} of other kinds left alone")
    written = [row for row in rows if row.status == WRITTEN]
    before = sum(row.source_bytes or 0 for row in written)
    after = sum(row.output_bytes or 0 for row in written)
    line = ", ".join(parts)
    return f"{line}; {before:,} bytes became {after:,}" if written else line
