"""WebP (RFC 9649): RIFF chunks, and the sizes stated by its bitstreams."""

import struct

from codec.containers import exif
from codec.containers.builder import Broken, Builder, unpack
from codec.containers.reasons import Reason
from codec.containers.structure import Role, Structure

ANIMATED, XMP, EXIF, ALPHA, ICC = 0x02, 0x04, 0x08, 0x10, 0x20
FLAGS = {b"EXIF": EXIF, b"XMP ": XMP, b"ICCP": ICC, b"ALPH": ALPHA, b"ANIM": ANIMATED}
MOST_CHUNKS = 20_000
SHORTEST_RUN = 20
BITS_A_BLOCK = 6
"""A lossy picture with fewer bits per 16 x 16 pixels may be flat, and flat pictures may contain runs of zeros."""


def read(data: bytes) -> Structure:
    """The parts of a WebP file; the bytes begin with RIFF, a size and WEBP."""
    reader = _WebpReader(data)
    reader.chunks()
    return reader.build()


class _WebpReader(Builder):
    def __init__(self, data: bytes) -> None:
        super().__init__(data, "WEBP", "image/webp")
        self.flags: int | None = None
        self.canvas: tuple[int, int] | None = None
        self.seen: set[bytes] = set()

    def chunks(self) -> None:
        """Walks the RIFF container."""
        (size,) = unpack("<I", self.data, 4)
        end = 8 + size
        self.part(0, 12, "RIFF header", Role.SILENT)
        if end > len(self.data):
            self.damage.append(f"the file has {len(self.data)} of {end} bytes")
        if size % 2:
            self.irregular.append("an odd size in the RIFF header")
        stop = min(end, len(self.data))
        if stop < len(self.data):
            self.behind(stop)
        position = 12
        try:
            for _ in range(MOST_CHUNKS):
                if position >= stop:
                    break
                position = self._chunk(position, stop)
            else:
                raise Broken(f"more than {MOST_CHUNKS} chunks")
        except Broken as broken:
            self.damage.append(str(broken))
        self._check()

    def _chunk(self, position: int, stop: int) -> int:
        kind, length = unpack("<4sI", self.data, position)
        end = position + 8 + length
        if end > stop:
            raise Broken(f"chunk {kind!r} at byte {position} exceeds the file")
        content = self.data[position + 8 : end]
        if length % 2 and end < stop:
            if self.data[end]:
                self.irregular.append(f"a nonzero padding byte at byte {end}")
            self.part(end, 1, "padding", Role.UNACCOUNTED if self.data[end] else Role.SILENT)
        self.part(position, 8 + length, kind.decode("latin-1"), self._named(position, kind, content))
        self.seen.add(kind)
        return int(end + length % 2)

    def _named(self, position: int, kind: bytes, content: bytes) -> Role:
        if kind in self.seen and kind not in (b"ANMF",):
            self.irregular.append(f"a second chunk {kind.decode('latin-1')}")
            return Role.UNACCOUNTED
        match kind:
            case b"VP8X":
                self._extended(content)
            case b"VP8 ":
                self._lossy(position, content)
            case b"VP8L":
                self._lossless(content)
            case b"ALPH":
                pass
            case b"ICCP":
                self.fields["icc"] = content or None
            case b"EXIF":
                block = content.removeprefix(b"Exif\0\0")
                self.carry("exIf", block)
                self.fields["orientation"] = exif.orientation(block)
                if block != content:
                    self.notes.append("its EXIF block has JPEG's prefix")
                return Role.METADATA
            case b"XMP ":
                self.carry("xmPp", content)
                return Role.METADATA
            case b"ANIM" | b"ANMF":
                return Role.FRAMES
            case b"C2PA":
                return Role.CREDENTIALS
            case _:
                self.unknown(f"WEBP {kind.decode('latin-1')}", content)
                return Role.METADATA
        return Role.PIXELS

    def _extended(self, content: bytes) -> None:
        if len(content) != 10 or self.seen:
            self.irregular.append("an extended header that is not 10 bytes or not the first chunk")
        if len(content) < 10:
            return
        self.flags = content[0]
        self.canvas = (1 + int.from_bytes(content[4:7], "little"), 1 + int.from_bytes(content[7:10], "little"))

    def _lossy(self, position: int, content: bytes) -> None:
        if len(content) < 10 or content[3:6] != b"\x9d\x01\x2a" or content[0] & 1:
            raise Broken(f"no VP8 key frame at byte {position}")
        across, down = struct.unpack_from("<HH", content, 6)
        if (across | down) >> 14 or not content[0] & 0x10:
            self.irregular.append("a scaled or hidden picture")
        width, height = across & 0x3FFF, down & 0x3FFF
        self._size(width, height)
        first = int.from_bytes(content[:3], "little") >> 5
        if not 0 < first <= len(content) - 10:
            raise Broken("the first VP8 partition exceeds its chunk")
        blocks = -(-width // 16) * -(-height // 16)
        run = content.find(bytes(SHORTEST_RUN), 10)
        if 0 <= run < len(content) - SHORTEST_RUN - 1 and 8 * len(content) > BITS_A_BLOCK * blocks:
            self.damage.append(f"zeros that no encoder wrote, at byte {position + 8 + run}")

    def _lossless(self, content: bytes) -> None:
        if len(content) < 5 or content[0] != 0x2F:
            raise Broken("not a VP8L bitstream")
        bits = int.from_bytes(content[1:5], "little")
        self._size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
        if bits >> 29:
            raise Broken("an unknown VP8L version")

    def _size(self, width: int, height: int) -> None:
        if not width or not height:
            raise Broken(f"a picture of {width} x {height} pixels")
        self.fields |= {"width": width, "height": height}

    def _check(self) -> None:
        """Compares flags and canvas of the extended header with the chunks present."""
        pictures = {b"VP8 ", b"VP8L", b"ANMF"} & self.seen
        if not pictures:
            self.damage.append("no picture")
        if len(pictures) > 1:
            self.keep_for(Reason.FRAMES, "several pictures")
        if b"ALPH" in self.seen and (b"VP8 " not in self.seen or not (self.flags or 0) & ALPHA):
            self.irregular.append("an alpha plane without a picture")
        if self.canvas and not self.fields["width"]:
            self.fields |= {"width": self.canvas[0], "height": self.canvas[1]}
        if self.flags is None:
            if self.seen & set(FLAGS):
                self.irregular.append("chunks that require an extended header, which is missing")
            return
        own = (self.fields["width"], self.fields["height"])
        if self.canvas and b"ANMF" not in self.seen and own != self.canvas:
            self.irregular.append(f"a picture of {own} on a canvas of {self.canvas}")
        for kind, flag in FLAGS.items():
            if kind == b"ALPH":
                continue  # VP8L contains its alpha
            if (kind in self.seen) != bool(self.flags & flag):
                self.irregular.append(f"the extended header and chunk {kind.decode()} contradict each other")
        if self.flags & ANIMATED and b"ANMF" not in self.seen:
            self.keep_for(Reason.FRAMES, "an animation without frames")
