"""fdc archive compress|restore|audit|status|report|forget|...: all that an owner does with an archive, in a terminal.

The plain functions of the flows are here, without a Prefect server; a schedule runs the flows, with the same options.
"""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from codec.errors import FdcError
from codec.support.terminal import print_table, say
from flows import audit_archive, command, compress_archive, drill_archive, quality_report, restore_archive
from tasks.archive import layout, redaction
from tasks.archive.opening import existing, writable
from tasks.compress import runs as archives
from tasks.maintenance import compaction, holds, old_versions, premis
from tasks.maintenance import upgrade as upgrading
from tasks.maintenance.forget import forget as erase
from tasks.maintenance.status import Status
from tasks.maintenance.status import status as look
from tasks.quality import questions

SHOWN = 20
Archive = Annotated[str, typer.Argument(help="Folder or URL of the archive.")]
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
command.add(app, compress_archive.compress_archive, compress_archive.show, "compress")
command.add(app, restore_archive.restore_archive, restore_archive.show, "restore")
command.add(app, audit_archive.audit_archive, audit_archive.show, "audit")
command.add(app, quality_report.quality_report, quality_report.show, "report")
command.add(app, drill_archive.drill_archive, drill_archive.show, "drill")


@app.callback()
def archive() -> None:
    """Compress, restore, audit and maintain archives of pictures."""
    command.show_warnings()


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except FdcError as error:
        say(f"error: {error}", err=True)
        raise typer.Exit(command.FATAL) from None


@app.command()
def status(
    archive: Archive, as_json: Annotated[bool, typer.Option("--json", help="Prints a JSON document.")] = False
) -> None:
    """Show runs, shards done, rate, time left, last commit and failing shards; exit status 2 if rows failed."""
    with _one_line():
        found = look(archive)
    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
    else:
        _show(found)
    if found.failed:
        raise typer.Exit(command.FAILED_ROWS)
    raise typer.Exit(command.DONE)


@app.command()
def compact(
    archive: Archive,
    afresh: Annotated[bool, typer.Option("--afresh", help="Read every part again instead of the tables.")] = False,
) -> None:
    """Merge the rows of all sealed runs into one table. Sealing a run merges tables when it is worthwhile."""
    with _one_line():
        tables = compaction.compact(writable(archive), afresh=afresh).tables
    rows = sum(table.rows for table in tables)
    files = sum(len(table.files) for table in tables)
    runs = tables[-1].last_run if tables else 0
    print(f"{rows} rows of {runs} runs in {files} files")


@app.command()
def close_run(
    archive: Archive,
    run: Annotated[int, typer.Argument(help="The open run.")],
    reason: Annotated[str, typer.Option(help="Why the run ends without some shards; stored in the archive.")],
) -> None:
    """Seal the open run without its unfinished shards; the next run includes their pictures."""
    with _one_line():
        missing = archives.close_run(writable(archive), run, reason)
    print(f"run {run} is closed without {len(missing)} of its shards")


@app.command()
def forget(
    archive: Archive,
    keys: Annotated[
        list[str] | None, typer.Argument(help="Keys to erase; none to finish an interrupted erasure.")
    ] = None,
    group: Annotated[
        bool, typer.Option("--group", help="Also forget companions: videos, raw files, sidecars.")
    ] = False,
    only_this: Annotated[bool, typer.Option("--only-this", help="Keep companions.")] = False,
    purge_versions: Annotated[
        bool,
        typer.Option("--purge-versions", help="Delete the versions that a versioned bucket keeps of erased objects."),
    ] = False,
    redact_key: Annotated[
        bool, typer.Option("--redact-key", help="Replace the keys by pseudonyms in rows and listings.")
    ] = False,
) -> None:
    """Permanently erase all versions of some keys, and write a tombstone row for each.

    Exit status 2 while a versioned bucket still keeps erased bytes.
    """
    companions: Literal["refuse", "too", "leave"] = "refuse"
    if group:
        companions = "too"
    elif only_this:
        companions = "leave"
    with _one_line():
        store = writable(archive)
        rows = erase(store, keys or [], companions=companions, redact=redact_key)
        print(f"tombstones: {rows}")
        if redact_key:  # looked up, not assumed: a run or an audit at the same time may have written the key again
            for name in redaction.still_named(store, keys or []):
                say(f"{name}: still names them")
        old = old_versions.remaining(store)
        if old and purge_versions:
            old_versions.purge(store, old)
            old = old_versions.remaining(store)
    # The page shows some pictures, perhaps erased ones. It is not made anew here, since that decodes pictures.
    if store.exists(layout.QUALITY_REPORT):
        print(f"{layout.QUALITY_REPORT} may still show them; python -m flows.quality_report ARCHIVE recreates it")
    if old:
        count = sum(len(versions) for versions in old.values())
        print(f"{count} noncurrent versions remain in the bucket; --purge-versions deletes them")
        raise typer.Exit(command.FAILED_ROWS)


@app.command()
def hold(
    archive: Archive,
    key: Annotated[str, typer.Argument(help="A key in the archive.")],
    reason: Annotated[str, typer.Option(help="Why it must be kept; stored in the archive.")],
) -> None:
    """Protect a key from erasure, and leftovers of its shards from deletion, until it is released."""
    with _one_line():
        holds.hold(writable(archive), key, reason)
    say(f"{key}: on hold")


@app.command()
def release(archive: Archive, key: Annotated[str, typer.Argument(help="A key on hold.")]) -> None:
    """End the hold of a key."""
    with _one_line():
        holds.release(writable(archive), key)
    say(f"{key}: released")


@app.command()
def upgrade(archive: Archive) -> None:
    """Add the log to an archive of format 1; nothing else is rewritten. No other command may run at the same time."""
    with _one_line():
        record = upgrading.upgrade(writable(archive)).record
    print(f"format 2, record {record}")


@app.command()
def events(
    archive: Archive,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write or replace. [default: stdout]"),
    ] = None,
) -> None:
    """Write the history of an archive and its pictures as PREMIS 3 events in XML."""
    with _one_line():
        premis.export(existing(archive), output)


@app.command()
def sql(
    archive: Archive,
    query: Annotated[str, typer.Argument(help="SQL over the views rows, runs and listings.")],
    as_json: Annotated[bool, typer.Option("--json", help="Prints a JSON document.")] = False,
) -> None:
    """Query an archive's report with SQL (DuckDB)."""
    with _one_line():
        found = questions.query([archive], query)
    if as_json:
        print(json.dumps(found.to_pylist(), indent=1, default=str))
    else:
        print_table(found.column_names, ([str(value) for value in row.values()] for row in found.to_pylist()))


def _show(found: Status) -> None:
    columns = (
        "run",
        "state",
        "shards_done",
        "shards",
        "images_done",
        "images",
        "failed",
        "stored_bytes",
        "last_commit",
    )
    headers = [name.replace("_", " ") for name in columns]
    print_table(headers, ([str(run[name]) for name in columns] for run in found.runs[-SHOWN:]))
    if found.images_per_second is not None and found.seconds_left is not None:
        print(f"{found.images_per_second:.2f} images/s, {found.seconds_left / 3600:.1f} h left")
    for shard in found.failing_shards[-SHOWN:]:
        reasons = ", ".join(shard["reasons"])
        print(f"run {shard['run']} shard {shard['shard']}: {shard['failed']} of {shard['images']} failed ({reasons})")
    if found.unfinished_erasures:
        print("an erasure was interrupted: run `forget` without keys to finish it")


if __name__ == "__main__":
    app()
