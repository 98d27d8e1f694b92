"""The report of all sealed runs as a few large files sorted by key, so that readers need few requests.

A compaction writes a whole generation beside the old one, then names it in tables/CURRENT.json, then removes what is
older than the generation it replaced: whoever began to read that one can finish. The parts of the runs stay what they
are, the commits of shards, and so no row depends on a compaction; killed anywhere, the old generation holds, and the
next compaction starts anew. Of two at a time the later generation is kept.
"""

import itertools
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet

from codec.errors import ArchiveError
from tasks.archive import compacted, erasures, layout, manifest, report
from tasks.archive.compacted import File, Table
from tasks.archive.schema import SCHEMA
from tasks.storage import parquet
from tasks.storage.store import Store, sha256_of

ROWS_PER_FILE = 100_000
ROWS_SORTED_AT_ONCE = 2_000_000

_SAMPLE = "SELECT key FROM staged USING SAMPLE 10000 ROWS"
_RANGE = "SELECT * FROM staged WHERE key >= $low AND ($high IS NULL OR key < $high) ORDER BY key, run"


def compact(archive: Store, *, afresh: bool = False) -> Table:
    """Compact the sealed runs, unless that is done, and return the generation that holds afterwards.

    `afresh` reads every part again instead of the last generation, and leaves no older generation behind.
    Raises ArchiveError when rows went missing on the way; the old generation then holds.
    """
    erased, before = erasures.last(archive), compacted.current(archive)
    sealed = [run for run in report.runs(archive) if run <= before.runs or report.sealed(archive, run)]
    if not sealed or (not afresh and sealed[-1] == before.runs):
        return before
    inputs = _inputs(archive, before, sealed, afresh)
    generation = _claim(archive, sealed[-1])
    files = tuple(_write(archive, generation, parquet.read_once(archive, inputs, SCHEMA)))
    after = Table(generation, sealed[-1], files, erased)
    if after.rows != (expected := report.count_rows(archive, inputs)):
        raise ArchiveError(f"{archive}: {after.rows} of {expected} rows were compacted; nothing was changed")
    now = compacted.named(archive)
    if now.generation > generation:
        return now
    archive.replace(layout.CURRENT, after.to_bytes())
    _remove(archive, below=generation if afresh else before.generation)
    return after


def _inputs(archive: Store, before: Table, sealed: list[int], afresh: bool) -> list[str]:
    if not afresh:
        return report.files(archive, sealed)
    return [part for run in sealed for part in report.parts(archive, run)]


def _claim(archive: Store, runs: int) -> int:
    """A generation number of one's own."""
    document = {"format": manifest.FORMAT, "runs": runs, "compaction": secrets.token_hex(16)}
    number = max(generations(archive), default=0) + 1
    while not archive.publish(layout.claim(number), manifest.to_json(document)):
        number += 1
    return number


def generations(archive: Store) -> list[int]:
    """The numbers of all generations, also unfinished ones, ascending."""
    return sorted(int(name) for name in archive.children(layout.TABLES) if name.isdecimal())


def _write(archive: Store, generation: int, source: pa.RecordBatchReader) -> Iterator[File]:
    with parquet.database(rows=source) as connection, tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "rows.parquet"
        for index, rows in enumerate(_filled(_sorted(connection))):
            pa.parquet.write_table(rows.cast(SCHEMA), path, compression="zstd")
            content = sha256_of(path)
            name = layout.table(generation, index, content)
            if not archive.publish(name, path):
                raise ArchiveError(f"{archive.uri(name)}: damaged; remove it and compact the archive again")
            keys = rows.column("key")
            yield File(name, path.stat().st_size, content, len(rows), keys[0].as_py(), keys[-1].as_py())


def _sorted(connection: duckdb.DuckDBPyConnection) -> Iterator[pa.RecordBatch]:
    """The rows by key and run: of one range of keys after the other, since merging all at once takes memory for all."""
    connection.execute("CREATE TABLE staged AS FROM rows")
    ranges = 1 + connection.sql("FROM staged").count("*").fetchall()[0][0] // ROWS_SORTED_AT_ONCE
    keys = sorted(key for (key,) in connection.execute(_SAMPLE).fetchall())
    bounds = sorted({keys[len(keys) * place // ranges] for place in range(1, ranges)})
    for low, high in itertools.pairwise(["", *bounds, None]):
        yield from connection.sql(_RANGE, params={"low": low, "high": high}).to_arrow_reader(ROWS_PER_FILE)


def _filled(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Tables of ROWS_PER_FILE rows, the last of fewer: DuckDB's own batches are of any size below that."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        while sum(map(len, waiting)) + len(batch) >= ROWS_PER_FILE:
            missing = ROWS_PER_FILE - sum(map(len, waiting))
            yield pa.Table.from_batches([*waiting, batch.slice(0, missing)])
            waiting, batch = [], batch.slice(missing)
        if len(batch):
            waiting.append(batch)
    if waiting:
        yield pa.Table.from_batches(waiting)


def _remove(archive: Store, below: int) -> None:
    for generation in generations(archive):
        if generation < below:
            archive.remove_folder(layout.generation(generation))
