"""WebP (RFC 9649): RIFF chunks, and the sizes stated by its bitstreams."""

import struct

from codec.containers import exif
from codec.containers.builder import Broken, Builder, unpack
from codec.containers.reasons import Reason
from codec.containers.structure import Role, Structure

ANIMATED = 0x02
XMP = 0x04
EXIF = 0x08
ALPHA = 0x10
ICC = 0x20
FLAGS = {b"EXIF": EXIF, b"XMP ": XMP, b"ICCP": ICC, b"ALPH": ALPHA, b"ANIM": ANIMATED}
MOST_CHUNKS = 20_000
SHORTEST_RUN = 20
"""Length of a run of zero bytes that counts as lost data."""
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
        """Names the chunk at `position` and its padding; returns the offset after both."""
        kind, length = unpack("<4sI", self.data, position)
        end = position + 8 + length
        if end > stop:
            raise Broken(f"chunk {kind!r} at byte {position} exceeds the file")
        content = self.data[position + 8 : end]
        if length % 2 and end < stop:
            if self.data[end]:
                self.irregular.append(f"a nonzero padding byte at byte {end}")
                self.part(end, 1, "padding", Role.UNACCOUNTED)
            else:
                self.part(end, 1, "padding", Role.SILENT)
        role = self._named(position, kind, content)
        self.part(position, 8 + length, kind.decode("latin-1"), role)
        self.seen.add(kind)
        return int(end + length % 2)

    def _named(self, position: int, kind: bytes, content: bytes) -> Role:
        """Carries or records the content of a chunk, and returns its role."""
        if kind in self.seen and kind != b"ANMF":  # an animation has one of these for each frame
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
                block = content.removeprefix(b"Exif\0\0")  # which some writers copy from JPEG
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
        # Sides are stored minus 1 in 24 bits each (section 2.7.1).
        width = 1 + int.from_bytes(content[4:7], "little")
        height = 1 + int.from_bytes(content[7:10], "little")
        self.canvas = (width, height)

    def _lossy(self, position: int, content: bytes) -> None:
        """Checks the frame header of a VP8 bitstream (RFC 6386, section 9.1)."""
        if len(content) < 10 or content[3:6] != b"\x9d\x01\x2a" or content[0] & 1:
            raise Broken(f"no VP8 key frame at byte {position}")
        across, down = struct.unpack_from("<HH", content, 6)
        scaled = (across | down) >> 14
        shown = content[0] & 0x10
        if scaled or not shown:
            self.irregular.append("a scaled or hidden picture")
        width = across & 0x3FFF
        height = down & 0x3FFF
        self._size(width, height)
        first_partition = int.from_bytes(content[:3], "little") >> 5
        if not 0 < first_partition <= len(content) - 10:
            raise Broken("the first VP8 partition exceeds its chunk")
        blocks = -(-width // 16) * -(-height // 16)
        may_be_flat = 8 * len(content) <= BITS_A_BLOCK * blocks
        # A run up to the last byte may be the coder's own flush.
        run = content.find(bytes(SHORTEST_RUN), 10)
        if 0 <= run < len(content) - SHORTEST_RUN - 1 and not may_be_flat:
            self.damage.append(f"zeros that no encoder wrote, at byte {position + 8 + run}")

    def _lossless(self, content: bytes) -> None:
        if len(content) < 5 or content[0] != 0x2F:
            raise Broken("not a VP8L bitstream")
        # Width and height minus 1 in 14 bits each, whether alpha is used, and a version that must be 0.
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
        announced = (self.flags or 0) & ALPHA
        if b"ALPH" in self.seen and (b"VP8 " not in self.seen or not announced):
            self.irregular.append("an alpha plane without a picture")
        if self.canvas and not self.fields["width"]:  # an animation: its frames are not read
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
            stated = bool(self.flags & flag)
            if stated != (kind in self.seen):
                self.irregular.append(f"the extended header and chunk {kind.decode()} contradict each other")
        if self.flags & ANIMATED and b"ANMF" not in self.seen:
            self.keep_for(Reason.FRAMES, "an animation without frames")
