"""python -m tests.benchmarks.report_scale FOLDER: a report of ten million rows, compacted and asked with DuckDB.

The archive has the parts and seals of three runs, up to 2,000 shards of 2,000 pictures each, with every field filled as
in a real report, and no tars. Printed: seconds and peak memory of the compaction, sizes, and seconds of questions by
wall clock and by processor time, the best of five, which tells on a machine with other work. The folder is used again.
"""

import argparse
import hashlib
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet

from tasks.archive import layout, manifest, report, schema
from tasks.archive.listing_schema import LISTING
from tasks.archive.manifest import Manifest, RunSettings
from tasks.maintenance import compaction
from tasks.maintenance.upgrade import upgrade
from tasks.storage.store import Store, sha256_of

PER_SHARD = 2000
SHARDS_PER_RUN = 2000
FOLDERS = 4000
QUESTIONS = {
    "rows by status": "SELECT status, count(*) FROM rows GROUP BY status",
    "mean bpp by source folder": "SELECT parse_dirpath(key) AS folder, avg(bpp) FROM rows GROUP BY folder",
    "mean bpp, PSNR and LPIPS by run": "SELECT run, avg(bpp), avg(psnr_db), avg(lpips) FROM rows GROUP BY run",
}


def make(folder: Path, rows: int) -> Store:
    """The archive; quick, as it is written without the commit protocol."""
    store = Store(str(folder))
    if (folder / layout.ARCHIVE).exists():
        return store
    shards = rows // PER_SHARD
    for run, first in enumerate(range(0, shards, SHARDS_PER_RUN), 1):
        (folder / layout.parts(run)).mkdir(parents=True, exist_ok=True)
        numbers = range(min(SHARDS_PER_RUN, shards - first))
        parts = [_part(folder, run, number, first + number) for number in numbers]
        ranges = tuple((PER_SHARD * number, PER_SHARD * (number + 1)) for number in numbers)
        frozen = pa.BufferOutputStream()
        pa.parquet.write_table(LISTING.empty_table(), frozen)
        listed = sha256_of(frozen.getvalue().to_pybytes())
        name = layout.listing(run, listed)
        (folder / name).write_bytes(frozen.getvalue().to_pybytes())
        plan = Manifest(run, run - 1 or None, "s3://photos", name, listed, 0, False, ranges, RunSettings(), "0" * 64)
        opened = layout.manifest_of_format_1(run)
        (folder / opened).write_bytes(plan.to_bytes())
        about = {"name": opened, "sha256": sha256_of(plan.to_bytes())}
        seal = {"format": manifest.FORMAT, "run": run, "manifest": about, "parts": parts}
        (folder / layout.seal(run)).write_bytes(manifest.to_json(seal))
    (folder / layout.ARCHIVE).write_bytes(manifest.to_json({"format": 1}))
    upgrade(store)
    return store


def _part(folder: Path, run: int, shard: int, seed: int) -> dict[str, Any]:
    tar = layout.tar(run, shard, f"{seed:064x}")
    fields = _columns(np.random.default_rng(seed), run, shard, seed, tar)
    own = schema.SCHEMA.with_metadata({**schema.SCHEMA.metadata, b"tar": tar.encode()})
    buffer = pa.BufferOutputStream()
    pa.parquet.write_table(pa.table(fields, schema=own), buffer, compression="zstd")
    data = buffer.getvalue().to_pybytes()
    name = layout.part(run, shard)
    (folder / name).write_bytes(data)
    return {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _columns(rng: np.random.Generator, run: int, shard: int, seed: int, tar: str) -> dict[str, pa.Array]:
    numbers = np.arange(PER_SHARD) + PER_SHARD * seed
    keys = [f"albums/{number % FOLDERS:04d}/IMG_{number:08d}.jpg" for number in numbers.tolist()]
    hashes = rng.bytes(32 * 3 * PER_SHARD).hex()  # three columns, cut from one draw
    columns = {
        "key": keys,
        "source_uri": [f"s3://photos/{key}" for key in keys],
        "status": rng.choice(["compressed", "fallback", "failed"], PER_SHARD, p=[0.97, 0.02, 0.01]),
        "created_at": 1_750_000_000_000_000 + 400_000 * numbers,
    }
    for place, name in enumerate(("source_sha256", "sha256", "content_sha256")):
        first = 64 * PER_SHARD * place
        columns[name] = [hashes[start : start + 64] for start in range(first, first + 64 * PER_SHARD, 64)]
    same = {"source_format": "JPEG", "codec": "fdc", "lpips_net": "alex", "tar": tar, "bundle_id": "0" * 64}
    same |= {"device": "cpu", "verified": True, "run": run, "shard": shard, "version": 1}
    return {field.name: _column(field, columns, same, rng) for field in schema.SCHEMA}


def _column(field: pa.Field, columns: dict[str, Any], same: dict[str, Any], rng: np.random.Generator) -> pa.Array:
    if field.name in columns:
        return pa.array(columns[field.name], field.type)
    if field.name in same:
        return pa.repeat(pa.scalar(same[field.name], field.type), PER_SHARD)
    if pa.types.is_floating(field.type):
        return pa.array(rng.random(PER_SHARD), field.type)
    if pa.types.is_integer(field.type):
        return pa.array(rng.integers(1, 2**20, PER_SHARD), field.type)
    return pa.nulls(PER_SHARD, field.type)


def best(question: Callable[[], Any], times: int = 5) -> tuple[float, float]:
    """The least seconds by wall clock, and by processor time, of a question."""
    measured = []
    for _ in range(times):
        wall = time.perf_counter()
        processor = time.process_time()
        question()
        measured.append((time.perf_counter() - wall, time.process_time() - processor))
    return min(wall for wall, _ in measured), min(processor for _, processor in measured)


def _answers(connection: duckdb.DuckDBPyConnection, sql: str) -> list[Any]:
    return connection.sql(sql).fetchall()


def main() -> None:
    """Make, compact, ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=10_000_000)
    arguments = parser.parse_args()
    store = make(arguments.folder, arguments.rows)
    started = time.perf_counter()
    used = time.process_time()
    [table] = compaction.compact(store).tables
    seconds = time.perf_counter() - started
    processor = time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    size = sum(file.size for file in table.files) / 1e9
    print(f"{table.rows} rows of {table.last_run} runs in {len(table.files)} files, {size:.2f} GB")
    print(f"compaction {seconds:.0f} s, {processor:.0f} s of processor time, peak memory {peak:.2f} GB")
    print("| question | seconds | of processor time |\n|---|---|---|")
    for name, sql in QUESTIONS.items():
        wall, busy = best(partial(report.query, store, sql))
        print(f"| {name} | {wall:.2f} | {busy:.2f} |")
    names = ", ".join(f"'{arguments.folder}/{file.name}'" for file in table.files)
    files = f"read_parquet([{names}])"
    for name, sql in QUESTIONS.items():
        with duckdb.connect() as connection:
            wall, busy = best(partial(_answers, connection, sql.replace("FROM rows", f"FROM {files}")))
        print(f"| {name}, DuckDB reading the files itself | {wall:.2f} | {busy:.2f} |")


if __name__ == "__main__":
    main()
