"""Image files of exact content, also of kinds that no library here writes."""

import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DISPLAY_P3 = {"red": (0.680, 0.320), "green": (0.265, 0.690), "blue": (0.150, 0.060)}
SRGB_PRIMARIES = {"red": (0.640, 0.330), "green": (0.300, 0.600), "blue": (0.150, 0.060)}
# ICC.1: the white of the profile connection space, and the adaptation to it that the specification recommends.
D50 = np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
BRADFORD_INVERSE = np.linalg.inv(BRADFORD)


def stored(image: Image.Image | NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    """The picture as a file of one format."""
    stream = io.BytesIO()
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    """One PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int, height: int, depth: int, color: int, *rows: bytes, extra: tuple[bytes, bytes] | None = None
) -> bytes:
    """A PNG file of given declarations, rows, and one more chunk."""
    lines = [b"\0" + row for row in rows]  # each begins with its filter, here none
    body = zlib.compress(b"".join(lines))
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    chunks = [(b"IHDR", header)]
    if extra:
        chunks.append(extra)
    chunks += [(b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in chunks)


def profile(gamma: float | None, primaries: Mapping[str, tuple[float, float]] | None = None) -> bytes:
    """A color profile of one tone curve (a power, or sRGB's sampled): gray, or RGB with primaries as (x, y)."""
    curve = _curve(gamma)
    tags = {b"wtpt": xyz(D50)}
    if primaries is None:
        space = b"GRAY"
        tags[b"kTRC"] = curve
    else:
        space = b"RGB "
        for name, column in zip((b"r", b"g", b"b"), _columns(primaries).T, strict=True):
            tags[name + b"TRC"] = curve
            tags[name + b"XYZ"] = xyz(column)
    place = 128 + 4 + 12 * len(tags)  # behind the header, the number of tags, and their table
    table = b""
    body = b""
    for name, content in tags.items():
        table += name + struct.pack(">II", place + len(body), len(content))
        body += content
    head = struct.pack(">I4xI4s4s4s12x4s28x", place + len(body), 0x02400000, b"mntr", space, b"XYZ ", b"acsp")
    header = head + xyz(D50)[8:] + bytes(48)
    return header + struct.pack(">I", len(tags)) + table + body


def _curve(gamma: float | None) -> bytes:
    """A tone curve as a tag: a power, or the one of sRGB (IEC 61966-2-1) in 1,024 samples."""
    if gamma is not None:
        return struct.pack(">4s4xIH2x", b"curv", 1, round(gamma * 256))
    level = np.linspace(0, 1, 1024)
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    return struct.pack(">4s4xI", b"curv", 1024) + np.rint(linear * 65535).astype(">u2").tobytes()


def _columns(primaries: Mapping[str, tuple[float, float]]) -> NDArray[np.float64]:
    """The matrix (3, 3) from linear RGB under D65 to XYZ under D50."""
    x, y = np.array([*primaries.values()]).T
    columns = np.stack([x / y, np.ones(3), (1 - x - y) / y])
    d65 = np.array([0.3127, 0.3290, 0.3583]) / 0.3290
    adaptation = BRADFORD_INVERSE @ np.diag((BRADFORD @ D50) / (BRADFORD @ d65)) @ BRADFORD
    # Scaled so that equal parts of all three give white.
    columns = adaptation @ (columns * np.linalg.solve(columns, d65))
    return np.asarray(columns)


def xyz(values: NDArray[np.float64]) -> bytes:
    """A tag that holds one color."""
    return struct.pack(">4s4x3i", b"XYZ ", *(round(value * 65536) for value in values))


def tiff(values: bytes, bits: int, width: int, height: int, photometric: int = 1) -> bytes:
    """An uncompressed little-endian TIFF of one gray strip."""
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height)]
    tags.append((279, len(values)))
    padded = values + bytes(len(values) % 2)
    entries = b""
    for tag, value in tags:
        kind = 4 if tag in (273, 279) else 3  # offsets and lengths need 32 bits
        entries += struct.pack("<HHII", tag, kind, 1, value)
    return b"II*\0" + struct.pack("<I", 8 + len(padded)) + padded + struct.pack("<H", len(tags)) + entries + bytes(4)
