"""Thumbnails of the worst pictures, small enough to embed in a page."""

import io
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from PIL import Image

from codec.errors import ArchiveError
from codec.images import Picture
from tasks.archive.schema import Row
from tasks.processes.codec_process import Models
from tasks.progress import SILENT, Progress
from tasks.restore.before_after import Pictures
from tasks.storage.store import Store

LARGEST = 20_000
"""Most bytes of a thumbnail."""
SIDE = 360
"""Most pixels of its longer side."""
QUALITIES = (82, 70, 55, 40, 25)
"""WebP qualities, tried from the best on."""


class RowOfArchive(Row):
    """A row of the report, and the URL of its archive."""

    archive: str


@dataclass(frozen=True)
class Thumbnail:
    """A WebP file, or the reason why it is missing."""

    data: bytes = b""
    missing: str = ""


@dataclass(frozen=True)
class ThumbnailPair:
    """A row of the report with its two pictures."""

    row: RowOfArchive
    original: Thumbnail
    stored: Thumbnail


def pairs(rows: Sequence[RowOfArchive], models: Models, progress: Progress = SILENT) -> list[ThumbnailPair]:
    """Loads the pictures of rows from the archive in column `archive`; the reason replaces a missing picture."""
    progress.begin(len(rows))
    found = []
    with ExitStack() as stack:
        opened: dict[str, Pictures] = {}
        for row in rows:
            location = row["archive"]
            if location not in opened:
                opened[location] = stack.enter_context(Pictures(Store(location), models))
            pictures = opened[location]
            found.append(ThumbnailPair(row, _of(pictures.original, row), _of(pictures.stored, row)))
            progress.advance(1)
    return found


def _of(read: Callable[[Row], Picture], row: Row) -> Thumbnail:
    try:
        return Thumbnail(thumbnail(read(row)))
    except ArchiveError as error:
        return Thumbnail(missing=str(error))


def thumbnail(picture: Picture) -> bytes:
    """Encodes a WebP file of at most LARGEST bytes and SIDE pixels per side."""
    side = SIDE
    while True:
        image = Image.fromarray(picture.pixels)
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        for quality in QUALITIES:
            stream = io.BytesIO()
            image.save(stream, "WEBP", quality=quality, method=4)
            if stream.tell() <= LARGEST:
                return stream.getvalue()
        side = side * 3 // 4
