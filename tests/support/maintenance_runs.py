"""What the tests of owners' commands share."""

import io
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from tasks.archive import layout
from tasks.storage.store import Store

RUNS = [
    {"a": b"aaa", "b": b"b~~1", "c": b"ccc", "d": b"ddd", "e": None},
    {"a": b"aaa", "b": b"b~~2", "f": b"fff", "trip/g.jpg": b"ggg"},
    {"h": b"hhh", "d": b"ddd"},
]
"""Three runs of small files: b changes, a and d are touched without a change, e fails."""


def killed(verb: str, archive: Path, folder: Path) -> list[Path]:
    """Copies of an archive in which a verb was killed before its first, second, ... change to the store."""
    command = [sys.executable, "-m", "tests.support.killed_commands", verb, str(archive), str(folder)]
    subprocess.run(command, check=True)
    copies = len(list(folder.iterdir()))
    return [folder / str(number) for number in range(copies)]


def tree(archive: Path) -> dict[str, bytes]:
    """The content of each file of an archive, without audits, tables and log, whose names hold a time or a number."""
    store = Store(str(archive))
    own = (f"{layout.AUDITS}/", f"{layout.TABLES}/", f"{layout.LOG}/")
    return {item.name: store.read(item.name) for item in store.list() if not item.name.startswith(own)}


def naming(store: Store, word: str) -> list[str]:
    """The objects in which a word stands, in whatever column of a Parquet file."""
    found = []
    for item in store.list():
        data = store.read(item.name)
        # Parquet compresses its columns, where a word could not be found.
        if item.name.endswith(".parquet"):
            data = repr(pa.parquet.read_table(io.BytesIO(data)).to_pylist()).encode()
        if word.encode() in data or word in item.name:
            found.append(item.name)
    return found
