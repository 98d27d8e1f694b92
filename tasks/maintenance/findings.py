"""Findings of an audit: one row for each checked object and picture."""

from typing import Any

import pyarrow as pa
import pyarrow.parquet

BATCH = 10_000
"""Findings in memory before they are written, and read at once."""
KEPT = 1000
"""Problems that the result of an audit has itself; the file has all."""

STATES = {
    "ok": "matches its hash, name and format",
    "missing": "is named, but does not exist",
    "damaged": "does not match its hash, name or format",
    "undecodable": "has the correct bytes, but they do not decode to the encoded content",
    "foreign": "exists, but is not part of the archive",
    "left_over": "was left by a killed or late command and can no longer come into use; removed",
    "dangling": "was an incomplete upload of a killed writer; aborted",
}
_OF_STATE = "; ".join(f"{state}: {meaning}" for state, meaning in STATES.items())
SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), False, {"description": "object, relative to the archive"}),
        pa.field("key", pa.string(), True, {"description": "picture, if the finding is about one file of a tar"}),
        pa.field("state", pa.string(), False, {"description": _OF_STATE}),
        pa.field("detail", pa.string(), True, {"description": "the problem in one line"}),
        pa.field("repaired", pa.bool_(), False, {"description": "whether the problem was repaired"}),
    ]
)


class Findings:
    """Writes and counts findings as they arrive, and keeps the first problems."""

    def __init__(self, writer: pa.parquet.ParquetWriter) -> None:
        self.objects = 0
        self.pictures = 0
        self.found = 0
        self.repaired = 0
        self.problems: list[dict[str, Any]] = []
        self._writer = writer
        self._waiting: list[dict[str, Any]] = []

    def add(
        self, name: str, state: str = "ok", detail: str | None = None, *, key: str | None = None, repaired: bool = False
    ) -> None:
        """Records the state of one object or, with `key`, of one picture."""
        finding = {"name": name, "key": key, "state": state, "detail": detail, "repaired": repaired}
        if key is None:
            self.objects += 1
        else:
            self.pictures += 1
        if repaired:
            self.repaired += 1
        if state != "ok":
            self.found += 1
            if len(self.problems) < KEPT:
                self.problems.append(finding)
        self._waiting.append(finding)
        if len(self._waiting) == BATCH:
            self.flush()

    def flush(self) -> None:
        """Writes the buffered findings."""
        self._writer.write_batch(pa.RecordBatch.from_pylist(self._waiting, SCHEMA))
        self._waiting.clear()
