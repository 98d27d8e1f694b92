"""Archives as releases before the log left them: fixed names, no tables unless compacted, parts without their hash."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from tasks.archive import format1, layout, log, manifest
from tasks.archive.escrow import OWN_HASH
from tasks.archive.index_files import ROWS_SHA256
from tasks.storage.store import Store, sha256_of

LATER = ("verified_by", "lpips_vgg", "not_measured", "effort", "preview_bytes")
"""Columns that no part of format 1 has."""
WRITABLE = 0o644
"""Committed files are read-only, and these are changed as no command would."""


def as_format_1(archive: Path, *, without: Sequence[str] = (), compacted: bool = False) -> Store:
    """Turn an archive into one of format 1; parts lose the columns `without`. `compacted` keeps its one table."""
    store = Store(str(archive))
    head = log.read(store)
    for run in range(1, head.runs + 1):
        _run_as_format_1(archive, store, head, run, without)
    if compacted:
        [table] = head.tables
        files = [vars(file) for file in table.files]
        current = {"format": 1, "generation": 1, "runs": table.last_run, "files": files}
        store.replace(format1.CURRENT, manifest.to_json(current))
    else:
        shutil.rmtree(archive / layout.TABLES, ignore_errors=True)
    for listed in archive.rglob(layout.SUMS):
        listed.chmod(WRITABLE)
        listed.write_text(listed.read_text().partition(OWN_HASH)[0])
    # Last, since everything above is found through the log.
    shutil.rmtree(archive / layout.LOG)
    described = manifest.from_json(store.read(layout.ARCHIVE), "")
    store.replace(layout.ARCHIVE, manifest.to_json(described | {"format": 1}))
    return store


def _run_as_format_1(archive: Path, store: Store, head: log.ArchiveHead, run: int, without: Sequence[str]) -> None:
    seal: dict[str, Any] = {}
    opened = head.opened
    if run in head.sealed:
        seal = log.seal(store, head, run)
        opened = log.manifest_of(seal, run)
    planned = {**manifest.from_json(store.read(opened), ""), "format": 1}
    store.remove(opened)
    store.replace(layout.manifest_of_format_1(run), manifest.to_json(planned))
    parts = []
    for name in sorted(store.children(layout.parts(run))):
        path = archive / layout.parts(run) / name
        _part_as_format_1(path, without)
        content = {"size": path.stat().st_size, "sha256": sha256_of(path)}
        parts.append({"name": f"{layout.parts(run)}/{name}", **content})
    if run in head.sealed:
        about = {"sha256": sha256_of(manifest.to_json(planned))}
        store.replace(layout.seal(run), manifest.to_json(seal | {"format": 1, "manifest": about, "parts": parts}))


def _part_as_format_1(path: Path, without: Sequence[str]) -> None:
    table = pa.parquet.read_table(path)
    unknown = [column for column in (*LATER, *without) if column in table.column_names]
    table = table.drop_columns(unknown)
    metadata = {key: value for key, value in table.schema.metadata.items() if key != ROWS_SHA256}
    path.chmod(WRITABLE)
    pa.parquet.write_table(table.replace_schema_metadata(metadata), path)
