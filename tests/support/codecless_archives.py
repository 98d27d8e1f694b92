"""Archives made without a codec, so that tests of what is done with archives start no models: originals in tars."""

import datetime
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from tasks.archive import escrow, index_files, layout, log, manifest
from tasks.archive.listing_schema import LISTING
from tasks.archive.manifest import Manifest
from tasks.archive.tar import Tar
from tasks.compress.runs import seal as seal_run
from tasks.storage.keys import member
from tasks.storage.store import Store, sha256_of
from tests.support.archive_builder import SMALL

BUNDLE = "0" * 64
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def make(
    url: str | Path, runs: Sequence[Mapping[str, bytes | None]], per_shard: int = 3, *, seal: bool = True
) -> Store:
    """Make an archive of sealed runs from the keys and contents of each; a content of None is a picture that failed.

    A key whose content did not change gets a row `unchanged`. Without `seal` the last run stays open.
    """
    store = Store(str(url))
    store.publish(layout.ARCHIVE, manifest.to_json({"format": manifest.FORMAT, "name": "made"}))
    log.writable(store)
    store.publish(f"{layout.escrow(BUNDLE)}/config.json", b"{}")
    store.publish(f"{layout.escrow(BUNDLE)}/{layout.SUMS}", escrow._sums_of({"config.json": b"{}"}))
    kept: dict[str, dict[str, Any]] = {}
    for run, contents in enumerate(runs, 1):
        plan = _plan(store, run, contents, per_shard)
        keys = sorted(contents)
        for shard, (start, stop) in enumerate(plan.shards):
            _shard(store, run, shard, {key: contents[key] for key in keys[start:stop]}, kept)
        last = run == len(runs)
        if last and not seal:
            continue
        if log.read(store).open_run == run:
            seal_run(store, plan)
    return store


def _plan(store: Store, run: int, contents: Mapping[str, bytes | None], per_shard: int) -> Manifest:
    entries = []
    for key in sorted(contents):
        size = len(contents[key] or b"")
        entry = {"run": run, "key": key, "uri": f"s/{key}", "size": size, "stamp": "1", "state": "new", "version": 1}
        entries.append(entry)
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "listing.parquet"
        pa.parquet.write_table(pa.Table.from_pylist(entries, LISTING), path)
        digest = sha256_of(path)
        store.publish(layout.listing(run, digest), path)
    shards = tuple((start, min(start + per_shard, len(entries))) for start in range(0, len(entries), per_shard))
    parent = run - 1 or None  # the first run has none
    plan = Manifest(run, parent, "s", layout.listing(run, digest), digest, 0, False, shards, SMALL, BUNDLE)
    data = plan.to_bytes()
    name = layout.manifest(run, sha256_of(data))
    store.publish(name, data)
    head = log.read(store)
    # A test that makes the same archive again finds its runs opened already.
    if head.runs < run:
        log.append(store, head, "open", replace(head, runs=run, opened=name))
    return plan


def _shard(
    store: Store, run: int, shard: int, contents: Mapping[str, bytes | None], kept: dict[str, dict[str, Any]]
) -> None:
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as scratch:
        spool = Path(scratch) / "shard.tar"
        with Tar(spool) as tar:
            for number, (key, content) in enumerate(contents.items()):
                rows.append(_row(run, shard, key, content, number, tar, kept.get(key)))
        name = layout.tar(run, shard, sha256_of(spool))
        own = [row for row in rows if row["status"] == "fallback"]
        for row in own:
            row["tar"] = name
            kept[row["key"]] = row
        # A shard of failed and unchanged rows stores no bytes, and has no tar.
        if own:
            store.publish(name, spool)
    about = {"run": str(run), "shard": str(shard), "tar": name if own else ""}
    store.publish(layout.part(run, shard), index_files.encoded(rows, about))


def _row(
    run: int, shard: int, key: str, content: bytes | None, number: int, tar: Tar, before: dict[str, Any] | None
) -> dict[str, Any]:
    row = {
        "key": key,
        "version": 1 if before is None else before["version"] + 1,
        "source_uri": f"s/{key}",
        "source_bytes": len(content or b""),
        "run": run,
        "shard": shard,
        "bundle_id": BUNDLE,
        "created_at": START + datetime.timedelta(seconds=60 * run + 10 * shard + number),
    }
    if content is None:
        return row | {"status": "failed", "reason": "content", "error": "no picture"}
    digest = hashlib.sha256(content).hexdigest()
    if before is not None and before["sha256"] == digest:
        # An unchanged row points at the bytes that are stored, so it keeps their tar, offset, length and version.
        return {**before, **row, "version": before["version"], "status": "unchanged"}
    about = {"status": "fallback", "codec": "original", "reason": "would_grow", "width": 4, "height": 2}
    stored = {
        "source_sha256": digest,
        "bytes": len(content),
        "bpp": float(len(content)),  # eight bits for each byte, over 4 x 2 pixels
        "offset": tar.add(member(number, key, "bin"), content),
        "length": len(content),
        "sha256": digest,
        "verified": True,
    }
    return row | about | stored
