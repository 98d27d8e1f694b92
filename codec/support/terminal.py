"""Prints lines and tables that contain names from outside, such as those of files."""

import re
import sys
from collections.abc import Iterable, Sequence

# Control characters, which move a terminal's cursor or change its state; line separators; marks that reorder text;
# halves of surrogate pairs, which stand for undecodable bytes of a file's name and have no encoding.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_WIDEST = 10_000
"""Columns of a table that no terminal shows: its rows are lines, for other programs."""


def printable(text: str) -> str:
    r"""The text on one line, with escapes for what a terminal would act on or could not show.

    >>> printable("a\x1b[31m.png")
    'a\\x1b[31m.png'
    """
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def say(text: str, *, err: bool = False) -> None:
    """Prints one line, to stderr with `err`."""
    print(printable(text), file=sys.stderr if err else sys.stdout, flush=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table whose cells are shown as they are; long ones go on in the next line of a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold")
    for name in columns:
        table.add_column(Text(printable(name)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else _WIDEST).print(table)
