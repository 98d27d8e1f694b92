"""The parts of an image file: every byte belongs to exactly one part, and each part has a role."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from codec.format.tags import MetadataBlock


class Role(StrEnum):
    """The role of a part."""

    PIXELS = "pixels"
    """Coded pixels of the main picture."""
    SILENT = "silent"
    """Carries no information: signatures, lengths, padding, coding tables, a JFIF header without resolution."""
    METADATA = "metadata"
    """Metadata, carried as a Block."""
    AUXILIARY = "auxiliary"
    """A picture that belongs to the main one (gain map, depth, matte), carried as a Block."""
    PREVIEW = "preview"
    """A reduced copy of the picture outside its EXIF block."""
    FRAMES = "frames"
    """A further picture, page or frame."""
    MOTION = "motion"
    """A video after the picture."""
    TRAILER = "trailing_data"
    """Bytes after the end of the picture that belong to no known part."""
    CREDENTIALS = "content-credentials"
    """C2PA: a signature over the source's bytes."""
    UNACCOUNTED = "unaccounted"
    """Unknown bytes. A file with such a part is kept whole."""


@dataclass(frozen=True)
class Part:
    """Bytes offset..offset + length of a file. `name` uses the container's terms (`APP1 Exif`, `IDAT`, `IFD0`)."""

    offset: int
    length: int
    name: str
    role: Role


@dataclass(frozen=True)
class Structure:
    """An image file as described by its container; no pixels are decoded."""

    container: str
    """JPEG, PNG, WEBP, GIF, TIFF, HEIF, AVIF, JXL, JP2, BMP, PPM, ICO, TGA, PCX, or another name for formats that
    are recognized but never compressed (DNG and other RAW)."""
    media_type: str
    parts: tuple[Part, ...]
    """In order of their offsets, without gap or overlap from the first to the last byte."""
    width: int
    height: int
    """Stored pixels of the main picture, before the orientation is applied."""
    orientation: int = 1
    """1 to 8 as in EXIF, from the field that viewers of this container use."""
    blocks: tuple[MetadataBlock, ...] = ()
    """Metadata to be carried unchanged."""
    icc: bytes | None = None
    cicp: tuple[int, int, int, bool] | None = None
    """Color primaries, transfer characteristics, matrix coefficients (ITU-T H.273), full range."""
    chromaticities: tuple[float, ...] | None = None
    """x and y of white, red, green, blue (PNG cHRM and the like)."""
    gamma: float | None = None
    """Exponent of the file's encoding (PNG gAMA: 0.45455 is stated as 1 / 2.2)."""
    bits: int = 8
    """Bits per sample of the main picture."""
    keep: tuple[tuple[str, str], ...] = ()
    """Why the file must be kept whole: pairs of a reason and one line of explanation."""
    damage: tuple[str, ...] = ()
    """Faults in the coded picture, or data missing at its end."""
    irregular: tuple[str, ...] = ()
    """Violations of the format outside the coded picture."""
    notes: tuple[str, ...] = field(default=())
    """Broken text or color chunks of an intact picture, one line each."""

    def __post_init__(self) -> None:
        position = 0
        for part in self.parts:
            if part.offset != position or part.length < 0:
                raise ValueError(f"{part.name} begins at byte {part.offset}, where byte {position} is next")
            position += part.length


def covered(data: bytes, parts: Iterable[Part]) -> tuple[Part, ...]:
    """Sorts parts and fills the gaps between them: zero bytes as padding, anything else as unaccounted.

    For containers that refer to their contents by offset (TIFF, ISO-BMFF). If parts overlap, the later one is clipped;
    shared bytes belong to the first.
    """
    whole: list[Part] = []
    position = 0
    size = len(data)
    # The longest first of those that begin at one byte: the others lie in it.
    for part in sorted(parts, key=lambda part: (part.offset, -part.length)):
        start = max(part.offset, position)
        stop = min(part.offset + part.length, size)
        if start > position:
            whole.append(_gap(position, start, data))
        if stop > start:
            whole.append(Part(start, stop - start, part.name, part.role))
        position = max(position, stop)
    if position < size:
        whole.append(_gap(position, size, data))
    return tuple(whole)


def _gap(start: int, stop: int, data: bytes) -> Part:
    length = stop - start
    if data.count(0, start, stop) == length:
        return Part(start, length, "padding", Role.SILENT)
    return Part(start, length, "unknown bytes", Role.UNACCOUNTED)
