"""JPEG 2000 in its JP2 container (ISO/IEC 15444-1, annex I) or as a bare codestream (annex A)."""

from collections.abc import Iterator

from codec.containers.bmff import Box, boxes, children
from codec.containers.builder import Broken, Builder, unpack
from codec.containers.reasons import Reason
from codec.containers.structure import Role, Structure

CONTAINER = b"\0\0\0\x0cjP  \r\n\x87\n"
CODESTREAM = b"\xff\x4f\xff\x51"
SRGB = 16
GRAY = 17
SYCC = 18
TILE_PART = 0xFF90
SAMPLES = 0xFF93
COMMENT = 0xFF64
END = b"\xff\xd9"
XMP_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
EXIF_UUID = b"JpgTiffExif->JP2"
GEO_UUID = bytes.fromhex("b14bf8bd083d4b43a5ae8cd7d5a6ce03")
"""GeoJP2."""
KNOWN_SEGMENTS = {
    0xFF50,
    0xFF51,
    0xFF52,
    0xFF53,
    0xFF55,
    0xFF57,
    0xFF58,
    0xFF5C,
    0xFF5D,
    0xFF5E,
    0xFF5F,
    0xFF60,
    0xFF61,
}
"""Capabilities, size, coding and quantization styles, regions, progression, packet headers and lengths (annex A)."""
MOST_TILE_PARTS = 100_000
KNOWN_IN_HEADER = {b"ihdr", b"bpcc", b"colr", b"cdef", b"res "}


def read(data: bytes) -> Structure:
    """The parts of a JPEG 2000 file."""
    reader = _Jp2Reader(data)
    try:
        reader.walk()
    except Broken as broken:
        reader.damage.append(str(broken))
    return reader.build()


class _Jp2Reader(Builder):
    def __init__(self, data: bytes) -> None:
        super().__init__(data, "JP2", "image/jp2")
        self.streams = 0
        self.alpha = False

    def walk(self) -> None:
        """Names each box, or the bare codestream."""
        if self.data.startswith(CODESTREAM):
            self._codestream(0, len(self.data))
            return
        end = 0
        seen: set[bytes] = set()
        for box in self._boxes():
            end = box.end
            length = box.end - box.offset
            role = Role.SILENT
            if box.kind in seen and box.kind in (b"jP  ", b"ftyp", b"jp2h"):
                self.irregular.append(f"a second box {box.name}")
            seen.add(box.kind)
            # The header comes before the codestream (I.5.3), whose reader needs to know of alpha.
            if box.kind == b"jp2h":
                self._header(box)
                role = Role.PIXELS
            elif box.kind == b"jp2c":
                self._codestream(box.body, box.end)
                length = box.body - box.offset  # its content has a part of its own
            elif box.kind == b"xml ":
                role = Role.METADATA
                self.unknown("JP2 xml ", self.data[box.body : box.end])
            elif box.kind == b"uuid":
                role = Role.METADATA
                self._identified(self.data[box.body : box.end])
            elif box.kind not in (b"jP  ", b"ftyp"):
                role = Role.UNACCOUNTED
                self.keep_for(Reason.METADATA, f"unknown box {box.name}")
            self.part(box.offset, length, box.name, role)
        if not self.streams:
            raise Broken("no codestream")
        self.behind(end)

    def _boxes(self) -> Iterator[Box]:
        """Top-level boxes. Bytes after the last whole box are a trailer if a codestream came before."""
        try:
            yield from boxes(self.data, 0, len(self.data))
        except Broken:
            if not self.streams:
                raise

    def _identified(self, content: bytes) -> None:
        """Carries the content of a uuid box, which begins with its 16-byte identifier."""
        if content.startswith(XMP_UUID):
            self.carry("xmPp", content[16:])
        elif content.startswith(EXIF_UUID):
            self.carry("exIf", content[16:].removeprefix(b"Exif\0\0"))
        elif content.startswith(GEO_UUID):
            self.keep_for(Reason.METADATA, "a georeference")
        else:
            self.unknown("JP2 uuid", content)

    def _header(self, header: Box) -> None:
        for box in children(self.data, header):
            content = self.data[box.body : box.end]
            if box.kind not in KNOWN_IN_HEADER:
                self.keep_for(Reason.COLORS, f"header box {box.name}")
            elif box.kind == b"colr" and len(content) > 3:
                self._color(content)
            elif box.kind == b"res ":
                self.unknown("JP2 res ", content)
            elif box.kind == b"cdef":
                self.alpha = True

    def _color(self, content: bytes) -> None:
        """A color specification (I.5.3.3): 1 enumerates a space, 2 holds an ICC profile."""
        method = content[0]
        if method == 2:
            self.fields["icc"] = content[3:]
        elif method != 1:
            self.keep_for(Reason.COLORS, "an unknown color specification")
        else:
            space = int.from_bytes(content[3:7], "big")
            if space not in (SRGB, GRAY, SYCC):
                self.keep_for(Reason.COLORS, f"color space {space}")

    def _codestream(self, start: int, stop: int) -> None:
        """Names a codestream: its main header marker by marker, then its tile-parts by their stated lengths."""
        self.streams += 1
        if self.streams > 1:
            self.part(start, stop - start, "second codestream", Role.FRAMES)
            return
        if self.data[start : start + 4] != CODESTREAM:
            raise Broken("not a JPEG 2000 codestream")
        self._size(start)
        position = self._segments(start + 2, stop, TILE_PART)
        for _ in range(MOST_TILE_PARTS):
            (marker,) = unpack(">H", self.data, position)
            if marker != TILE_PART:
                break
            (length,) = unpack(">I", self.data, position + 6)
            if length:
                end = position + length
            else:
                end = stop - 2  # the last tile-part may extend to the end marker (A.4.2)
            if end > stop:
                raise Broken("a tile-part that exceeds the codestream")
            if self._segments(position + 12, end, SAMPLES) > end:
                raise Broken("a tile-part that exceeds the codestream")
            position = end
        if self.data[position : position + 2] != END or position + 2 > stop:
            self.damage.append("the codestream ends without its end marker")
        position = min(position + 2, stop)
        self.part(start, position - start, "codestream", Role.PIXELS)
        if position < stop:
            self.part(position, stop - position, "bytes behind", Role.TRAILER)

    def _segments(self, position: int, stop: int, until: int) -> int:
        """Walks a header up to a marker and returns its offset. Comments are carried."""
        while True:
            (kind,) = unpack(">H", self.data, position)
            if kind == until:
                return position
            (length,) = unpack(">H", self.data, position + 2)
            if kind < 0xFF00 or length < 2 or position + 2 + length > stop:
                raise Broken(f"no marker at byte {position} of a header in the codestream")
            if kind == COMMENT:
                self._comment(self.data[position + 4 : position + 2 + length])
            elif kind not in KNOWN_SEGMENTS:
                self.irregular.append(f"an unknown marker {kind:04X} in the codestream")
            position += 2 + length

    def _comment(self, content: bytes) -> None:
        if content[:2] == b"\0\1":  # Latin text; 0 means binary (A.9.2)
            self.carry("coMm", content[2:])
        else:
            self.unknown("JP2 COM", content)

    def _size(self, start: int) -> None:
        """The SIZ segment (A.5.1): size, components and bit depth."""
        width, height, left, top = unpack(">IIII", self.data, start + 8)
        (components,) = unpack(">H", self.data, start + 40)
        self.fields |= {"width": width - left, "height": height - top}
        if not 1 <= components <= 4 or (components in (2, 4) and not self.alpha):
            self.keep_for(Reason.COLORS, f"{components} components")
        for component in range(min(components, 4)):
            depth, across, down = unpack(">BBB", self.data, start + 42 + 3 * component)
            signed = depth & 0x80
            bits = (depth & 0x7F) + 1
            if bits > 8:
                self.fields["bits"] = bits
                self.keep_for(Reason.DEPTH, f"samples of {bits} bits")
            # Chroma may be subsampled; luma and alpha may not.
            subsampled = component in (0, 3) and (across, down) != (1, 1)
            if signed or subsampled:
                self.keep_for(Reason.COLORS, "signed or subsampled components")
