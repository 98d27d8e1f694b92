"""Stored files as they are shared: .fdc files without metadata unless told, and files that were kept whole."""

from dataclasses import replace

from codec.format.bitstream import MAX_PIXELS, pack, parse
from codec.format.tags import CRITICAL, PREVIEW
from tasks.gateway.catalog import CatalogEntry
from tasks.gateway.refusals import Refusal
from tasks.restore.stored_file import StoredFile, is_large

SHARED = (*CRITICAL, PREVIEW)
"""Chunks that a shared .fdc file keeps: those that its pixels need, and the preview."""
SAFE_TYPES = (
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/avif",
    "image/gif",
    "image/tiff",
    "image/heic",
    "image/jxl",
)
"""Media types that no browser runs; others are sent as application/octet-stream."""


def without_metadata(data: bytes) -> bytes:
    """Returns an .fdc file with its pixels, color profile and preview alone; raises BitstreamError, Refusal.

    A file without metadata is returned byte for byte.
    """
    file = parse(data, max_pixels=MAX_PIXELS)
    kept = tuple(chunk for chunk in file.chunks if chunk.tag in SHARED)
    if len(kept) == len(file.chunks) and not file.unknown:
        return data
    if file.version == 1:
        raise Refusal(403, "this file of version 1 carries metadata, which the gateway was not told to share")
    return pack(replace(file, chunks=kept))


def whole(entry: CatalogEntry, *, metadata: bool) -> tuple[StoredFile, str]:
    """Returns the file of a picture that was kept whole, and its media type. Raises Refusal."""
    file = entry.file
    if file is None or file.codec == "fdc":
        raise Refusal(404, "this picture was compressed; ask for it as .fdc or as a picture")
    if not metadata:
        raise Refusal(403, "a file kept whole carries its metadata; start the gateway with --metadata to share it")
    if is_large(file):
        raise Refusal(413, "this file is too large for the gateway; use restore-archive")
    if file.codec == "jxl":
        return file, "image/jxl"
    return file, entry.media_type if entry.media_type in SAFE_TYPES else "application/octet-stream"
