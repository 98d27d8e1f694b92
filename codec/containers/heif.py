"""HEIF, HEIC and AVIF (ISO/IEC 23008-12:2022; AV1 Image File Format 1.1): each item's role for the main picture."""

import struct

from codec.containers.bmff import Box, boxes
from codec.containers.builder import Broken
from codec.containers.heif_items import FILLERS, MOST_ITEMS, HeifItem, ItemReader
from codec.containers.reasons import Reason
from codec.containers.structure import Role, Structure

CODED = {b"hvc1", b"av01", b"hev1"}
DERIVED = {b"grid", b"iden", b"tmap"}
UNREAD = {b"avc1", b"j2k1", b"jpeg", b"unci", b"vvc1", b"evc1", b"lhv1", b"iovl", b"mski"}
PICTURES = CODED | DERIVED | UNREAD
TRANSFORMATIONS = (b"irot", b"imir", b"clap")
ALPHA = ("urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", "urn:mpeg:hevc:2015:auxid:1")
MOST_STEPS = 100_000
"""Upper bound on references followed in a file, since pictures may share their tiles."""
SEQUENCES = {b"hevc", b"hevx", b"avis", b"msf1"}
STILLS = {b"mif1", b"heic", b"heix", b"avif"}
UPRIGHT = [1, 8, 3, 6]
"""EXIF's orientation for 0 to 3 quarter turns counterclockwise."""
MIRRORED = {(0, 1): 2, (1, 1): 7, (2, 1): 4, (3, 1): 5, (0, 0): 4, (1, 0): 5, (2, 0): 2, (3, 0): 7}
"""EXIF's orientation for quarter turns, then a mirror: axis 1 is left to right, 0 is top to bottom."""


def read(data: bytes) -> Structure:
    """The parts of a HEIF or AVIF file; the bytes begin with an ftyp box that names such a brand."""
    reader = _HeifReader(data)
    try:
        reader.boxes()
        reader.judge()
    except Broken as broken:
        reader.damage.append(str(broken))
    # After judge: items may lie anywhere in the file, and only the rest is a trailer.
    if reader.whole < len(data):
        reader.behind(reader.whole)
    return reader.build()


class _HeifReader(ItemReader):
    def __init__(self, data: bytes) -> None:
        if data[8:12] in (b"avif", b"avis"):
            super().__init__(data, "AVIF", "image/avif")
        else:
            super().__init__(data, "HEIF", "image/heic")
        self.whole = len(data)
        """Offset after the last whole box."""
        self.steps = 0
        self.transparent = False

    def boxes(self) -> None:
        """Walks the top level. Bytes after the last whole box are a trailer."""
        listed = False
        position = 0
        try:
            for box in boxes(self.data, 0, len(self.data)):
                if box.kind == b"meta" and not listed:
                    listed = True
                    self.part(box.offset, box.body + 4 - box.offset, "meta", Role.SILENT)
                    self.read_meta(box)
                else:
                    self._box(box)
                position = box.end
        except Broken:
            # What follows the picture and is no box is a trailer; without a picture it is damage.
            if not position or not self.items:
                raise
            self.whole = position
        if not listed:
            raise Broken("no list of items")

    def _box(self, box: Box) -> None:
        """Names a top-level box other than meta."""
        length = box.end - box.offset
        head = box.body - box.offset
        content = self.data[box.body : box.body + 4096]
        if box.kind == b"ftyp" and box.offset == 0:
            self._brands(content)
            self.part(box.offset, length, box.name, Role.SILENT)
        elif box.kind == b"mdat":
            # Only its head: the items name their own bytes, and bytes of no item stay unaccounted.
            self.part(box.offset, head, box.name, Role.SILENT)
        elif box.kind in FILLERS:
            empty = self.data.count(0, box.body, box.end) == box.end - box.body
            self.part(box.offset, length, box.name, Role.SILENT if empty else Role.TRAILER)
        elif box.kind == b"moov":
            self.part(box.offset, length, box.name, Role.FRAMES)
        elif box.kind == b"uuid" and b"c2pa" in content[:64]:
            self.part(box.offset, length, "C2PA", Role.CREDENTIALS)
        elif box.kind == b"mpvd":  # the video of a motion photo (Android's Motion Photo format 1.0)
            self.part(box.body, box.end - box.body, "film", Role.MOTION)
            self.part(box.offset, head, box.name, Role.SILENT)
        else:
            self.keep_for(Reason.METADATA, f"unknown box {box.name}")
            self.part(box.offset, length, box.name, Role.UNACCOUNTED)

    def _brands(self, content: bytes) -> None:
        """Keeps a file whose brands promise a sequence: as the major one, or without any of a still picture."""
        brands = {content[position : position + 4] for position in range(0, len(content), 4)}
        major = content[:4]
        no_still = brands & SEQUENCES and not brands & STILLS
        if major in SEQUENCES or no_still:
            self.keep_for(Reason.FRAMES, "a sequence of pictures")

    def judge(self) -> None:
        """Assigns each item its role for the primary item."""
        primary = self.items.get(self.primary)
        if primary is None:
            raise Broken("its primary item is missing")
        if primary.kind not in CODED | {b"grid", b"iden"}:
            self.keep_for(Reason.UNSUPPORTED, f"a primary item of type {primary.kind.decode('latin-1')}")
        pixels = self._pieces(primary)
        self._size(primary)
        for number in sorted(pixels):
            self._pixels(self.items[number])
        named = set(pixels)
        for item in self.items.values():
            if item.number in named or item.kind not in PICTURES:
                continue
            pieces = self._pieces(item) - named
            if self._further(item, pieces, pixels):
                named |= pieces
        for item in self.items.values():
            if item.number not in named:
                self._other(item, pixels)

    def _further(self, item: HeifItem, pieces: set[int], pixels: set[int]) -> bool:
        """Names the pieces of a picture that belongs to the main one; False if it does not."""
        about = {kind for kind, targets in item.references if not pixels.isdisjoint(targets)}
        auxiliary = _auxiliary_type(item)
        area = self.fields["width"] * self.fields["height"]
        if auxiliary in ALPHA and b"auxl" in about:
            self._alpha(pieces)
        elif item.kind == b"tmap" or (auxiliary and b"auxl" in about):
            self._auxiliary(pieces, auxiliary or "tmap")
        elif b"thmb" in about and 0 < self._area(item) < area:
            # Previews may be left out, so a "thumbnail" that is no smaller than the picture is not one.
            for number in sorted(pieces):
                self._name(self.items[number], Role.PREVIEW)
        else:
            return False
        return True

    def _pieces(self, item: HeifItem) -> set[int]:
        """Collects the items that a picture consists of, including itself. Raises Broken if one is missing."""
        seen = {item.number}
        waiting = [item]
        while waiting:
            owner = waiting.pop()
            for kind, targets in owner.references:
                if kind != b"dimg" or owner.kind not in DERIVED:
                    continue
                self.steps += len(targets)
                if self.steps > MOST_STEPS:
                    raise Broken("a picture composed of too many items")
                for target in targets:
                    if target not in self.items or len(seen) > MOST_ITEMS:
                        raise Broken(f"item {target}, used by item {owner.number}, is missing")
                    if target not in seen:  # references may form a cycle
                        seen.add(target)
                        waiting.append(self.items[target])
        return seen

    def _name(self, item: HeifItem, role: Role) -> None:
        for offset, length in item.extents:
            self.part(offset, length, f"item {item.number} {item.kind.decode('latin-1')}", role)

    def _content(self, item: HeifItem) -> bytes:
        return b"".join(self.data[offset : offset + length] for offset, length in item.extents)

    def _area(self, item: HeifItem) -> int:
        """Pixels of an item; 0 without a size."""
        size = item.get(b"ispe") or b""
        if len(size) < 12:
            return 0
        width, height = struct.unpack_from(">II", size, 4)
        return int(width * height)

    def _alpha(self, numbers: set[int]) -> None:
        if self.transparent:
            self.irregular.append("several alpha planes")
        self.transparent = True
        for number in sorted(numbers):
            self._name(self.items[number], Role.PIXELS)
            if self._bits(self.items[number]) > 8:
                self.keep_for(Reason.DEPTH, "transparency of more than 8 bits")

    def _auxiliary(self, numbers: set[int], name: str) -> None:
        """Carries a gain map, a depth map or a matte: one box per item, with its properties, references and bytes."""
        content = b""
        for number in sorted(numbers):
            item = self.items[number]
            self._name(item, Role.AUXILIARY)
            properties = b"".join(_box(kind, own) for kind, own in item.properties)
            references = b""
            for kind, targets in item.references:
                references += _box(kind, struct.pack(f">{len(targets)}I", *targets))
            about = struct.pack(">I", number) + item.kind + _box(b"iprp", properties) + _box(b"iref", references)
            content += _box(b"item", about + _box(b"idat", self._content(item)))
        self.carry("auXP", f"{name} (HEIF)".encode() + b"\0" + content)

    def _other(self, item: HeifItem, pixels: set[int]) -> None:
        """Names an item that is not a picture: metadata of the primary item, or unknown metadata."""
        if item.kind in PICTURES:
            self._name(item, Role.FRAMES)
            return
        # Metadata of another picture, such as the thumbnail, must not become that of the main one.
        described = any(kind == b"cdsc" and not pixels.isdisjoint(targets) for kind, targets in item.references)
        self._name(item, Role.METADATA)
        content = self._content(item)
        if item.kind == b"Exif" and described and len(content) > 4:
            skipped = int.from_bytes(content[:4], "big")  # offset of the TIFF header (ISO/IEC 23008-12, A.2.1)
            self.carry("exIf", content[4 + skipped :])
            if content[4 : 4 + skipped] not in (b"", b"Exif\0\0"):
                self.keep_for(Reason.METADATA, "bytes before its EXIF block")
        elif item.kind == b"mime" and item.content_type == "application/rdf+xml" and described and not item.packed:
            self.carry("xmPp", content)
        else:
            self.unknown(f"HEIF {item.kind.decode('latin-1')} {item.content_type}", content)

    def _size(self, item: HeifItem) -> None:
        """Size, colors and orientation of the primary item, and what in them keeps the file whole."""
        size = item.get(b"ispe")
        if size is None or len(size) < 12:
            raise Broken("an item without a size")
        width, height = struct.unpack_from(">II", size, 4)
        self.fields |= {"width": width, "height": height}
        self._color(item)
        self._orientation(item)
        if item.get(b"clap"):
            self.keep_for(Reason.UNSUPPORTED, "a clean aperture: viewers crop the picture")
        spacing = item.get(b"pasp")
        if spacing and spacing[:4] != spacing[4:8]:
            self.keep_for(Reason.UNSUPPORTED, "non-square pixels")
        _, _, _, full_range = self.fields.get("cicp", (0, 0, 0, True))
        if self._monochrome(item) and full_range is False:
            self.keep_for(Reason.COLORS, "gray in limited range")
        if item.get(b"clli") or item.get(b"mdcv") or item.get(b"cclv"):
            self.keep_for(Reason.COLORS, "high dynamic range")

    def _orientation(self, item: HeifItem) -> None:
        turns = item.get(b"irot")
        quarter = turns[0] & 3 if turns else 0
        mirror = item.get(b"imir")
        if not mirror:
            self.fields["orientation"] = UPRIGHT[quarter]
            return
        self.fields["orientation"] = MIRRORED[quarter, mirror[0] & 1]
        # MIRRORED is for a turn first; properties apply in the order in which they are listed.
        order = [kind for kind, _ in item.properties if kind in (b"irot", b"imir")]
        if order == [b"imir", b"irot"]:
            self.keep_for(Reason.IRREGULAR, "a mirror before a turn")

    def _color(self, item: HeifItem) -> None:
        for kind, content in item.properties:
            if kind == b"colr" and content[:4] == b"nclx" and len(content) >= 11:
                primaries, transfer, matrix = struct.unpack_from(">HHH", content, 4)
                self.fields["cicp"] = (primaries, transfer, matrix, bool(content[10] & 0x80))
            elif kind == b"colr" and content[:4] in (b"prof", b"rICC"):
                self.fields["icc"] = content[4:]

    def _pixels(self, item: HeifItem) -> None:
        self._name(item, Role.PIXELS)
        # The brand does not say which decoder is needed.
        if item.kind == b"av01":
            self.container = "AVIF"
            self.media_type = "image/avif"
        elif item.kind in CODED:
            self.container = "HEIF"
            self.media_type = "image/heic"
        if not item.extents:
            self.damage.append(f"item {item.number} has no bytes")
        if item.number != self.primary and any(item.get(kind) for kind in TRANSFORMATIONS):
            self.keep_for(Reason.UNSUPPORTED, "a rotated or cropped tile")
        bits = self._bits(item)
        self.fields["bits"] = max(self.fields.get("bits", 8), bits)
        if bits > 8:
            self.keep_for(Reason.DEPTH, f"samples of {bits} bits")
        if item.kind in UNREAD:
            self.keep_for(Reason.UNSUPPORTED, f"items of type {item.kind.decode('latin-1')}")

    def _bits(self, item: HeifItem) -> int:
        """Bits per sample from the item's decoder configuration and its pixi property; the larger if they differ."""
        bits = 8
        hevc = item.get(b"hvcC") or b""
        if len(hevc) >= 19:  # luma and chroma, each minus 8 (ISO/IEC 14496-15)
            bits = 8 + max(hevc[17] & 7, hevc[18] & 7)
        av1 = item.get(b"av1C") or b""
        if len(av1) >= 3:  # flags high_bitdepth and twelve_bit (AV1 in ISOBMFF, section 2.3)
            high = av1[2] & 0x40
            twelve = av1[2] & 0x20
            if not high:
                bits = 8
            elif twelve:
                bits = 12
            else:
                bits = 10
        channels = item.get(b"pixi") or b""
        if len(channels) > 5:
            count = channels[4]
            bits = max([bits, *channels[5 : 5 + count]])
        return bits

    def _monochrome(self, item: HeifItem) -> bool:
        """Whether a coded picture, or its first tile, is monochrome."""
        coded = self.items.get(_first_tile(item), item)
        hevc = coded.get(b"hvcC") or b""
        if len(hevc) > 16 and not hevc[16] & 3:  # chroma format 0
            return True
        av1 = coded.get(b"av1C") or b""
        return len(av1) > 2 and bool(av1[2] & 0x10)


def _first_tile(item: HeifItem) -> int:
    """The first item from which a picture is derived; its own number if there is none."""
    for kind, targets in item.references:
        if kind == b"dimg" and targets:
            return targets[0]
    return item.number


def _auxiliary_type(item: HeifItem) -> str:
    """The type in an item's auxC property, a text that ends with a zero; empty if there is none."""
    content = item.get(b"auxC") or b""
    return content[4:].split(b"\0")[0].decode("latin-1")


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content
