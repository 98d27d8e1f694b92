"""JPEG (ITU-T T.81, JFIF 1.02, EXIF 3.0, CIPA MPF, ISO 21496-1): segment by segment, and the data after EOI."""

import struct
from dataclasses import dataclass

from codec.containers import entropy_coded, exif, mpf
from codec.containers.bmff import boxes
from codec.containers.builder import Broken, Builder, resolution, unpack
from codec.containers.reasons import Reason
from codec.containers.structure import Role, Structure

SOI = 0xD8
EOI = 0xD9
SOS = 0xDA
DNL = 0xDC
COM = 0xFE
FRAMES = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive"}
OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xDE}
"""Lossless, hierarchical and arithmetic-coded frames."""
DHT = 0xC4
DQT = 0xDB
DRI = 0xDD
TABLES = {DHT: "DHT", DQT: "DQT", DRI: "DRI"}
STANDALONE = {0x01, *range(0xD0, 0xD8)}
"""TEM and restart markers, which have no length."""
MOST_SEGMENTS = 20_000
EXIF = b"Exif\0\0"
XMP = b"http://ns.adobe.com/xap/1.0/\0"
XMP_MORE = b"http://ns.adobe.com/xmp/extension/\0"
ICC = b"ICC_PROFILE\0"
MPF = b"MPF\0"
PHOTOSHOP = b"Photoshop 3.0\0"
JFIF = b"JFIF\0"
JFXX = b"JFXX\0"
ADOBE = b"Adobe"
FILM_WITHIN = 4096
"""A motion photo's video begins within this many bytes after the picture."""


@dataclass(frozen=True)
class _Frame:
    width: int
    height: int
    bits: int
    components: int


def read(data: bytes) -> Structure:
    """The parts of a JPEG file. Any bytes after SOI give a structure, which records their faults."""
    reader = _JpegReader(data)
    reader.segments()
    return reader.finished()


class _JpegReader(Builder):
    def __init__(self, data: bytes) -> None:
        super().__init__(data, "JPEG", "image/jpeg")
        self.frame: _Frame | None = None
        self.adobe: int | None = None
        self.ended: int | None = None
        self.profile: dict[int, bytes] = {}
        self.profile_count = 0
        self.further: list[mpf.MultiPictureEntry] = []
        self.mpf_at = 0
        self.scans = 0
        self.headed = False
        self.codes_of_zeros: dict[int, int] = {}
        """The symbol of the code of zeros by AC table, for entropy_coded.wiped."""
        self.signed: set[bytes] = set()
        """Box numbers of content credentials."""

    def segments(self) -> None:
        """Walk from SOI to EOI."""
        self.part(0, 2, "SOI", Role.SILENT)
        position = 2
        try:
            for _ in range(MOST_SEGMENTS):
                position = self._segment(position)
                if self.ended is not None:
                    return
            self.irregular.append(f"more than {MOST_SEGMENTS} segments")
        except Broken as broken:
            self.damage.append(str(broken))

    def finished(self) -> Structure:
        self._color()
        if self.frame is None:
            self.damage.append("no frame header")
        elif not self.scans:
            self.damage.append("no scan")
        if self.ended is not None:
            self._behind(self.ended)
        return self.build()

    def _segment(self, position: int) -> int:
        """Names the segment at `position`, with its scan if it starts one. Returns the offset after it."""
        data = self.data
        if position >= len(data):
            raise Broken("the file ends without an end of image")
        if data[position] != 0xFF:
            # Decoders skip such bytes up to the next marker.
            end = data.find(b"\xff", position)
            if end < 0:
                end = len(data)
            self.part(position, end - position, "bytes between segments", Role.UNACCOUNTED)
            self.irregular.append(f"{end - position} bytes between segments, at byte {position}")
            return end
        start = self._fill(position)
        marker = data[start + 1]
        if marker == EOI:
            self.part(start, 2, "EOI", Role.SILENT)
            self.ended = start + 2
            return self.ended
        if marker in STANDALONE or marker == SOI:
            self.part(start, 2, f"marker {marker:02X}", Role.UNACCOUNTED)
            self.irregular.append(f"marker {marker:02X} out of place, at byte {start}")
            return start + 2
        if marker == 0:
            self.part(start, 2, "bytes between segments", Role.UNACCOUNTED)
            self.irregular.append(f"a stuffed byte between segments, at byte {start}")
            return start + 2
        (length,) = unpack(">H", data, start + 2)
        end = int(start + 2 + length)
        if length < 2 or end > len(data):
            raise Broken(f"segment {marker:02X} at byte {start} does not fit into the file")
        self._named(marker, start, data[start + 4 : end])
        if marker == SOS:
            return self._scan(start, end)
        return end

    def _fill(self, start: int) -> int:
        """Names the fill bytes FF that may precede a marker (B.1.1.2). Returns the offset of its own FF."""
        position = start
        while position < len(self.data) and self.data[position] == 0xFF:
            position += 1
        if position >= len(self.data):
            raise Broken("the file ends inside a marker")
        marker_at = position - 1
        if marker_at > start:
            self.part(start, marker_at - start, "fill", Role.SILENT)
        return marker_at

    def _named(self, marker: int, start: int, content: bytes) -> None:
        """Names the segment at `start` and records its content."""
        length = len(content) + 4
        if marker in TABLES:
            self.part(start, length, TABLES[marker], Role.PIXELS)
            self._tables(marker, content)
        elif marker in FRAMES:
            self.part(start, length, f"SOF {FRAMES[marker]}", Role.PIXELS)
            self._frame(content)
        elif marker in OTHER_FRAMES:
            self.part(start, length, f"SOF {marker:02X}", Role.PIXELS)
            self._frame(content)
            self.keep_for(Reason.UNSUPPORTED, "lossless, hierarchical or arithmetic coding")
        elif marker == SOS:
            self.part(start, length, "SOS", Role.PIXELS)
            if not _is_scan_header(content):
                self.irregular.append("a scan header whose length does not match its components")
        elif marker == DNL:
            self.part(start, length, "DNL", Role.PIXELS)
            self.keep_for(Reason.UNSUPPORTED, "the height follows the first scan")
        elif marker == COM:
            self.part(start, length, "COM", Role.METADATA)
            self.carry("coMm", content)
        elif 0xE0 <= marker <= 0xEF:
            self._application(marker, start, content)
        else:
            self.part(start, length, f"segment {marker:02X}", Role.UNACCOUNTED)
            self.irregular.append(f"unknown segment {marker:02X} at byte {start}")

    def _application(self, marker: int, start: int, content: bytes) -> None:
        """Names an APP segment by the signature in it, and carries its content."""
        name = f"APP{marker - 0xE0}"
        role = Role.METADATA
        if marker == 0xE0 and content.startswith(JFIF):
            name = "APP0 JFIF"
            role = self._jfif(content)
        elif marker == 0xE0 and content.startswith(JFXX):
            name = "APP0 JFXX"
            if self.frame is None and _is_thumbnail(content[5:]):
                role = Role.PREVIEW
            else:
                self.unknown("JPEG APP0", content)
        elif marker == 0xE1 and content.startswith(EXIF):
            name = "APP1 Exif"
            self._exif(content[len(EXIF) :])
        elif marker == 0xE1 and content.startswith(XMP):
            name = "APP1 XMP"
            if any(block.tag == "xmPp" for block in self.blocks):
                self.unknown("JPEG APP1", content)
            else:
                self.carry("xmPp", content[len(XMP) :])
        elif marker == 0xE1 and content.startswith(XMP_MORE):
            name = "APP1 extended XMP"
            self.carry("xeXt", content[len(XMP_MORE) :])
        elif marker == 0xE2 and content.startswith(ICC) and len(content) >= 14:
            name = "APP2 ICC"
            role = Role.PIXELS
            self._profile(content)
        elif marker == 0xE2 and content.startswith(MPF):
            name = "APP2 MPF"
            self._list_of_pictures(start, content)
        elif marker == 0xED and content.startswith(PHOTOSHOP):
            name = "APP13 Photoshop"
            self.carry("psIr", content)
        elif marker == 0xEE and content.startswith(ADOBE) and len(content) >= 12:
            name = "APP14 Adobe"
            role = Role.PIXELS
            if len(content) > 12 or self.adobe is not None:
                self.unknown("JPEG APP14", content)
            if self.adobe is None:
                self.adobe = content[11]  # the color transform
        elif marker == 0xEB and content.startswith(b"JP") and (content[2:4] in self.signed or b"c2pa" in content):
            name = "APP11 C2PA"
            role = Role.CREDENTIALS
            self.signed.add(content[2:4])  # the box number, which continuation segments repeat
        else:
            self.unknown(f"JPEG {name}", content)
        self.part(start, len(content) + 4, name, role)

    def _jfif(self, content: bytes) -> Role:
        if len(content) < 14:
            self.irregular.append("a truncated JFIF header")
            return Role.UNACCOUNTED
        unit, horizontal, vertical, columns, rows = struct.unpack_from(">BHHBB", content, 7)
        repeated = self.headed
        self.headed = True
        # An uncompressed RGB thumbnail follows the 14 bytes.
        if len(content) != 14 + 3 * columns * rows or unit > 2 or repeated:
            self.unknown("JPEG APP0", content)
            return Role.METADATA
        if unit or horizontal != vertical:  # otherwise it says no more than that pixels are square
            self.carry("phYs", resolution(unit, (horizontal, 1), (vertical, 1)))
        if columns and rows:
            return Role.PREVIEW
        return Role.METADATA

    def _tables(self, marker: int, content: bytes) -> None:
        """Checks that coding tables fill their segments, so that nothing else can hide in them (T.81, B.2.4)."""
        try:
            if marker == DHT:
                self.codes_of_zeros |= entropy_coded.symbols_of_zeros(content)
            elif marker == DQT:
                position = 0
                while position < len(content):
                    sixteen_bits = content[position] >> 4
                    position += 1 + (128 if sixteen_bits else 64)
                if position != len(content):
                    raise Broken("quantization tables that do not match their segment's length")
            elif marker == DRI and len(content) != 2:
                raise Broken("a restart interval that is not 2 bytes")
        except Broken as broken:
            self.irregular.append(str(broken))

    def _list_of_pictures(self, start: int, content: bytes) -> None:
        """Multi-Picture Format. A list that cannot be read, or a second one, keeps the file."""
        self.unknown("JPEG APP2", content)
        if self.mpf_at:
            self.keep_for(Reason.METADATA, "several lists of pictures")
        self.mpf_at = start + 4 + len(MPF)  # the list's TIFF header, from which its offsets count
        try:
            self.further = mpf.entries(content[len(MPF) :])
        except Broken as broken:
            self.keep_for(Reason.METADATA, f"its list of pictures: {broken}")

    def _exif(self, block: bytes) -> None:
        self.carry("exIf", block)  # a second one keeps the file
        self.fields.setdefault("orientation", exif.orientation(block))

    def _frame(self, content: bytes) -> None:
        if len(content) < 6:
            raise Broken("a truncated frame header")
        bits, height, width, components = struct.unpack_from(">BHHB", content)
        if self.frame is not None:
            self.keep_for(Reason.UNSUPPORTED, "several frames")
            return
        if len(content) != 6 + 3 * components:
            self.irregular.append("a frame header whose length does not match its components")
        if not width or not height:
            self.keep_for(Reason.UNSUPPORTED, f"a picture of {width} x {height} pixels")
        self.frame = _Frame(width, height, bits, components)
        self.fields |= {"width": width, "height": height, "bits": bits}
        if bits != 8:
            self.keep_for(Reason.DEPTH, f"samples of {bits} bits")
        if components not in (1, 3):
            self.keep_for(Reason.COLORS, f"{components} components")

    def _scan(self, start: int, position: int) -> int:
        """Names the entropy-coded data after a scan header, up to the next marker that is not a restart."""
        self.scans += 1
        end = entropy_coded.end_of_scan(self.data, position)
        if end is None:
            self.part(position, len(self.data) - position, "entropy-coded data", Role.PIXELS)
            raise Broken("the file ends without an end of image")
        self.part(position, end - position, "entropy-coded data", Role.PIXELS)
        where = entropy_coded.wiped(self.data, position, end, self.data[start + 4 : position], self.codes_of_zeros)
        if where is not None:
            self.damage.append(f"zeros that no encoder wrote, at byte {where}")
        return end

    def _profile(self, content: bytes) -> None:
        """Collects a piece of the color profile: its number from 1, and the number of pieces (ICC.1, annex B.4)."""
        number = content[12]
        count = content[13]
        if number in self.profile or (self.profile_count and count != self.profile_count):
            self.irregular.append("contradictory pieces of its color profile")
        self.profile[number] = content[14:]
        self.profile_count = count

    def _color(self) -> None:
        if self.profile:
            numbers = sorted(self.profile)  # the pieces may come in any order
            if numbers == list(range(1, self.profile_count + 1)):
                self.fields["icc"] = b"".join(self.profile[number] for number in numbers)
            else:
                self.irregular.append("a color profile with missing pieces")
        # Three components are RGB (0) or YCbCr (1); other values are for four.
        if self.frame and self.frame.components == 3 and self.adobe not in (None, 0, 1):
            self.irregular.append(f"color transform {self.adobe} with three components")

    def _behind(self, end: int) -> None:
        """Names what follows EOI: further MPF pictures, a video, or unknown trailing bytes."""
        packets = b"".join(block.content for block in self.blocks if block.tag in ("xmPp", "xeXt"))
        position = end
        for entry in sorted(self.further, key=lambda entry: entry.offset):
            if not entry.primary:
                position = self._further(entry, position, packets)
        # After the listed pictures, whose bytes could look like a video's.
        film = self._film(position)
        if film is not None:
            self.part(*film, "film", Role.MOTION)
        self.behind(end)

    def _further(self, entry: mpf.MultiPictureEntry, free: int, packets: bytes) -> int:
        """Names a further picture, which must follow the earlier ones. Returns the offset of its end."""
        start = self.mpf_at + entry.offset
        size = entry.size
        picture = self.data[start : start + size]
        if start < free or len(picture) != size or not picture.startswith(b"\xff\xd8\xff"):
            self.keep_for(Reason.METADATA, "its list of pictures names a missing one")
            return free
        if mpf.is_gain_map(picture, packets) and not entry.preview:
            self.part(start, size, "MPF gain map", Role.AUXILIARY)
            self.carry("auXP", b"gain map (MPF)\0" + picture)
        elif entry.preview and self._reduced(picture):
            self.part(start, size, "MPF preview", Role.PREVIEW)
        else:
            self.part(start, size, "MPF picture", Role.FRAMES)
        return start + size

    def _reduced(self, picture: bytes) -> bool:
        """Whether a further picture is complete, smaller, and has nothing after its end."""
        reader = _JpegReader(picture)
        reader.segments()
        if self.frame is None or reader.frame is None or reader.ended is None:
            return False
        smaller = reader.frame.width * reader.frame.height < self.frame.width * self.frame.height
        return smaller and not picture[reader.ended :].strip(b"\0")

    def _film(self, start: int) -> tuple[int, int] | None:
        """Offset of an MPEG-4 video after the picture, and its length as far as its boxes reach.

        Samsung writes a short record before the video, so the first box may start a little later.
        """
        first_box = self.data.find(b"ftyp", start, start + FILM_WITHIN) - 4  # its size precedes its type
        if first_box < start:
            return None
        end = first_box
        try:
            for box in boxes(self.data, first_box, len(self.data)):
                end = box.end
        except Broken:
            pass  # bytes after the last whole box are a trailer
        if end == first_box:  # not even the first box is whole
            return None
        return first_box, end - first_box


def _is_scan_header(content: bytes) -> bool:
    """Whether the content of an SOS segment has 1 to 4 components and the length that they require (B.2.3)."""
    if not content:
        return False
    components = content[0]
    return 1 <= components <= 4 and len(content) == 4 + 2 * components


def _is_thumbnail(extension: bytes) -> bool:
    """Whether a JFXX segment holds just a thumbnail: JPEG, palette or RGB (JFIF 1.02)."""
    if extension[:3] == b"\x10\xff\xd8":
        return extension[-2:] == b"\xff\xd9"
    if len(extension) <= 3:
        return False
    kind = extension[0]
    pixels = extension[1] * extension[2]
    if kind == 0x11:  # a palette of 256 colors, then a byte for each pixel
        return len(extension) == 3 + 768 + pixels
    if kind == 0x13:
        return len(extension) == 3 + 3 * pixels
    return False
