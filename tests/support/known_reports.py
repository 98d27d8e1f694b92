"""Reports with known figures, without pictures behind them."""

import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet

from tasks.archive import index_files, layout, log, manifest
from tasks.archive.listing_schema import LISTING
from tasks.archive.opening import create
from tasks.storage.store import Store, sha256_of


def row(number: int, run: int) -> dict[str, Any]:
    """The row of a compressed picture. PSNR (from 20 dB), LPIPS and rate grow with its number."""
    return {
        "key": f"{number:03d}.png",
        "version": 1,
        "source_uri": f"file:///nowhere/{number:03d}.png",
        "source_sha256": f"{number:064x}",
        "source_bytes": 100_000,
        "width": 100,
        "height": 80,
        "status": "compressed",
        "codec": "fdc",
        "bytes": 100 + number,
        "bpp": 8 * (100 + number) / 8000,
        "psnr_db": 20 + number / 10,
        "lpips": (number + 1) / 100,
        "run": run,
        "shard": 0,
        "tar": layout.tar(run, 0, "0" * 64),
        "offset": 1024 * number,
        "length": 100 + number,
        "sha256": "0" * 64,
        "encode_seconds": 0.5,
        "decode_seconds": 0.25,
        "bundle_id": "b" * 64,
        "device": "cpu",
        "created_at": datetime.datetime(2026, run, 1, tzinfo=datetime.UTC),
    }


def archive_of(path: Path, pictures: int, runs: int = 1, forgotten: Sequence[int] = ()) -> str:
    """An archive of runs that each hold some pictures, of which the last run forgets a few; its tars are missing."""
    create(Store(str(path)))
    for run in range(1, runs + 1):
        first = pictures * (run - 1)
        rows = [row(number, run) for number in range(first, first + pictures)]
        if run == runs:
            rows += [_forgotten(number, run) for number in forgotten]
        write_run(path, run, rows, pictures)
        if run < runs:
            _sealed(Store(str(path)), run)
    return str(path)


def _forgotten(number: int, run: int) -> dict[str, Any]:
    known = row(number, run)
    # What an erasure leaves of a row: nothing that describes the content.
    kept = ("key", "version", "source_uri", "source_bytes", "shard", "created_at")
    return {name: known[name] for name in kept} | {"run": run + 1, "status": "forgotten"}


def write_run(path: Path, run: int, rows: Sequence[dict[str, Any]], pictures: int) -> None:
    """An open run of an archive that has these rows, of so many pictures."""
    store = Store(str(path))
    (path / layout.parts(run)).mkdir(parents=True)
    (path / layout.part(run, 0)).write_bytes(index_files.encoded(list(rows), {"tar": ""}))
    # Written under another name, since a listing is named by its hash.
    frozen = path / "listing.parquet"
    pyarrow.parquet.write_table(LISTING.empty_table(), frozen)
    digest = sha256_of(frozen)
    listing = layout.listing(run, digest)
    frozen.rename(path / listing)
    parent = run - 1 or None
    shards = ((0, pictures),)
    settings = manifest.RunSettings(quality=8.0)
    plan = manifest.Manifest(run, parent, "/nowhere", listing, digest, 0, False, shards, settings, "b" * 64)
    data = plan.to_bytes()
    head = log.read(store)
    name = layout.manifest(run, sha256_of(data))
    store.publish(name, data)
    log.append(store, head, "open", dataclasses.replace(head, runs=run, opened=name))


def _sealed(store: Store, run: int) -> None:
    planned = log.read(store).opened
    part = layout.part(run, 0)
    about = {"name": planned, "sha256": store.sha256(planned)}
    parts = [{"name": part, "size": store.size(part), "sha256": store.sha256(part)}]
    document = {"format": manifest.FORMAT, "run": run, "manifest": about, "parts": parts}
    store.publish(layout.seal(run), manifest.to_json(document))
    head = log.read(store)
    log.append(store, head, "seal", dataclasses.replace(head, opened=""))
