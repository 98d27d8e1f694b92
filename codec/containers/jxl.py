"""JPEG XL (ISO/IEC 18181-1 and -2): the boxes of its container and the head of its codestream."""

from collections.abc import Iterator

from codec.containers import jxl_head
from codec.containers.bmff import Box, boxes
from codec.containers.builder import Broken, Builder
from codec.containers.reasons import Reason
from codec.containers.structure import Role, Structure

CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
CODESTREAM = b"\xff\x0a"
BRANDS = 12
"""Size of an ftyp box with one compatible brand, in bytes; the signature and level boxes are smaller."""
HEAD = 300
"""Length of the codestream's prefix that contains its head, in bytes."""
SINGLE = {b"jxlc", b"jbrd", b"JXL ", b"ftyp"}


def read(data: bytes) -> Structure:
    """The parts of a JPEG XL file, in its container or bare. Width and height are those of the decoded picture."""
    reader = _JxlReader(data)
    try:
        reader.walk()
    except Broken as broken:
        reader.damage.append(str(broken))
    return reader.build()


class _JxlReader(Builder):
    def __init__(self, data: bytes) -> None:
        super().__init__(data, "JXL", "image/jxl")
        self.coded = b""
        """The beginning of the codestream, at least HEAD bytes if it has as many."""
        self.ended = True

    def walk(self) -> None:
        """A bare codestream is one part; in a container each box is named."""
        if self.data.startswith(CODESTREAM):
            self.part(0, len(self.data), "codestream", Role.PIXELS)
            self._head(self.data[:HEAD])
            return
        end = 0
        seen: set[bytes] = set()
        for box in self._boxes():
            end = box.end
            if box.kind in seen and box.kind in SINGLE:
                self.keep_for(Reason.FRAMES, f"a second box {box.name}")
            seen.add(box.kind)
            role = self._box(box.kind, box.name, self.data[box.body : box.end])
            self.part(box.offset, box.end - box.offset, box.name, role)
        self.behind(end)
        if not self.ended or {b"jxlc", b"jxlp"} <= seen:
            self.damage.append("a codestream in pieces without the last one, or in two forms")
        self._head(self.coded)

    def _box(self, kind: bytes, name: str, content: bytes) -> Role:
        match kind:
            case b"JXL " | b"ftyp" | b"jxll" if len(content) <= BRANDS:
                return Role.SILENT
            case b"jxlc":
                self.ended = True
                self._collect(content)
                return Role.PIXELS
            case b"jxlp":
                # A piece begins with its number, 32 bits; the highest bit marks the last one.
                self.ended = len(content) >= 4 and bool(content[0] & 0x80)
                self._collect(content[4:])
                return Role.PIXELS
            case b"jbrd":  # what a decoder needs to restore the JPEG byte for byte
                return Role.PIXELS
            case b"Exif" if len(content) > 4:
                skipped = int.from_bytes(content[:4], "big")  # offset of the TIFF header
                self.carry("exIf", content[4 + skipped :])
                if content[4 : 4 + skipped] not in (b"", b"Exif\0\0"):
                    self.keep_for(Reason.METADATA, "bytes before its EXIF block")
            case b"xml ":
                self.carry("xmPp", content)
            case b"jumb":
                if b"c2pa" in content:
                    return Role.CREDENTIALS
                self.unknown("JXL jumb", content)
            case b"brob" | b"jhgm":
                self.keep_for(Reason.METADATA, "compressed metadata or a gain map")
                return Role.UNACCOUNTED
            case _:
                self.unknown(f"JXL {name}", content)
        return Role.METADATA

    def _collect(self, piece: bytes) -> None:
        # The first pieces may be short, and the head may cross them.
        if len(self.coded) < HEAD:
            self.coded += piece[:HEAD]

    def _boxes(self) -> Iterator[Box]:
        """Top-level boxes. Bytes after the last whole box are a trailer if a codestream came before."""
        coded = False
        try:
            for box in boxes(self.data, 0, len(self.data)):
                if box.kind in (b"jxlc", b"jxlp"):
                    coded = True
                yield box
        except Broken:
            if not coded:
                raise

    def _head(self, codestream: bytes) -> None:
        """The decoder applies the orientation, and viewers ignore EXIF's: it stays 1."""
        if not codestream.startswith(CODESTREAM):
            raise Broken("no codestream")
        try:
            head = jxl_head.read(codestream)
        except jxl_head.UnreadError as error:
            self.keep_for(Reason.UNSUPPORTED, f"JPEG XL with {error}")
            return
        self.fields |= {"width": head.width, "height": head.height, "bits": head.bits}
        if head.bits > 8:
            self.keep_for(Reason.DEPTH, f"samples of {head.bits} bits")
        if not head.srgb:
            self.keep_for(Reason.COLORS, "a color space other than sRGB, which the decoder does not report")
