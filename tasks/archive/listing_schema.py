"""The schema of a frozen listing: what it says about each source that a run covers."""

from typing import TypedDict

import pyarrow as pa

LISTING = pa.schema(
    [
        pa.field("run", pa.int32(), False, {"description": "run that this listing belongs to"}),
        pa.field("key", pa.string(), False, {"description": "path relative to the source"}),
        pa.field("uri", pa.string(), False, {"description": "where the source is read"}),
        pa.field("size", pa.int64(), True, {"description": "size of the source; null when it is gone", "unit": "byte"}),
        pa.field("stamp", pa.string(), True, {"description": "ETag, or modification time in nanoseconds"}),
        pa.field(
            "state",
            pa.string(),
            False,
            {
                "description": "new; changed: kept with another stamp, or gone since; again: taken again; "
                "gone: no more there; "
                "unjudged: no more there, and kept by a release that did not account for every byte; "
                "excluded: left aside; unreadable: a place that could not be looked into"
            },
        ),
        pa.field(
            "version", pa.int32(), False, {"description": "version of the key if the content is new; if gone, the last"}
        ),
        pa.field("held_sha256", pa.string(), True, {"description": "content of the version kept last"}),
        pa.field("sha256", pa.string(), True, {"description": "content, where another source here looks the same"}),
        pa.field(
            "duplicate_of", pa.string(), True, {"description": "first key here with that content, unless it is this"}
        ),
        pa.field("pattern", pa.string(), True, {"description": "pattern for which the source is left aside"}),
        pa.field("group", pa.string(), True, {"description": "stem that other sources of its folder have too"}),
        pa.field("fault", pa.string(), True, {"description": "why a place could not be looked into"}),
    ]
)


class Entry(TypedDict, total=False):
    """A row of a listing as Python has it: the fields of LISTING, those of older listings without the newest ones."""

    run: int
    key: str
    uri: str
    size: int | None
    stamp: str | None
    state: str
    version: int
    held_sha256: str | None
    sha256: str | None
    duplicate_of: str | None
    pattern: str | None
    group: str | None
    fault: str | None
