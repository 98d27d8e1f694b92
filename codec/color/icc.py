"""Reads and builds matrix and gray ICC profiles (ICC.1:2022, sections 7 to 10).

Pillow's color management applies profiles, but does not expose their tone curves and builds only sRGB.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]
"""A tone curve: linear light, 0..1, at CURVE_POINTS encoded values evenly spaced over 0..1."""
CURVE_POINTS = 1024
HEADER = 128
D50 = (0.9642, 1.0, 0.8249)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
TABLE_TAGS = (b"A2B0", b"A2B1", b"A2B2", b"D2B0", b"D2B1", b"D2B2", b"D2B3")
"""Tags that take precedence over matrix and curves."""
MATRIX_TAGS = (b"rXYZ", b"gXYZ", b"bXYZ")
CURVE_TAGS = (b"rTRC", b"gTRC", b"bTRC")
PARAMETERS = (1, 3, 4, 5, 7)
"""Number of parameters of each kind of parametric curve (section 10.18)."""
LARGEST_TAG = 1 << 20
MOST_TAGS = 100


@dataclass(frozen=True)
class MatrixProfile:
    """The content of a matrix or gray display profile. `colorants` is None for gray."""

    colorants: NDArray[np.float64] | None
    """(3, 3): XYZ relative to D50 in the rows, red, green and blue in the columns."""
    curves: tuple[Curve, ...]
    """Three tone curves, or one for a gray profile."""


def read(profile: bytes) -> MatrixProfile | None:
    """Parses a profile's matrix and curves. Returns None if it uses tables or is for other pixels.

    Raises ValueError if the bytes are not a complete profile.
    """
    tags = _tags(profile)
    space = profile[16:20]
    connection_space = profile[20:24]
    if any(tag in tags for tag in TABLE_TAGS):
        return None
    if space == b"GRAY" and b"kTRC" in tags:
        return MatrixProfile(None, (_curve(tags[b"kTRC"]),))
    if space != b"RGB " or connection_space != b"XYZ ":
        return None
    if not all(tag in tags for tag in MATRIX_TAGS + CURVE_TAGS):
        return None
    colorants = np.stack([_xyz(tags[tag]) for tag in MATRIX_TAGS], axis=1)
    curves = tuple(_curve(tags[tag]) for tag in CURVE_TAGS)
    return MatrixProfile(colorants, curves)


def build(description: str, white: tuple[float, float], primaries: NDArray[np.float64], curve: bytes) -> bytes:
    """Builds a version 4 display profile. `white` is x, y; `primaries` (3, 2) are x, y of red, green and blue.

    `curve` is a complete tag, such as `parametric` returns.
    """
    to_d50 = adaptation(white)
    columns = to_d50 @ colorants(white, primaries)
    tags: dict[bytes, bytes] = {}
    tags[b"desc"] = _text_tag(description)
    tags[b"cprt"] = _text_tag("no copyright")
    # The white point of a display is D50 in version 4; chad holds the adaptation from its own.
    tags[b"wtpt"] = _xyz_tag(D50)
    tags[b"chad"] = b"sf32" + bytes(4) + _fixed(*to_d50.flatten())
    for name, column in zip(MATRIX_TAGS, columns.T, strict=True):
        tags[name] = _xyz_tag(column)
    for name in CURVE_TAGS:
        tags[name] = curve
    return _assembled(tags)


def parametric(gamma: float, a: float = 1, b: float = 0, c: float = 0, d: float = 0) -> bytes:
    """Builds a curve tag: (a x + b) ** gamma from x = d on, c x below (type 3); a plain power where d is 0 (type 0)."""
    if d == 0:
        return b"para" + bytes(4) + struct.pack(">HH", 0, 0) + _fixed(gamma)
    return b"para" + bytes(4) + struct.pack(">HH", 3, 0) + _fixed(gamma, a, b, c, d)


def _assembled(tags: Mapping[bytes, bytes]) -> bytes:
    """Serializes header, tag table and contents; equal contents are stored once."""
    offsets: dict[bytes, int] = {}
    body = b""
    start = HEADER + 4 + 12 * len(tags)
    table = struct.pack(">I", len(tags))
    for name, content in tags.items():
        if content not in offsets:
            offsets[content] = start + len(body)
            body += content + bytes(-len(content) % 4)  # tags begin at multiples of 4
        table += name + struct.pack(">II", offsets[content], len(content))
    size = start + len(body)
    header = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x04400000, b"mntr", b"RGB ", b"XYZ ")
    # A fixed date: equal color spaces must give equal bytes.
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += _fixed(*D50)
    return header + bytes(HEADER - len(header)) + table + body


def _tags(profile: bytes) -> dict[bytes, bytes]:
    if len(profile) < HEADER + 4 or profile[36:40] != b"acsp":
        raise ValueError("not an ICC profile")
    (count,) = struct.unpack_from(">I", profile, HEADER)
    if count > MOST_TAGS or HEADER + 4 + 12 * count > len(profile):
        raise ValueError("a tag table that exceeds the profile")
    found = {}
    for entry in range(count):
        name, offset, size = struct.unpack_from(">4sII", profile, HEADER + 4 + 12 * entry)
        if offset + size > len(profile) or size > LARGEST_TAG:
            raise ValueError(f"tag {name!r} exceeds the profile")
        found[name] = profile[offset : offset + size]
    return found


def _xyz(tag: bytes) -> NDArray[np.float64]:
    if tag[:4] != b"XYZ " or len(tag) < 20:
        raise ValueError("a color that is not XYZ")
    return np.frombuffer(tag, ">i4", 3, 8).astype(np.float64) / 65536


def _curve(tag: bytes) -> Curve:
    """A curv or para tag as samples (sections 10.6 and 10.18)."""
    if len(tag) >= 12 and tag[:4] == b"curv":
        return _sampled_curve(tag)
    if len(tag) >= 12 and tag[:4] == b"para":
        return _parametric_curve(tag)
    raise ValueError("a curve of an unknown kind")


def _sampled_curve(tag: bytes) -> Curve:
    x = np.linspace(0, 1, CURVE_POINTS)
    (count,) = struct.unpack_from(">I", tag, 8)
    if 12 + 2 * count > len(tag):
        raise ValueError("a truncated curve")
    if count == 0:  # the identity
        return x
    values = np.frombuffer(tag, ">u2", count, 12).astype(np.float64)
    if count == 1:  # a gamma with 8 bits after the point
        return np.asarray(x ** (values[0] / 256))
    return np.interp(x, np.linspace(0, 1, count), values / 65535)


def _parametric_curve(tag: bytes) -> Curve:
    """One of five functions, with their parameters named as in section 10.18."""
    x = np.linspace(0, 1, CURVE_POINTS)
    (kind,) = struct.unpack_from(">H", tag, 8)
    if kind >= len(PARAMETERS) or len(tag) < 12 + 4 * PARAMETERS[kind]:
        raise ValueError("a parametric curve of an unknown kind")
    parameters = np.frombuffer(tag, ">i4", PARAMETERS[kind], 12) / 65536
    if kind == 0:
        return np.asarray(np.clip(x ** parameters[0], 0, 1))
    gamma, a, b, *rest = parameters
    if kind in (1, 2):
        offset = rest[0] if kind == 2 else 0.0
        start = -b / a if a else 0.0
        power = np.maximum(a * x + b, 0) ** gamma + offset
        return np.clip(np.where(x >= start, power, offset), 0, 1)
    c, d, *offsets = rest
    e, f = offsets or (0.0, 0.0)  # kind 4 has two more, the offset of each part
    power = np.maximum(a * x + b, 0) ** gamma + e
    linear = c * x + f
    return np.asarray(np.clip(np.where(x >= d, power, linear), 0, 1))


def _white_xyz(white: tuple[float, float]) -> NDArray[np.float64]:
    x, y = white
    return np.array([x / y, 1.0, (1 - x - y) / y])


def adaptation(white: tuple[float, float]) -> NDArray[np.float64]:
    """The Bradford matrix from this white to D50 (ICC.1:2022, annex E)."""
    cones = (BRADFORD @ np.array(D50)) / (BRADFORD @ _white_xyz(white))
    return np.asarray(np.linalg.inv(BRADFORD) @ np.diag(cones) @ BRADFORD)


def colorants(white: tuple[float, float], primaries: NDArray[np.float64]) -> NDArray[np.float64]:
    """XYZ of the primaries at full strength, relative to their own white."""
    x, y = primaries[:, 0], primaries[:, 1]
    directions = np.stack([x / y, np.ones(3), (1 - x - y) / y])
    return np.asarray(directions * np.linalg.solve(directions, _white_xyz(white)))


def _fixed(*values: float) -> bytes:
    """Numbers with 16 bits after the point (s15Fixed16Number)."""
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _text_tag(text: str) -> bytes:
    """A multi-localized text with one entry, in US English (section 10.15)."""
    encoded = text.encode("utf-16-be")
    return b"mluc" + struct.pack(">IIIHHII", 0, 1, 12, 0x656E, 0x5553, len(encoded), 28) + encoded


def _xyz_tag(value: "tuple[float, ...] | NDArray[np.float64]") -> bytes:
    return b"XYZ " + bytes(4) + _fixed(*value)
