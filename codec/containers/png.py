"""PNG and APNG (PNG, third edition, 2025; APNG 1.0): chunk by chunk, with its checksums."""

import struct
import zlib

from codec.containers import exif
from codec.containers.builder import Broken, Builder, resolution, unpack
from codec.containers.reasons import Reason
from codec.containers.structure import Role, Structure

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXELS = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"}
COLOR = {b"iCCP", b"gAMA", b"cHRM", b"sRGB", b"cICP"}
TEXT = {b"tEXt", b"zTXt", b"iTXt"}
ANIMATION = {b"acTL", b"fcTL", b"fdAT"}
IDOT = struct.pack(">I", 2)
"""Prefix of Apple's iDOT chunk: 28 bytes that locate two halves of the image data."""
CREDENTIALS = b"caBX"
MOST_PROFILE = 1 << 24
MOST_CHUNKS = 200_000
MOST_IMAGE_DATA = 1 << 30
PIECE = 1 << 16
"""Bytes that are decompressed at a time, so that a decompression bomb never lies in memory."""
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Left, top, horizontal and vertical step of each pass of an interlaced picture (section 8.1)."""
WHOLE = ((0, 0, 1, 1),)
"""The same for a picture that is not interlaced."""
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples of a pixel by color type (section 11.2.1)."""
PALETTE = 3
"""The color type of pixels that are indices into PLTE."""
XMP_KEYWORD = b"XML:com.adobe.xmp\0"


def read(data: bytes) -> Structure:
    """The parts of a PNG file; the bytes begin with its signature."""
    reader = _PngReader(data)
    reader.chunks()
    return reader.build()


class _PngReader(Builder):
    def __init__(self, data: bytes) -> None:
        super().__init__(data, "PNG", "image/png")
        self.color: dict[bytes, bytes] = {}
        self.seen: set[bytes] = set()
        self.last = b""
        self.image_data: list[tuple[int, int]] = []
        self.kind = 0
        """Color type."""
        self.interlaced = False
        self.palette = 0
        """Number of colors in PLTE."""

    def chunks(self) -> None:
        """Walks from the signature to IEND and names what follows."""
        self.part(0, len(SIGNATURE), "signature", Role.SILENT)
        position = len(SIGNATURE)
        try:
            for _ in range(MOST_CHUNKS):
                position, kind = self._chunk(position)
                if kind == b"IEND":
                    break
            else:
                self.keep_for(Reason.IRREGULAR, f"more than {MOST_CHUNKS} chunks")
        except Broken as broken:
            self.damage.append(str(broken))
        if b"IDAT" not in self.seen:
            self.damage.append("no image data")
        if b"CgBI" in self.seen:
            self.keep_for(Reason.UNSUPPORTED, "Apple's variant of PNG")
        elif not self.damage and not self.keep:
            self._image_data()
        self.behind(position)
        self._colors()

    def _chunk(self, position: int) -> tuple[int, bytes]:
        """Names the chunk at `position`; returns the offset after it, and its type."""
        length, kind = unpack(">I4s", self.data, position)
        end = position + 12 + length
        if end > len(self.data):
            raise Broken(f"chunk {kind!r} at byte {position} does not fit into the file")
        if not self.seen and kind not in (b"IHDR", b"CgBI"):  # Apple's variant begins with CgBI
            raise Broken("the first chunk is not IHDR")
        content = self.data[position + 8 : end - 4]
        if not kind.isalpha():
            self.irregular.append(f"a chunk of type {kind!r} at byte {position}, which is not four letters")
        if kind == b"IDAT":
            if kind in self.seen and self.last != kind:
                self.irregular.append("image data in two places")
            self.image_data.append((position + 8, end - 4))
        checksum = zlib.crc32(self.data[position + 4 : end - 4])
        if checksum.to_bytes(4, "big") == self.data[end - 4 : end]:
            self._named(position, end - position, kind, content)
        else:
            self._unsound(position, end - position, kind, content)
        self.seen.add(kind)
        self.last = kind
        return end, kind

    def _unsound(self, position: int, length: int, kind: bytes, content: bytes) -> None:
        """Handles a wrong checksum: pixels are damaged; with any other chunk the picture is intact and kept whole."""
        name = kind.decode("latin-1")
        if kind in PIXELS or kind in ANIMATION:
            self.damage.append(f"the checksum of {name} at byte {position} does not match")
            self.part(position, length, name, Role.PIXELS)
            if kind == b"IHDR":
                self._header(content)  # a damaged picture is listed with its size too
        else:
            self.irregular.append(f"the checksum of {name} at byte {position} does not match")
            self.part(position, length, name, Role.UNACCOUNTED)

    def _named(self, position: int, length: int, kind: bytes, content: bytes) -> None:
        """Names a chunk with a correct checksum, and carries or records its content."""
        name = kind.decode("latin-1")
        role = Role.METADATA
        if kind in PIXELS:
            role = self._pixels(kind, content)
        elif kind in COLOR:
            role = Role.PIXELS
            if kind in self.color:
                self.irregular.append(f"a second {name}")
            self.color.setdefault(kind, content)
        elif kind in ANIMATION:
            role = Role.FRAMES
        elif kind == CREDENTIALS:
            role = Role.CREDENTIALS
        elif kind == b"CgBI" or (kind == b"iDOT" and len(content) == 28 and content.startswith(IDOT)):
            role = Role.SILENT
        elif kind in TEXT:
            self.carry("teXt", kind + content)
            if kind == b"iTXt" and content.startswith(XMP_KEYWORD):
                name = "iTXt XMP"
        elif kind == b"eXIf" and kind not in self.seen and content.startswith((b"II*\0", b"MM\0*")):
            self.carry("exIf", content)
            self.fields["orientation"] = exif.orientation(content)
        elif kind == b"pHYs" and len(content) == 9 and kind not in self.seen:
            horizontal, vertical, unit = struct.unpack(">IIB", content)
            self.carry("phYs", resolution(3 if unit == 1 else 0, (horizontal, 1), (vertical, 1)))
            if unit > 1:  # not defined
                self.unknown("PNG pHYs", content)
        elif kind[0] & 0x20 == 0:  # an uppercase first letter (section 5.4)
            role = Role.UNACCOUNTED
            self.keep_for(Reason.UNSUPPORTED, f"unknown critical chunk {name}")
        else:
            self.unknown(f"PNG {name}", content)
        self.part(position, length, name, role)

    def _pixels(self, kind: bytes, content: bytes) -> Role:
        """Checks a chunk that the pixels depend on."""
        role = Role.PIXELS
        if kind == b"IHDR":
            self._header(content)
        if kind == b"PLTE":
            if self.kind == PALETTE:
                self.palette = len(content) // 3
            else:
                role = Role.METADATA
                self.unknown("PNG PLTE", content)  # a suggested palette, not used for the pixels
        if kind == b"tRNS" and not self._transparent(content):
            self.irregular.append(f"transparency in {len(content)} bytes")
        if kind == b"IEND" and content:
            self.irregular.append("an IEND chunk with content")
        if kind in self.seen and kind != b"IDAT":
            self.irregular.append(f"a second {kind.decode('latin-1')}")
        return role

    def _transparent(self, content: bytes) -> bool:
        """Whether a tRNS chunk has the length that the color type requires (section 11.3.1.1)."""
        if self.kind == PALETTE:
            return len(content) <= self.palette
        # One sample for gray, three for RGB, 16 bits each; with an alpha channel there is no such chunk.
        return len(content) == {0: 2, 2: 6}.get(self.kind)

    def _header(self, content: bytes) -> None:
        if len(content) != 13:
            raise Broken("a header that is not 13 bytes")
        width, height, bits, kind, _, _, interlaced = struct.unpack(">IIBBBBB", content)
        self.kind = kind
        self.interlaced = bool(interlaced)
        self.fields |= {"width": width, "height": height, "bits": bits}
        if bits > 8:
            self.keep_for(Reason.DEPTH, f"samples of {bits} bits")
        if not width or not height or kind not in CHANNELS:
            self.damage.append("an impossible header")

    def _image_data(self) -> None:
        """Decompresses the image data to find missing, broken or excess bytes. Decodes no pixels."""
        due = self._scanlines()
        if due > MOST_IMAGE_DATA:
            return  # the decoder refuses it
        decoder = zlib.decompressobj()
        got = 0
        try:
            for start, stop in self.image_data:
                piece = self.data[start:stop]
                while piece and got <= due:
                    got += len(decoder.decompress(piece, PIECE))
                    piece = decoder.unconsumed_tail
                # Decoders ignore both, so something could hide there.
                if decoder.unused_data or got > due:
                    self.irregular.append("more image data than the picture has pixels")
                    return
        except zlib.error as error:
            self.damage.append(f"image data that cannot be decompressed: {error}")
            return
        if not decoder.eof or got < due:
            self.damage.append("the image data ends too early")

    def _scanlines(self) -> int:
        """Bytes of all scan lines with their filter bytes (section 7.2), of all seven passes if interlaced."""
        width = self.fields["width"]
        height = self.fields["height"]
        bits = self.fields["bits"] * CHANNELS[self.kind]
        passes = ADAM7 if self.interlaced else WHOLE
        total = 0
        for left, top, across, down in passes:
            columns = -(-(width - left) // across)  # rounded up
            rows = -(-(height - top) // down)
            if columns > 0 and rows > 0:  # an empty pass has no filter bytes either
                total += rows * (1 + -(-columns * bits // 8))
        return total

    def _colors(self) -> None:
        """Reads the color chunks by the third edition's precedence: cICP, iCCP, sRGB, then gAMA and cHRM."""
        color = self.color
        for kind, length in {b"cICP": 4, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1}.items():
            if kind in color and len(color[kind]) != length:
                self.irregular.append(f"a chunk {kind.decode()} of {len(color[kind])} bytes")
        code = color.get(b"cICP", b"")
        if len(code) == 4:
            self.fields["cicp"] = (code[0], code[1], code[2], bool(code[3]))
        if b"iCCP" in color:
            profile = _profile(color[b"iCCP"])
            if profile is None:
                self.irregular.append("a color profile that cannot be decompressed")
            else:
                self.fields["icc"] = profile
        if b"sRGB" in color:
            return  # gAMA and cHRM beside it only approximate sRGB (section 11.3.2.5)
        gamma = color.get(b"gAMA", b"")
        if len(gamma) == 4 and any(gamma):
            self.fields["gamma"] = int.from_bytes(gamma, "big") / 100_000
        chromaticities = color.get(b"cHRM", b"")
        if len(chromaticities) == 32:
            values = struct.unpack(">8I", chromaticities)
            self.fields["chromaticities"] = tuple(value / 100_000 for value in values)


def _profile(content: bytes) -> bytes | None:
    """The profile of an iCCP chunk; None if it is broken or too long."""
    _, _, rest = content.partition(b"\0")  # a name, then the compression method, which is 0
    try:
        decoder = zlib.decompressobj()
        profile = decoder.decompress(rest[1:], MOST_PROFILE)
    except zlib.error:
        return None
    whole = decoder.eof and not decoder.unused_data and rest[:1] == b"\0"
    if not whole or not profile:
        return None
    return profile
