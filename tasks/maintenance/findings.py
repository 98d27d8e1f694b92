"""What an audit finds: one row for each object and each picture that was looked at."""

from typing import Any

import pyarrow as pa
import pyarrow.parquet

BATCH = 10_000
KEPT = 1000

STATES = {
    "ok": "is what it should be",
    "missing": "is named, but not there",
    "damaged": "is not what its hash, its name or its format says",
    "undecodable": "has the right bytes, but they do not decode to what was encoded",
    "foreign": "is there, but nothing names it",
    "left_over": "was left by a killed or late command, and nothing can come to name it; removed",
    "dangling": "was an upload that a killed writer left; aborted",
}
SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), False, {"description": "object, relative to the archive"}),
        pa.field("key", pa.string(), True, {"description": "picture, where the finding is about one file of a tar"}),
        pa.field("state", pa.string(), False, {"description": "; ".join(f"{k}: {v}" for k, v in STATES.items())}),
        pa.field("detail", pa.string(), True, {"description": "what is wrong, in one line"}),
        pa.field("repaired", pa.bool_(), False, {"description": "whether it was put right"}),
    ]
)


class Findings:
    """The findings, written as they come and counted; the first problems are also kept."""

    def __init__(self, writer: pa.parquet.ParquetWriter) -> None:
        self.objects = self.pictures = self.found = self.repaired = 0
        self.problems: list[dict[str, Any]] = []
        self._writer, self._waiting = writer, list[dict[str, Any]]()

    def add(
        self, name: str, state: str = "ok", detail: str | None = None, *, key: str | None = None, repaired: bool = False
    ) -> None:
        """Write down one object, or with `key` one picture, and its state."""
        finding = {"name": name, "key": key, "state": state, "detail": detail, "repaired": repaired}
        if key is None:
            self.objects += 1
        else:
            self.pictures += 1
        self.repaired += repaired
        if state != "ok":
            self.found += 1
            if len(self.problems) < KEPT:
                self.problems.append(finding)
        self._waiting.append(finding)
        if len(self._waiting) == BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        self._writer.write_batch(pa.RecordBatch.from_pylist(self._waiting, SCHEMA))
        self._waiting.clear()
