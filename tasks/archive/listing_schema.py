"""The schema of a frozen listing, which has one row for each source of a run."""

from typing import TypedDict

import pyarrow as pa

LISTING = pa.schema(
    [
        pa.field("run", pa.int32(), False, {"description": "run of this listing"}),
        pa.field("key", pa.string(), False, {"description": "path relative to the source"}),
        pa.field("uri", pa.string(), False, {"description": "URI of the source"}),
        pa.field("size", pa.int64(), True, {"description": "size of the source; null if gone", "unit": "byte"}),
        pa.field("stamp", pa.string(), True, {"description": "ETag, or modification time in nanoseconds"}),
        pa.field(
            "state",
            pa.string(),
            False,
            {
                "description": "new; changed: kept with another stamp, or gone in between; again: encoded again; "
                "gone: deleted from the source; "
                "unjudged: deleted from the source, and kept by a release that did not account for every byte; "
                "excluded: excluded by a pattern; unreadable: a folder or prefix that cannot be listed"
            },
        ),
        pa.field(
            "version",
            pa.int32(),
            False,
            {"description": "version of the key if the content is new; the last version if gone"},
        ),
        pa.field("held_sha256", pa.string(), True, {"description": "SHA-256 of the last kept version"}),
        pa.field(
            "sha256",
            pa.string(),
            True,
            {"description": "SHA-256 of the source, if another source of the listing may be equal"},
        ),
        pa.field(
            "duplicate_of",
            pa.string(),
            True,
            {"description": "first key of the listing with the same content; null for that key itself"},
        ),
        pa.field("pattern", pa.string(), True, {"description": "pattern that excludes the source"}),
        pa.field("group", pa.string(), True, {"description": "stem shared with other sources of the folder"}),
        pa.field("fault", pa.string(), True, {"description": "why a folder or prefix cannot be listed"}),
    ]
)


class Entry(TypedDict, total=False):
    """A row of a listing in Python, with the fields of LISTING; older listings lack the newest fields."""

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
