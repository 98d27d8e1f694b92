"""TIFF and BigTIFF (TIFF 6.0; Adobe's supplements; EXIF 3.0): every directory, every value, every strip."""

import struct

from codec.containers import jpeg, tiff_metadata
from codec.containers.builder import Broken, Builder, resolution, unpack
from codec.containers.exif import SIZES
from codec.containers.reasons import Reason
from codec.containers.structure import Role, Structure
from codec.containers.tiff_tags import (
    A_SAMPLE,
    COLORS_OF_YCBCR,
    COUNTS,
    GEOGRAPHIC,
    LAYERS,
    LISTS,
    MARKS_OF_RAW,
    NUMBERS,
    PICTURE,
    SILENT,
    TEXTS,
    DirectoryEntry,
    Tag,
)
from codec.format.tags import MetadataBlock

MOST_DIRECTORIES = 200
MOST_ENTRIES = 2000
MOST_VALUES = 2_000_000
LONG8_SIZES = {**SIZES, 16: 8, 17: 8, 18: 8}
FORMATS = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 6: "b", 7: "B", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 13: "I"}
FORMATS |= {16: "Q", 17: "q", 18: "Q"}
INTEGERS = (1, 3, 4, 13, 16, 18)
"""Types of unsigned integers."""
COMPRESSIONS = {1, 2, 3, 4, 5, 7, 8, 32773, 32946, 34925, 50000, 50001}
"""Supported compressions: none, CCITT, LZW, JPEG, deflate, PackBits, LZMA, Zstandard, WebP."""
PALETTE = 3
YCBCR = 6
JPEG = 7
MOST_PLANES = 64
MOST_SAMPLES = 2**16 - 1
"""SamplesPerPixel is a 16-bit number (TIFF 6.0)."""
POINTERS = (4, 13, 16, 18)
"""Types of an offset."""
HIDDEN = (Role.UNACCOUNTED, Role.TRAILER, Role.MOTION, Role.CREDENTIALS, Role.FRAMES, Role.PREVIEW)
"""Parts of a JPEG that would be lost if a strip had them."""
PHOTOMETRICS = {0, 1, 2, 3, 6}
CFA = 32803
LINEAR_RAW = 34892


def read(data: bytes) -> Structure:
    """The parts of a TIFF file; the bytes begin with II or MM and 42 or 43."""
    reader = _TiffReader(data)
    reader.directories()
    return reader.build()


class _TiffReader(Builder):
    def __init__(self, data: bytes) -> None:
        super().__init__(data, "TIFF", "image/tiff")
        self.order = "<" if data[:2] == b"II" else ">"
        self.big = struct.unpack_from(f"{self.order}H", data, 2)[0] == 43
        self.offset_form = f"{self.order}{'Q' if self.big else 'I'}"
        """Format of an offset; BigTIFF's have 64 bits."""
        self.visited: set[int] = set()
        self.pages = 0
        self.values = 0
        self.metadata: dict[int, DirectoryEntry] = {}
        self.exif: dict[int, DirectoryEntry] = {}
        self.gps: dict[int, DirectoryEntry] = {}

    def directories(self) -> None:
        """Walks the chain of directories and everything they refer to."""
        self.part(0, 16 if self.big else 8, "header", Role.SILENT)
        try:
            (position,) = unpack(self.offset_form, self.data, 8 if self.big else 4)
            while position:
                position = self._directory(position, f"IFD{self.pages}", chained=True)
        except Broken as broken:
            self.damage.append(str(broken))
        if self.pages:
            self._carry()
        else:
            self.damage.append("no picture")
        # Gaps before this may be values that nothing refers to: they stay unaccounted.
        self.behind(max(part.offset + part.length for part in self.parts))

    def _directory(self, position: int, name: str, *, chained: bool) -> int:
        """Reads a picture's directory. Returns the offset of the next one in the chain."""
        entries, following = self._entries(position, name)
        main = chained and self.pages == 0
        if chained:
            self.pages += 1
        kind = self._number(entries, Tag.NEW_SUBFILE_TYPE, 0)
        if Tag.DNG_VERSION in entries:
            self.container = "DNG"
            self.media_type = "image/x-adobe-dng"
        if MARKS_OF_RAW & set(entries) or self._number(entries, Tag.PHOTOMETRIC, 0) in (CFA, LINEAR_RAW):
            self.keep_for(Reason.RAW, "a camera's raw file")
        if main and kind & 1:  # a reduced picture: the full one is that of the sensor
            self.keep_for(Reason.RAW, "its first picture is a preview")
        if main:
            self._main(entries)
            self.metadata = entries
        role = self._role(entries, main=main)
        if role is Role.FRAMES:
            self.keep_for(Reason.FRAMES, f"{name} is a further picture")
        self._strips(entries, name, role)
        self._plain(entries, name)
        if Tag.SUB_IFDS in entries:
            children = self._numbers(entries[Tag.SUB_IFDS])[:MOST_DIRECTORIES]
            for child, offset in enumerate(children):
                self._directory(offset, f"{name} SubIFD{child}", chained=False)
        self._metadata_directories(entries, name, main=main)
        # A preview is left out, and with it what only its directory says.
        own = set(entries) - PICTURE - SILENT - {Tag.NEW_SUBFILE_TYPE}
        if role is Role.PREVIEW and own:
            self.keep_for(Reason.METADATA, f"{name} has metadata of its own")
        return following

    def _role(self, entries: dict[int, DirectoryEntry], *, main: bool) -> Role:
        """The role of a directory's picture: a preview is marked as a reduced copy and smaller than the first."""
        if main:
            return Role.PIXELS
        reduced = self._number(entries, Tag.NEW_SUBFILE_TYPE, 0) == 1
        area = self._number(entries, Tag.WIDTH, 0) * self._number(entries, Tag.HEIGHT, 0)
        if reduced and area < self.fields["width"] * self.fields["height"]:
            return Role.PREVIEW
        return Role.FRAMES

    def _metadata_directories(self, entries: dict[int, DirectoryEntry], name: str, *, main: bool) -> None:
        """Reads the EXIF and GPS directories; those of the first picture are carried."""
        for tag in {Tag.EXIF, Tag.GPS} & set(entries):
            if entries[tag].kind not in POINTERS or entries[tag].count != 1:
                self.keep_for(Reason.METADATA, f"tag {tag} of {name} is not an offset")
        if Tag.EXIF in entries:
            found, _ = self._entries(self._number(entries, Tag.EXIF, 0), f"{name} Exif")
            if main:
                self.exif = found
            if Tag.INTEROPERABILITY in found:
                self._entries(self._number(found, Tag.INTEROPERABILITY, 0), f"{name} Interoperability")
        if Tag.GPS in entries:
            found, _ = self._entries(self._number(entries, Tag.GPS, 0), f"{name} GPS")
            if main:
                self.gps = found

    def _entries(self, position: int, name: str) -> tuple[dict[int, DirectoryEntry], int]:
        """The entries of a directory by tag, and the offset of the next directory."""
        if position in self.visited or len(self.visited) >= MOST_DIRECTORIES:
            raise Broken(f"{name} at byte {position} is part of a cycle, or exceeds the limit of directories")
        self.visited.add(position)
        # Bytes of an offset, of the number of entries, and of an entry.
        if self.big:
            size, head, width = (8, 8, 20)
        else:
            size, head, width = (4, 2, 12)
        count = int(unpack(f"{self.order}{'Q' if self.big else 'H'}", self.data, position)[0])
        if count > MOST_ENTRIES:
            raise Broken(f"{name} has {count} entries")
        entries: dict[int, DirectoryEntry] = {}
        for number in range(count):
            start = position + head + width * number
            tag, kind = unpack(f"{self.order}HH", self.data, start)
            (values,) = unpack(self.offset_form, self.data, start + 4)
            length = LONG8_SIZES.get(kind, 0) * values
            offset = start + 4 + size
            if length > size:  # the value does not fit into the entry, which has its offset instead
                (offset,) = unpack(self.offset_form, self.data, offset)
                if offset + length > len(self.data):
                    raise Broken(f"tag {tag} of {name} exceeds the file")
                self.part(offset, length, f"{name} tag {tag}", Role.METADATA)
            if kind not in LONG8_SIZES:
                self.keep_for(Reason.METADATA, f"tag {tag} of {name} has the unknown type {kind}")
            if tag in entries:
                self.keep_for(Reason.METADATA, f"{name} has tag {tag} twice")
            entries[tag] = DirectoryEntry(tag, kind, values, offset, length)
        end = position + head + width * count
        (following,) = unpack(self.offset_form, self.data, end)
        self.part(position, end + size - position, name, Role.METADATA)
        return entries, int(following)

    def _strips(self, entries: dict[int, DirectoryEntry], name: str, role: Role) -> None:
        """Names the strips or tiles of a picture."""
        found = False
        for offsets, lengths in Tag.PLACES:
            if offsets in entries and lengths in entries:
                positions = self._numbers(entries[offsets])
                sizes = self._numbers(entries[lengths])
                self._named_strips(entries, name, role, positions, sizes)
                found = True
            elif offsets in entries or lengths in entries:
                self.irregular.append(f"strips of {name} without offsets or lengths")
                found = True
        if not found and role is Role.PIXELS:
            raise Broken(f"{name} has no strips")

    def _named_strips(
        self, entries: dict[int, DirectoryEntry], name: str, role: Role, positions: list[int], sizes: list[int]
    ) -> None:
        if len(positions) != len(sizes):
            raise Broken(f"{name} has {len(positions)} strips and {len(sizes)} lengths")
        # Strips may share bytes, but not so many that a small file makes much work.
        if sum(sizes) > 2 * len(self.data):
            raise Broken(f"overlapping strips of {name}")
        self._amount(entries, name, len(positions), sum(sizes))
        coded_as_jpeg = self._number(entries, Tag.COMPRESSION, 1) == JPEG
        for position, size in zip(positions, sizes, strict=True):
            if position + size > len(self.data):
                raise Broken(f"a strip of {name} reaches beyond the end of the file")
            self.part(position, size, f"{name} pixels", role)
            if coded_as_jpeg:
                self._inside(self.data[position : position + size], name)

    def _amount(self, entries: dict[int, DirectoryEntry], name: str, count: int, size: int) -> None:
        """Checks number and size of strips or tiles, so that nothing else can hide in uncompressed ones."""
        number = self._number
        width = number(entries, Tag.WIDTH, 0)
        height = number(entries, Tag.HEIGHT, 0)
        # Without tiles, the picture is one.
        across = number(entries, Tag.TILE_WIDTH, width)
        down = number(entries, Tag.TILE_HEIGHT, height)
        planes = self._planes(entries)
        if not across or not down or len(planes) > MOST_PLANES:
            raise Broken(f"{name} has tiles of {across} x {down} pixels in {len(planes)} planes")
        tiles = -(-width // across) * -(-height // down)
        strips = tiles
        if Tag.TILE_WIDTH not in entries:
            rows = min(number(entries, Tag.ROWS, height), height) or 1
            strips = -(-height // rows)
        if count != strips * len(planes):
            self.irregular.append(f"{name} has {count} strips or tiles instead of {strips * len(planes)}")
        # The size of compressed data, and of subsampled YCbCr, does not follow from that of the picture.
        if number(entries, Tag.COMPRESSION, 1) != 1 or number(entries, Tag.PHOTOMETRIC, 0) == YCBCR:
            return
        due = 0
        for bits in planes:
            due += tiles * down * -(-across * bits // 8)  # rows are padded to bytes
        if size < due:
            self.damage.append(f"{name} has {size} of {due} bytes of pixels")
        elif size > due:
            self.irregular.append(f"{name} has {size} bytes of pixels instead of {due}")

    def _planes(self, entries: dict[int, DirectoryEntry]) -> list[int]:
        """Bits per pixel of each plane: one for each sample, or a single one with all of them."""
        samples = self._number(entries, Tag.SAMPLES, 1)
        if samples > MOST_SAMPLES:  # before anything of that length is made: a file may state four billion
            raise Broken(f"a directory with {samples} samples a pixel")
        bits = self._optional_numbers(entries, Tag.BITS, [1])
        if self._number(entries, Tag.PLANAR, 1) == 2:
            return [sum(bits[:1])] * samples
        stated = bits[:samples]
        if len(stated) < samples:  # some writers state the bits of the first sample only
            stated = (stated * samples)[:samples]
        return [sum(stated)]

    def _plain(self, entries: dict[int, DirectoryEntry], name: str) -> None:
        """Checks type and count of tags about pixels, so that nothing else can hide in them."""
        photometric = self._number(entries, Tag.PHOTOMETRIC, 0)
        coded_as_jpeg = self._number(entries, Tag.COMPRESSION, 1) == JPEG
        for tag in sorted(set(entries) & (PICTURE | SILENT)):
            entry = entries[tag]
            if tag == Tag.JPEG_TABLES and coded_as_jpeg:
                self._inside(self._bytes(entry), name)
            elif tag in COLORS_OF_YCBCR and photometric != YCBCR:
                self.keep_for(Reason.METADATA, f"tag {tag} of {name}, which does not apply to its color model")
            elif tag in LISTS and tag != Tag.JPEG_TABLES:
                continue  # checked with the strips
            elif entry.kind not in NUMBERS.get(tag, (1, 3, 4, 16)) or entry.count > self._due(entries, tag):
                self.keep_for(Reason.METADATA, f"tag {tag} of {name} has {entry.count} values of type {entry.kind}")

    def _due(self, entries: dict[int, DirectoryEntry], tag: int) -> int:
        """The number of values that a tag about pixels may have."""
        if tag in A_SAMPLE:
            return self._number(entries, Tag.SAMPLES, 1)
        if tag != Tag.COLOR_MAP:
            return COUNTS.get(tag, 1)
        if self._number(entries, Tag.PHOTOMETRIC, 0) != PALETTE:
            return 0
        bits = self._number(entries, Tag.BITS, 1)
        return 3 << min(bits, 8)

    def _inside(self, strip: bytes, name: str) -> None:
        """Keeps the file whole if a JPEG-coded strip has metadata segments, which cannot be carried."""
        inner = jpeg.read(strip)
        metadata = any(block.tag != "phYs" for block in inner.blocks)  # phYs is of a JFIF header, added by encoders
        if metadata or any(part.role in HIDDEN for part in inner.parts):
            self.keep_for(Reason.METADATA, f"metadata in a strip of {name}")

    def _main(self, entries: dict[int, DirectoryEntry]) -> None:
        """Describes the first picture, and whether its pixels can be compressed."""
        number = self._number
        width = number(entries, Tag.WIDTH, 0)
        height = number(entries, Tag.HEIGHT, 0)
        bits = max(self._optional_numbers(entries, Tag.BITS, [1]), default=1)
        samples = number(entries, Tag.SAMPLES, 1)
        photometric = number(entries, Tag.PHOTOMETRIC, 1)
        self.fields |= {"width": width, "height": height, "bits": bits}
        turned = number(entries, Tag.ORIENTATION, 1)
        self.fields["orientation"] = turned if 1 <= turned <= 8 else 1
        if bits > 8:
            self.keep_for(Reason.DEPTH, f"samples of {bits} bits")
        formats = self._optional_numbers(entries, Tag.SAMPLE_FORMAT, [1])
        if set(formats) != {1}:
            self.keep_for(Reason.COLORS, "signed, floating-point or undefined samples")
        extra = self._optional_numbers(entries, Tag.EXTRA_SAMPLES, [])
        alpha = len(extra) <= 1 and all(kind in (1, 2) for kind in extra)  # premultiplied or not
        colors = {2: 3, 6: 3}.get(photometric, 1)
        if photometric not in PHOTOMETRICS:
            self.keep_for(Reason.COLORS, f"color model {photometric}")
        elif samples != colors + len(extra) or not alpha:
            self.keep_for(Reason.COLORS, f"{samples} samples per pixel, {colors} of them colors")
        compression = number(entries, Tag.COMPRESSION, 1)
        if compression not in COMPRESSIONS:
            self.keep_for(Reason.UNSUPPORTED, f"compression {compression}")

    def _carry(self) -> None:
        """Carries the metadata of the first picture, or records what cannot be carried."""
        private = set(self.metadata) - PICTURE - SILENT - TEXTS - Tag.CARRIED
        if private & GEOGRAPHIC:
            self.keep_for(Reason.METADATA, "a georeference")
        if private & LAYERS:
            self.keep_for(Reason.METADATA, "layers")
        rest = sorted(private - GEOGRAPHIC - LAYERS)
        if rest:
            self.keep_for(Reason.METADATA, f"private tags {', '.join(map(str, rest[:5]))}")
        if Tag.XMP in self.metadata:
            self.carry("xmPp", self._bytes(self.metadata[Tag.XMP]))
        if Tag.IPTC in self.metadata:
            self.carry("ipTc", self._bytes(self.metadata[Tag.IPTC]))
        if Tag.PHOTOSHOP in self.metadata:
            # The block begins as in a JPEG, so that writers need not know where it is from.
            self.carry("psIr", b"Photoshop 3.0\0" + self._bytes(self.metadata[Tag.PHOTOSHOP]))
        if Tag.ICC in self.metadata:
            self.fields["icc"] = self._bytes(self.metadata[Tag.ICC])
        self._resolution()
        texts = {tag: entry for tag, entry in self.metadata.items() if tag in TEXTS}
        if not (texts or self.exif or self.gps):
            return
        try:
            content = tiff_metadata.exif_block(self.data, self.order, texts, self.exif, self.gps)
        except ValueError as error:
            self.keep_for(Reason.METADATA, str(error))
            return
        self.blocks.insert(0, MetadataBlock("exIf", content))

    def _resolution(self) -> None:
        tags = (Tag.X_RESOLUTION, Tag.Y_RESOLUTION)
        if not any(tag in self.metadata for tag in tags):
            return
        values = []
        for tag in tags:
            entry = self.metadata.get(tag)
            if entry is None or entry.kind != 5 or entry.count != 1:
                self.keep_for(Reason.METADATA, "a resolution that is not two fractions")
                return
            values.append(struct.unpack_from(f"{self.order}II", self.data, entry.offset))
        unit = self._number(self.metadata, Tag.RESOLUTION_UNIT, 2)
        if unit not in (1, 2, 3):
            self.keep_for(Reason.METADATA, "an unknown unit of resolution")
            return
        self.carry("phYs", resolution(unit - 1, values[0], values[1]))  # phYs counts units from 0

    def _bytes(self, entry: DirectoryEntry) -> bytes:
        return self.data[entry.offset : entry.offset + entry.size]

    def _numbers(self, entry: DirectoryEntry) -> list[int]:
        """The values of a list. Raises Broken if they are not integers, or too many in all directories together."""
        if entry.kind not in INTEGERS or entry.count > MOST_VALUES:
            raise Broken(f"tag {entry.tag} is not a list of numbers")
        self.values += entry.count
        if self.values > 2 * MOST_VALUES:
            raise Broken("too many lists of numbers")
        return list(struct.unpack_from(f"{self.order}{entry.count}{FORMATS[entry.kind]}", self.data, entry.offset))

    def _optional_numbers(self, entries: dict[int, DirectoryEntry], tag: int, default: list[int]) -> list[int]:
        if tag not in entries:
            return default
        return self._numbers(entries[tag])

    def _number(self, entries: dict[int, DirectoryEntry], tag: int, default: int) -> int:
        """The first value of a tag; the default if it is absent or not an integer."""
        found = entries.get(tag)
        if found is None or found.kind not in INTEGERS or not found.count:
            return default
        return int(struct.unpack_from(f"{self.order}{FORMATS[found.kind]}", self.data, found.offset)[0])
