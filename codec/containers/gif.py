"""Structural reader for GIF 87a and 89a (CompuServe, 1990)."""

from codec.containers.builder import Broken, Builder, unpack
from codec.containers.structure import Role, Structure

EXTENSION = 0x21
IMAGE = 0x2C
TRAILER = 0x3B
GRAPHIC = 0xF9
COMMENT = 0xFE
TEXT = 0x01
APPLICATION = 0xFF
LOOPS = (b"NETSCAPE2.0", b"ANIMEXTS1.0")
XMP = b"XMP DataXMP"
MAGIC = b"\x01\xff\xfe"
MAGIC_LENGTH = 258
"""An XMP packet is stored raw, not in sub-blocks; 258 trailing bytes lead any reader to its end (XMP part 3, 1.1.2)."""
MOST_BLOCKS = 100_000
SQUARE_PIXELS = (0, 49)
"""Values of the pixel aspect ratio that mean 1: not stated, and (49 + 15) / 64."""


def read(data: bytes) -> Structure:
    """The parts of a GIF file; the bytes begin with GIF87a or GIF89a."""
    reader = _GifReader(data)
    reader.blocks_of_file()
    return reader.build()


class _GifReader(Builder):
    def __init__(self, data: bytes) -> None:
        super().__init__(data, "GIF", "image/gif")
        self.images = 0

    def blocks_of_file(self) -> None:
        """Walk from the header to the trailer."""
        try:
            position = self._screen()
            for _ in range(MOST_BLOCKS):
                (kind,) = unpack("B", self.data, position)
                if kind == TRAILER:
                    self.part(position, 1, "trailer", Role.SILENT)
                    self.behind(position + 1)
                    break
                position = self._block(position, kind)
        except Broken as broken:
            self.damage.append(str(broken))
        if not self.images:
            self.damage.append("no image")

    def _screen(self) -> int:
        width, height, flags, _, aspect = unpack("<HHBBB", self.data, 6)
        self.fields |= {"width": width, "height": height}
        length = 13 + _color_table(flags)
        self.part(0, length, "header", Role.PIXELS)
        if aspect not in SQUARE_PIXELS:
            self.unknown("GIF aspect", bytes([aspect]))
        return length

    def _block(self, position: int, kind: int) -> int:
        """Names the block at `position` and returns the offset after it."""
        if kind == IMAGE:
            return self._image(position)
        if kind != EXTENSION:
            raise Broken(f"an unknown block {kind:02X} at byte {position}")
        (label,) = unpack("B", self.data, position + 1)
        content, end = self._sub_blocks(position + 2)
        role = self._extension(position, end, label, content)
        self.part(position, end - position, f"extension {label:02X}", role)
        return end

    def _image(self, position: int) -> int:
        left, top, width, height, flags = unpack("<HHHHB", self.data, position + 1)
        body = position + 10 + _color_table(flags)
        _, end = self._sub_blocks(body + 1)  # after the smallest code size of its LZW data
        self.images += 1
        if self.images > 1:
            self.part(position, end - position, "image", Role.FRAMES)
            return end
        self.part(position, end - position, "image", Role.PIXELS)
        # Decoders fill the rest of the screen in different ways.
        if (left, top, width, height) != (0, 0, self.fields["width"], self.fields["height"]):
            self.irregular.append("its first image does not fill the logical screen")
        return end

    def _extension(self, position: int, end: int, label: int, content: bytes) -> Role:
        if label == GRAPHIC:
            if len(content) != 4:
                self.irregular.append("a graphic control extension that is not four bytes long")
            return Role.PIXELS
        if label == COMMENT:
            self.carry("coMm", content)
            return Role.METADATA
        head = content[:11]
        # How often an animation repeats says nothing about one picture; a longer block could hide something.
        if label == APPLICATION and head in LOOPS and len(content) <= 16:
            return Role.SILENT
        packet_end = end - MAGIC_LENGTH
        if label == APPLICATION and head == XMP and self.data[packet_end : packet_end + len(MAGIC)] == MAGIC:
            self.carry("xmPp", self.data[position + 14 : packet_end])
            return Role.METADATA
        if label == TEXT:  # text that the decoder would have to draw into the picture
            return Role.UNACCOUNTED
        self.unknown(f"GIF {label:02X}", self.data[position + 2 : end])  # with the lengths of its blocks
        return Role.METADATA

    def _sub_blocks(self, position: int) -> tuple[bytes, int]:
        """The joined content of sub-blocks, and the offset after them."""
        pieces: list[bytes] = []
        while True:
            (length,) = unpack("B", self.data, position)
            if length == 0:
                return b"".join(pieces), position + 1
            pieces.append(self.data[position + 1 : position + 1 + length])
            position += 1 + length


def _color_table(flags: int) -> int:
    """Length of a color table in bytes: 3 for each of 2 ** (n + 1) colors, n in the low bits; 0 without the flag."""
    if not flags & 0x80:
        return 0
    return 3 << (flags & 7) + 1
