"""The form of a preview in an .fdc file, and its limits. Importing this module loads no other library."""

from dataclasses import dataclass

from codec.errors import SettingsError

SIDE = 256
"""Longer side of a preview in pixels, unless told otherwise."""
SIDES = range(16, 513)
"""Longer sides that may be asked for."""
LARGEST = 6000
"""Most bytes of a preview."""


@dataclass(frozen=True)
class Preview:
    """A WebP file in sRGB, upright, without transparency and metadata, and its size in pixels."""

    data: bytes
    width: int
    height: int

    @classmethod
    def of(cls, content: bytes) -> "Preview | None":
        """The preview in a chunk's content; None if it has another form than the one written here."""
        # RIFF, one chunk `VP8 `, and the frame's tag, start code and size (RFC 6386, section 9.1)
        head = content[:30]
        if len(head) < 30 or head[:4] != b"RIFF" or head[8:16] != b"WEBPVP8 " or head[23:26] != b"\x9d\x01\x2a":
            return None
        width = int.from_bytes(head[26:28], "little") & 0x3FFF
        height = int.from_bytes(head[28:30], "little") & 0x3FFF
        if not (0 < width <= SIDES[-1] and 0 < height <= SIDES[-1]) or len(content) > LARGEST:
            return None
        return cls(content, width, height)


def check_side(side: int) -> int:
    """Returns the longer side of a preview; 0 means none. Raises SettingsError."""
    if side and side not in SIDES:
        raise SettingsError(f"preview must be 0, or {SIDES[0]} to {SIDES[-1]} pixels, not {side}")
    return side
