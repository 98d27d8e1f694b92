"""The parts of an image file: every byte of it belongs to exactly one, and each says what becomes of it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from codec.format.tags import MetadataBlock


class Role(StrEnum):
    """What a part is to a picture."""

    PIXELS = "pixels"
    """Coded pixels of the picture itself."""
    SILENT = "silent"
    """Says nothing: signatures, lengths, padding, coding tables, a JFIF header without resolution."""
    METADATA = "metadata"
    """Carried: its content is a Block."""
    AUXILIARY = "auxiliary"
    """A picture that belongs to the main one (gain map, depth, matte), carried as a Block."""
    PREVIEW = "preview"
    """A reduced copy of the picture outside its EXIF block."""
    FRAMES = "frames"
    """A further picture, page or frame."""
    MOTION = "motion"
    """A film behind the picture."""
    TRAILER = "trailing_data"
    """Bytes after the end of the picture that belong to no known part."""
    CREDENTIALS = "content-credentials"
    """C2PA: a signature over the source's bytes."""
    UNACCOUNTED = "unaccounted"
    """Anything that the reader cannot name. A file with such a part is kept whole."""


@dataclass(frozen=True)
class Part:
    """Bytes offset to offset + length of a file. `name` is in the container's words (`APP1 Exif`, `IDAT`, `IFD0`)."""

    offset: int
    length: int
    name: str
    role: Role


@dataclass(frozen=True)
class Structure:
    """An image file as its container describes it, without any pixel decoded."""

    container: str
    """JPEG, PNG, WEBP, GIF, TIFF, HEIF, AVIF, JXL, JP2, BMP, PPM, ICO, TGA, PCX, or another name for what is known but
    never compressed (DNG and other RAW)."""
    media_type: str
    parts: tuple[Part, ...]
    """In order of their offsets, without gap or overlap from the first to the last byte."""
    width: int
    height: int
    """Stored pixels of the main picture, before the orientation is applied."""
    orientation: int = 1
    """1 to 8 as in EXIF, from where viewers of this container take it."""
    blocks: tuple[MetadataBlock, ...] = ()
    """What the file says beside its pixels, to be carried unchanged."""
    icc: bytes | None = None
    cicp: tuple[int, int, int, bool] | None = None
    """Color primaries, transfer characteristics, matrix coefficients (ITU-T H.273), full range."""
    chromaticities: tuple[float, ...] | None = None
    """x and y of white, red, green, blue (PNG cHRM and the like)."""
    gamma: float | None = None
    """Exponent of the file's encoding (PNG gAMA: 0.45455 is stated as 1 / 2.2)."""
    bits: int = 8
    """Bits of a sample of the main picture."""
    keep: tuple[tuple[str, str], ...] = ()
    """Why the file must be kept whole: pairs of a reason and one line of explanation."""
    damage: tuple[str, ...] = ()
    """What is broken in the coded picture, or missing at its end."""
    irregular: tuple[str, ...] = ()
    """What is not as the format asks, outside the coded picture."""
    notes: tuple[str, ...] = field(default=())
    """Broken text or color chunks beside a whole picture, in one line each."""

    def __post_init__(self) -> None:
        position = 0
        for part in self.parts:
            if part.offset != position or part.length < 0:
                raise ValueError(f"{part.name} begins at byte {part.offset}, where byte {position} is next")
            position += part.length


def covered(data: bytes, parts: Iterable[Part]) -> tuple[Part, ...]:
    """Parts in order with what lies between them named: zero bytes as padding, anything else as unaccounted.

    For containers that point at their contents (TIFF, ISO-BMFF). Of parts that overlap, the later one is cut; what
    several parts share belongs to the first.
    """
    whole: list[Part] = []
    position, size = 0, len(data)
    for part in sorted(parts, key=lambda part: (part.offset, -part.length)):
        start, stop = max(part.offset, position), min(part.offset + part.length, size)
        if start > position:
            whole.append(_gap(position, start, data))
        if stop > start:
            whole.append(Part(start, stop - start, part.name, part.role))
        position = max(position, stop)
    if position < size:
        whole.append(_gap(position, size, data))
    return tuple(whole)


def _gap(start: int, stop: int, data: bytes) -> Part:
    empty = data.count(0, start, stop) == stop - start
    return Part(
        start, stop - start, "padding" if empty else "unknown bytes", Role.SILENT if empty else Role.UNACCOUNTED
    )
