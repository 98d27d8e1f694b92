"""Planning against a long history: `python -m tests.benchmarks.listing_scale [--keys 1000000] [--history 10000000]`.

The history is an archive of sealed runs made of generated rows, each key once; the source is a listing file of `keys`
files with ETags: nine tenths as they were, some changed, the rest new. What the source does not list is gone. Prints
the seconds of planning and the peak memory of the process that plans.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet

from tasks.archive import layout, log, manifest
from tasks.archive.listing_schema import LISTING
from tasks.archive.manifest import Manifest, RunSettings
from tasks.archive.schema import SCHEMA
from tasks.compress import listing
from tasks.sources.sharding import Limits
from tasks.sources.source import open_source
from tasks.storage import parquet
from tasks.storage.store import Store, sha256_of

RUN = 1_000_000
PART = 2000


def make_history(home: Path, rows: int) -> None:
    """An archive of `rows` rows in sealed runs of a million, in parts as large as real ones."""
    archive = Store(str(home / "archive"))
    for run, first in enumerate(range(0, rows, RUN), 1):
        last = min(first + RUN, rows)
        frozen = home / "listing.parquet"
        _generate(frozen, first, last, LISTING, run, 0)
        listed = sha256_of(frozen)
        name = layout.listing(run, listed)
        archive.publish(name, frozen)
        frozen.unlink()
        parts = []
        for shard, start in enumerate(range(first, last, PART)):
            part = home / "part.parquet"
            _generate(part, start, min(start + PART, last), SCHEMA, run, shard)
            archive.publish(layout.part(run, shard), part)
            parts.append({"name": layout.part(run, shard), "size": part.stat().st_size, "sha256": sha256_of(part)})
            part.unlink()
        parent = run - 1 or None
        shards = ((0, last - first),)
        plan = Manifest(run, parent, "s3://photos", name, listed, 0, False, shards, RunSettings(), "0")
        opened = layout.manifest_of_format_1(run)
        archive.publish(opened, plan.to_bytes())
        about = {"name": opened, "sha256": sha256_of(plan.to_bytes())}
        seal = {"format": manifest.FORMAT, "run": run, "manifest": about, "parts": parts}
        archive.publish(layout.seal(run), manifest.to_json(seal))


def _generate(path: Path, first: int, last: int, schema: pa.Schema, run: int, shard: int) -> None:
    sql = f"""
        SELECT {_key("i")} AS key, 's3://photos/' || {_key("i")} AS uri, 's3://photos/' || {_key("i")} AS source_uri,
               1000000 + i % 999983 AS size, 1000000 + i % 999983 AS source_bytes, md5(i::VARCHAR) AS stamp,
               'new' AS state, 1 AS version, sha256(i::VARCHAR) AS source_sha256, 'compressed' AS status,
               {run} AS run, {shard} AS shard, 'runs/{run:06d}/shards/{shard:06d}-0123456789abcdef.tar' AS tar,
               i * 1536 AS "offset", 1024 AS length, sha256(i::VARCHAR) AS sha256, 0.1 AS bpp, 25.0 AS psnr_db,
               TIMESTAMPTZ '2026-01-01 00:00:00Z' AS created_at, 1000 AS width, 800 AS height, 'mini' AS bundle_id
        FROM range({first}, {last}) t(i) ORDER BY key
    """
    with duckdb.connect() as connection, pa.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in connection.sql(sql).to_arrow_reader(PART):
            columns = {name: batch.column(name) for name in batch.schema.names}
            filled = [columns.get(field.name, pa.nulls(batch.num_rows, field.type)) for field in schema]
            # In a listing this field is the hash of another source with the same content, and here none has any.
            if schema is LISTING:
                filled[schema.get_field_index("sha256")] = pa.nulls(batch.num_rows, pa.string())
            arrays = [array.cast(field.type) for array, field in zip(filled, schema, strict=True)]
            writer.write_table(pa.table(arrays, schema=schema))


def _key(number: str) -> str:
    return f"format('{{:03d}}/holiday/IMG_{{:09d}}.jpg', {number} % 997, {number})"


def make_source(path: Path, keys: int, history: int) -> None:
    """A listing of the last nine tenths of `keys` keys of the history, one in a hundred changed, and a tenth new."""
    first = history - 9 * keys // 10
    sql = f"""
        SELECT 's3://' || {_key("i")} AS uri, 1000000 + i % 999983 AS size,
               md5(if(i % 100 = 0, 'changed', '') || i::VARCHAR) AS etag
        FROM range({first}, {first + keys}) t(i)
    """
    duckdb.sql(f"COPY ({sql}) TO '{path}' (FORMAT parquet)")


def plan(home: Path) -> None:
    """Plan the next run, in this process, and print what came of it."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        source = open_source(str(home / "source.parquet"))
        archive = Store(str(home / "archive"))
        frozen = listing.freeze(source, archive, log.read(archive), Limits(2000, 10**10, 2000), Path(scratch))
        states = parquet.database(listing=pa.dataset.dataset(frozen.path))
        with states as connection:
            counts = connection.sql("SELECT state, count(*) FROM listing GROUP BY ALL ORDER BY ALL").fetchall()
    used = resource.getrusage(resource.RUSAGE_SELF)
    found = {
        "states": dict(counts),
        "seconds": round(time.perf_counter() - started, 1),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_mb": round(_peak_kb() / 1024),
    }
    print(json.dumps(found))


def _peak_kb() -> int:
    """The peak memory of this process; what getrusage says begins with that of the process it was forked from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [peak] = [line for line in lines if line.startswith("VmHWM:")]
    return int(peak.split()[1])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--keys", type=int, default=1_000_000)
    options.add_argument("--history", type=int, default=10_000_000)
    options.add_argument("--plan", metavar="HOME", type=Path, help="only plan, as the measured process does")
    asked = options.parse_args()
    if asked.plan:
        plan(asked.plan)
        return
    with tempfile.TemporaryDirectory() as home:
        make_history(Path(home), asked.history)
        make_source(Path(home) / "source.parquet", asked.keys, asked.history)
        subprocess.run([sys.executable, "-m", "tests.benchmarks.listing_scale", "--plan", home], check=True)


if __name__ == "__main__":
    main()
