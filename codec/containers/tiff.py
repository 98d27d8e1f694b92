"""TIFF and BigTIFF (TIFF 6.0; Adobe's supplements; EXIF 3.0): every directory, every value, every strip."""

import struct
from typing import Any

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

MOST_DIRECTORIES, MOST_ENTRIES, MOST_VALUES = 200, 2000, 2_000_000
LONG8_SIZES = {**SIZES, 16: 8, 17: 8, 18: 8}
FORMATS = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 6: "b", 7: "B", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 13: "I"}
FORMATS |= {16: "Q", 17: "q", 18: "Q"}
COMPRESSIONS = {1, 2, 3, 4, 5, 7, 8, 32773, 32946, 34925, 50000, 50001}
"""Supported compressions: none, CCITT, LZW, JPEG, deflate, PackBits, LZMA, Zstandard, WebP."""
PALETTE, JPEG, YCBCR, MOST_PLANES = 3, 7, 6, 64
POINTERS = (4, 13, 16, 18)
HIDDEN = (Role.UNACCOUNTED, Role.TRAILER, Role.MOTION, Role.CREDENTIALS, Role.FRAMES, Role.PREVIEW)
PHOTOMETRICS = {0, 1, 2, 3, 6}
CFA, LINEAR_RAW = 32803, 34892


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
            (position,) = unpack(f"{self.order}{'Q' if self.big else 'I'}", self.data, 8 if self.big else 4)
            while position:
                position = self._directory(position, f"IFD{self.pages}", chained=True)
        except Broken as broken:
            self.damage.append(str(broken))
        if not self.pages:
            self.damage.append("no picture")
        if self.pages:
            self._carry()
        self.behind(max(part.offset + part.length for part in self.parts))

    def _directory(self, position: int, name: str, *, chained: bool) -> int:
        """Reads a picture's directory. Returns the offset of the next one in the chain."""
        entries, following = self._entries(position, name)
        number = self.pages
        self.pages += chained
        kind = self._number(entries, Tag.NEW_SUBFILE_TYPE, 0)
        if Tag.DNG_VERSION in entries:
            self.container, self.media_type = "DNG", "image/x-adobe-dng"
        if MARKS_OF_RAW & set(entries) or self._number(entries, Tag.PHOTOMETRIC, 0) in (CFA, LINEAR_RAW):
            self.keep_for(Reason.RAW, "a camera's raw file")
        main = chained and number == 0
        if main and kind & 1:
            self.keep_for(Reason.RAW, "its first picture is a preview")
        if main:
            self._main(entries)
            self.metadata = entries
        area = self._number(entries, Tag.WIDTH, 0) * self._number(entries, Tag.HEIGHT, 0)
        smaller = kind == 1 and area < self.fields["width"] * self.fields["height"]
        role = Role.PIXELS if main else Role.PREVIEW if smaller else Role.FRAMES
        if role is Role.FRAMES:
            self.keep_for(Reason.FRAMES, f"{name} is a further picture")
        self._strips(entries, name, role)
        self._plain(entries, name)
        for entry in (entries[tag] for tag in (Tag.SUB_IFDS,) if tag in entries):
            for child, offset in enumerate(self._numbers(entry)[:MOST_DIRECTORIES]):
                self._directory(offset, f"{name} SubIFD{child}", chained=False)
        for tag in {Tag.EXIF, Tag.GPS} & set(entries):
            if entries[tag].kind not in POINTERS or entries[tag].count != 1:
                self.keep_for(Reason.METADATA, f"tag {tag} of {name} is not an offset")
        if Tag.EXIF in entries:
            found, _ = self._entries(self._number(entries, Tag.EXIF, 0), f"{name} Exif")
            self.exif = found if main else self.exif
            if Tag.INTEROPERABILITY in found:
                self._entries(self._number(found, Tag.INTEROPERABILITY, 0), f"{name} Interoperability")
        if Tag.GPS in entries:
            found, _ = self._entries(self._number(entries, Tag.GPS, 0), f"{name} GPS")
            self.gps = found if main else self.gps
        if not main and role is not Role.FRAMES and set(entries) - PICTURE - SILENT - {Tag.NEW_SUBFILE_TYPE}:
            self.keep_for(Reason.METADATA, f"{name} has metadata of its own")
        return following

    def _entries(self, position: int, name: str) -> tuple[dict[int, DirectoryEntry], int]:
        """The entries of a directory by tag, and the offset of the next directory."""
        if position in self.visited or len(self.visited) >= MOST_DIRECTORIES:
            raise Broken(f"{name} at byte {position} is part of a cycle, or exceeds the limit of directories")
        self.visited.add(position)
        size, head, width = (8, 8, 20) if self.big else (4, 2, 12)
        count = int(unpack(f"{self.order}{'Q' if self.big else 'H'}", self.data, position)[0])
        if count > MOST_ENTRIES:
            raise Broken(f"{name} has {count} entries")
        entries: dict[int, DirectoryEntry] = {}
        for number in range(count):
            start = position + head + width * number
            tag, kind, values = unpack(f"{self.order}HH{'Q' if self.big else 'I'}", self.data, start)
            length = LONG8_SIZES.get(kind, 0) * values
            offset = start + 4 + size
            if length > size:
                (offset,) = unpack(f"{self.order}{'Q' if self.big else 'I'}", self.data, offset)
                if offset + length > len(self.data):
                    raise Broken(f"tag {tag} of {name} exceeds the file")
                self.part(offset, length, f"{name} tag {tag}", Role.METADATA)
            if kind not in LONG8_SIZES:
                self.keep_for(Reason.METADATA, f"tag {tag} of {name} has the unknown type {kind}")
            if tag in entries:
                self.keep_for(Reason.METADATA, f"{name} has tag {tag} twice")
            entries[tag] = DirectoryEntry(tag, kind, values, offset, length)
        end = position + head + width * count
        (following,) = unpack(f"{self.order}{'Q' if self.big else 'I'}", self.data, end)
        self.part(position, end + size - position, name, Role.METADATA)
        return entries, int(following)

    def _strips(self, entries: dict[int, DirectoryEntry], name: str, role: Role) -> None:
        """Name the strips or tiles of a picture."""
        found = False
        for offsets, lengths in Tag.PLACES:
            if offsets in entries and lengths in entries:
                positions, sizes = self._numbers(entries[offsets]), self._numbers(entries[lengths])
                if len(positions) != len(sizes):
                    raise Broken(f"{name} has {len(positions)} strips and {len(sizes)} lengths")
                if sum(sizes) > 2 * len(self.data):
                    raise Broken(f"overlapping strips of {name}")
                self._amount(entries, name, len(positions), sum(sizes))
                for position, size in zip(positions, sizes, strict=True):
                    if position + size > len(self.data):
                        raise Broken(f"a strip of {name} reaches beyond the end of the file")
                    self.part(position, size, f"{name} pixels", role)
                    if self._number(entries, Tag.COMPRESSION, 1) == JPEG:
                        self._inside(self.data[position : position + size], name)
                found = True
            elif offsets in entries or lengths in entries:
                self.irregular.append(f"strips of {name} without offsets or lengths")
                found = True
        if not found and role is Role.PIXELS:
            raise Broken(f"{name} has no strips")

    def _amount(self, entries: dict[int, DirectoryEntry], name: str, count: int, size: int) -> None:
        """Checks number and size of strips or tiles, so that nothing else can hide in uncompressed ones."""
        number = self._number
        width, height = number(entries, Tag.WIDTH, 0), number(entries, Tag.HEIGHT, 0)
        across, down = number(entries, Tag.TILE_WIDTH, width), number(entries, Tag.TILE_HEIGHT, height)
        samples = number(entries, Tag.SAMPLES, 1)
        bits = self._numbers(entries[Tag.BITS]) if Tag.BITS in entries else [1]
        planes = [bits[:1]] * samples if number(entries, Tag.PLANAR, 1) == 2 else [(bits * samples)[:samples]]
        if not across or not down or len(planes) > MOST_PLANES:
            raise Broken(f"{name} has tiles of {across} x {down} pixels in {len(planes)} planes")
        tiles = -(-width // across) * -(-height // down)
        rows = min(number(entries, Tag.ROWS, height), height) or 1
        strips = tiles if Tag.TILE_WIDTH in entries else -(-height // rows)
        if count != strips * len(planes):
            self.irregular.append(f"{name} has {count} strips or tiles instead of {strips * len(planes)}")
        if number(entries, Tag.COMPRESSION, 1) != 1 or number(entries, Tag.PHOTOMETRIC, 0) == YCBCR:
            return
        due = sum(tiles * down * -(-across * sum(plane) // 8) for plane in planes)
        if size < due:
            self.damage.append(f"{name} has {size} of {due} bytes of pixels")
        elif size > due:
            self.irregular.append(f"{name} has {size} bytes of pixels instead of {due}")

    def _plain(self, entries: dict[int, DirectoryEntry], name: str) -> None:
        """Checks type and count of tags about pixels, so that nothing else can hide in them."""
        samples, bits = self._number(entries, Tag.SAMPLES, 1), self._number(entries, Tag.BITS, 1)
        for tag in sorted(set(entries) & (PICTURE | SILENT)):
            kind, count = entries[tag].kind, entries[tag].count
            due = samples if tag in A_SAMPLE else COUNTS.get(tag, 1)
            if tag == Tag.COLOR_MAP:
                due = 3 << min(bits, 8) if self._number(entries, Tag.PHOTOMETRIC, 0) == PALETTE else 0
            if tag == Tag.JPEG_TABLES and self._number(entries, Tag.COMPRESSION, 1) == JPEG:
                self._inside(self.data[entries[tag].offset : entries[tag].offset + entries[tag].size], name)
            elif tag in COLORS_OF_YCBCR and self._number(entries, Tag.PHOTOMETRIC, 0) != YCBCR:
                self.keep_for(Reason.METADATA, f"tag {tag} of {name}, which does not apply to its color model")
            elif tag not in LISTS - {Tag.JPEG_TABLES} and (kind not in NUMBERS.get(tag, (1, 3, 4, 16)) or count > due):
                self.keep_for(Reason.METADATA, f"tag {tag} of {name} has {count} values of type {kind}")

    def _inside(self, strip: bytes, name: str) -> None:
        """Keeps the file whole if a JPEG-coded strip has metadata segments, which cannot be carried."""
        inner = jpeg.read(strip)
        if any(block.tag != "phYs" for block in inner.blocks) or any(part.role in HIDDEN for part in inner.parts):
            self.keep_for(Reason.METADATA, f"metadata in a strip of {name}")

    def _main(self, entries: dict[int, DirectoryEntry]) -> None:
        """Describes the first picture, and whether its pixels can be compressed."""
        number = self._number
        width, height = number(entries, Tag.WIDTH, 0), number(entries, Tag.HEIGHT, 0)
        bits = max(self._numbers(entries[Tag.BITS]), default=1) if Tag.BITS in entries else 1
        samples = number(entries, Tag.SAMPLES, 1)
        photometric = number(entries, Tag.PHOTOMETRIC, 1)
        self.fields |= {"width": width, "height": height, "bits": bits}
        turned = number(entries, Tag.ORIENTATION, 1)
        self.fields["orientation"] = turned if 1 <= turned <= 8 else 1
        if bits > 8:
            self.keep_for(Reason.DEPTH, f"samples of {bits} bits")
        formats = self._numbers(entries[Tag.SAMPLE_FORMAT]) if Tag.SAMPLE_FORMAT in entries else [1]
        if set(formats) != {1}:
            self.keep_for(Reason.COLORS, "signed, floating-point or undefined samples")
        extra = self._numbers(entries[Tag.EXTRA_SAMPLES]) if Tag.EXTRA_SAMPLES in entries else []
        colors = {2: 3, 6: 3}.get(photometric, 1)
        if photometric not in PHOTOMETRICS:
            self.keep_for(Reason.COLORS, f"color model {photometric}")
        elif samples != colors + len(extra) or len(extra) > 1 or any(kind not in (1, 2) for kind in extra):
            self.keep_for(Reason.COLORS, f"{samples} samples per pixel, {colors} of them colors")
        compression = number(entries, Tag.COMPRESSION, 1)
        if compression not in COMPRESSIONS:
            self.keep_for(Reason.UNSUPPORTED, f"compression {compression}")

    def _carry(self) -> None:
        """Carries the metadata of the first picture, or records what cannot be carried."""
        private = {tag for tag in self.metadata if tag not in PICTURE | SILENT | TEXTS | Tag.CARRIED}
        for tags, what in ((GEOGRAPHIC, "a georeference"), (LAYERS, "layers")):
            if private & tags:
                self.keep_for(Reason.METADATA, what)
        if rest := sorted(private - GEOGRAPHIC - LAYERS):
            self.keep_for(Reason.METADATA, f"private tags {', '.join(map(str, rest[:5]))}")
        for tag, block in ((Tag.XMP, "xmPp"), (Tag.IPTC, "ipTc"), (Tag.PHOTOSHOP, "psIr")):
            if tag in self.metadata:
                content = self._bytes(self.metadata[tag])
                self.carry(block, b"Photoshop 3.0\0" + content if block == "psIr" else content)
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
        values = []
        tags = (Tag.X_RESOLUTION, Tag.Y_RESOLUTION)
        if not any(tag in self.metadata for tag in tags):
            return
        for tag in tags:
            if tag not in self.metadata or self.metadata[tag].kind != 5 or self.metadata[tag].count != 1:
                self.keep_for(Reason.METADATA, "a resolution that is not two fractions")
                return
            values.append(struct.unpack_from(f"{self.order}II", self.data, self.metadata[tag].offset))
        unit = {1: 0, 2: 1, 3: 2}.get(self._number(self.metadata, Tag.RESOLUTION_UNIT, 2))
        if unit is None:
            self.keep_for(Reason.METADATA, "an unknown unit of resolution")
        else:
            self.carry("phYs", resolution(unit, values[0], values[1]))

    def _bytes(self, entry: DirectoryEntry) -> bytes:
        return self.data[entry.offset : entry.offset + entry.size]

    def _numbers(self, entry: DirectoryEntry) -> list[int]:
        if entry.kind not in (1, 3, 4, 13, 16, 18) or entry.count > MOST_VALUES:
            raise Broken(f"tag {entry.tag} is not a list of numbers")
        self.values += entry.count
        if self.values > 2 * MOST_VALUES:
            raise Broken("too many lists of numbers")
        return list(struct.unpack_from(f"{self.order}{entry.count}{FORMATS[entry.kind]}", self.data, entry.offset))

    def _number(self, entries: dict[int, DirectoryEntry], tag: int, default: int) -> int:
        found: Any = entries.get(tag)
        if found is None or found.kind not in (1, 3, 4, 13, 16, 18) or not found.count:
            return default
        return int(struct.unpack_from(f"{self.order}{FORMATS[found.kind]}", self.data, found.offset)[0])
