"""HEIF, HEIC and AVIF (ISO/IEC 23008-12:2022; AV1 Image File Format 1.1): items, their properties and their bytes."""

import struct
from collections import defaultdict
from dataclasses import dataclass, field

from codec.containers.bmff import Box, boxes, children
from codec.containers.builder import Broken, Builder, unpack
from codec.containers.reasons import Reason
from codec.containers.structure import Role, Structure

CODED = {b"hvc1", b"av01", b"hev1"}
DERIVED = {b"grid", b"iden"}
UNREAD = {b"avc1", b"j2k1", b"jpeg", b"unci", b"vvc1", b"evc1", b"lhv1", b"iovl", b"mski"}
ALPHA = ("urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", "urn:mpeg:hevc:2015:auxid:1")
KNOWN_PROPERTIES = {b"ispe", b"hvcC", b"av1C", b"pixi", b"colr", b"irot", b"imir", b"auxC", b"pasp", b"clap"} | {
    b"clli",
    b"mdcv",
    b"lsel",
    b"a1op",
    b"a1lx",
    b"rloc",
    b"cclv",
    b"amve",
}
SILENT_BOXES = {b"free", b"skip"}
SILENT_IN_META = {b"hdlr", b"pitm", b"iinf", b"iloc", b"iprp", b"iref", b"idat", b"dinf", b"grpl", b"free", b"skip"}
SEQUENCES = {b"hevc", b"hevx", b"avis", b"msf1"}
STEREO_GROUPS = {b"altr", b"ster", b"brst", b"eqiv"}
UPRIGHT = [1, 8, 3, 6]
"""EXIF's orientation for 0 to 3 quarter turns counterclockwise."""
MIRRORED = {(0, 1): 2, (1, 1): 7, (2, 1): 4, (3, 1): 5, (0, 0): 4, (1, 0): 5, (2, 0): 2, (3, 0): 7}
"""EXIF's orientation for quarter turns, then a mirror: axis 1 is left to right, 0 is top to bottom."""
MOST_ITEMS = 5000


@dataclass
class Item:
    """An item of the meta box."""

    number: int
    kind: bytes = b""
    content_type: str = ""
    hidden: bool = False
    extents: list[tuple[int, int]] = field(default_factory=list)
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    references: list[tuple[bytes, list[int]]] = field(default_factory=list)

    def get(self, kind: bytes) -> bytes | None:
        """The content of its first property of a kind."""
        return next((content for own, content in self.properties if own == kind), None)


def read(data: bytes) -> Structure:
    """The parts of a HEIF or AVIF file; the bytes begin with an ftyp box that names such a brand."""
    reader = _Reader(data)
    try:
        reader.boxes()
        reader.judge()
    except Broken as broken:
        reader.damage.append(str(broken))
    return reader.build()


class _Reader(Builder):
    def __init__(self, data: bytes) -> None:
        avif = data[8:12] in (b"avif", b"avis")
        super().__init__(data, "AVIF" if avif else "HEIF", "image/avif" if avif else "image/heic")
        self.items: dict[int, Item] = {}
        self.primary = 0
        self.inline = 0, 0

    def boxes(self) -> None:
        """Walk the top level."""
        meta = None
        for box in boxes(self.data, 0, len(self.data)):
            if box.kind == b"ftyp":
                self.part(box.offset, box.end - box.offset, "ftyp", Role.SILENT)
                self._brands(self.data[box.body : box.end])
            elif box.kind == b"meta" and meta is None:
                meta = box
                self.part(box.offset, box.body + 4 - box.offset, "meta", Role.SILENT)
                self._meta(box)
            elif box.kind == b"mdat":
                self.part(box.offset, box.body - box.offset, "mdat", Role.SILENT)
            elif box.kind in SILENT_BOXES:
                self.part(box.offset, box.end - box.offset, box.name, Role.SILENT if self._empty(box) else Role.TRAILER)
            elif box.kind == b"moov":
                self.part(box.offset, box.end - box.offset, "moov", Role.FRAMES)
            elif box.kind == b"uuid" and b"c2pa" in self.data[box.body : box.body + 64]:
                self.part(box.offset, box.end - box.offset, "C2PA", Role.CREDENTIALS)
            elif box.kind == b"mpvd":
                self.part(box.offset, box.end - box.offset, "film", Role.MOTION)
            else:
                self.part(box.offset, box.end - box.offset, f"box {box.name}", Role.UNACCOUNTED)
                self.keep_for(Reason.METADATA, f"unknown box {box.name}")
        if meta is None:
            raise Broken("no list of items")

    def _empty(self, box: Box) -> bool:
        return not any(self.data[box.body : box.end])

    def _brands(self, content: bytes) -> None:
        brands = {content[place : place + 4] for place in range(0, len(content), 4)}
        if content[:4] in SEQUENCES or (brands & SEQUENCES and not brands & {b"mif1", b"heic", b"heix", b"avif"}):
            self.keep_for(Reason.FRAMES, "a sequence of pictures")

    def _meta(self, meta: Box) -> None:
        found = {}
        for box in children(self.data, meta, full=True):
            silent = box.kind in SILENT_IN_META
            if box.kind != b"idat":
                self.part(box.offset, box.end - box.offset, box.name, Role.SILENT if silent else Role.UNACCOUNTED)
            if not silent:
                self.keep_for(Reason.METADATA, f"unknown box {box.name} in its list of items")
            found[box.kind] = box
        for kind in (b"pitm", b"iinf", b"iloc", b"iprp"):
            if kind not in found:
                raise Broken(f"no box {kind.decode()}")
        if b"idat" in found:
            box = found[b"idat"]
            self.inline = box.body, box.end
            self.part(box.offset, box.body - box.offset, "idat", Role.SILENT)
        version = self.data[found[b"pitm"].body]
        (self.primary,) = unpack(">I" if version else ">H", self.data, found[b"pitm"].body + 4)
        self._infos(found[b"iinf"])
        self._locations(found[b"iloc"])
        self._properties(found[b"iprp"])
        if b"iref" in found:
            self._references(found[b"iref"])
        if b"grpl" in found:
            for group in children(self.data, found[b"grpl"]):
                if group.kind not in STEREO_GROUPS:
                    self.keep_for(Reason.METADATA, f"a group {group.name}")
                elif group.kind != b"altr":
                    self.keep_for(Reason.FRAMES, f"a group {group.name} of pictures")

    def _infos(self, box: Box) -> None:
        version = self.data[box.body]
        for info in boxes(self.data, box.body + (8 if version else 6), box.end):
            own = self.data[info.body]
            (flags,) = unpack(">I", self.data, info.body)
            if own not in (2, 3):
                raise Broken(f"an item of version {own}")
            number, _, kind = unpack(">IH4s" if own == 3 else ">HH4s", self.data, info.body + 4)
            text = self.data[info.body + (14 if own == 3 else 12) : info.end].split(b"\0")
            content = text[1].decode("latin-1") if kind == b"mime" and len(text) > 1 else ""
            if len(self.items) >= MOST_ITEMS:
                raise Broken(f"more than {MOST_ITEMS} items")
            self.items[number] = Item(number, kind, content, bool(flags & 1))

    def _locations(self, box: Box) -> None:
        data, version = self.data, self.data[box.body]
        (sizes,) = unpack(">H", data, box.body + 4)
        offset_size, length_size, base_size, index_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15, sizes & 15
        place = box.body + 6
        (count,) = unpack(">I" if version == 2 else ">H", data, place)
        place += 4 if version == 2 else 2
        for _ in range(min(count, MOST_ITEMS)):
            (number,) = unpack(">I" if version == 2 else ">H", data, place)
            place += 4 if version == 2 else 2
            method = 0
            if version:
                method = unpack(">H", data, place)[0] & 15
                place += 2
            place += 2
            base, place = self._sized(place, base_size)
            (extents,) = unpack(">H", data, place)
            place += 2
            item = self.items.setdefault(number, Item(number))
            for _ in range(extents):
                if version:
                    _, place = self._sized(place, index_size)
                offset, place = self._sized(place, offset_size)
                length, place = self._sized(place, length_size)
                self._extent(item, method, base + offset, length)

    def _extent(self, item: Item, method: int, offset: int, length: int) -> None:
        limit = len(self.data)
        if method == 1:
            offset, limit = offset + self.inline[0], self.inline[1]
        elif method:
            self.keep_for(Reason.UNSUPPORTED, "an item made of another one")
            return
        if offset + length > limit:
            raise Broken(f"item {item.number} does not fit into the file")
        item.extents.append((offset, length or limit - offset))

    def _sized(self, place: int, size: int) -> tuple[int, int]:
        if place + size > len(self.data):
            raise Broken("a list of places that is cut short")
        return int.from_bytes(self.data[place : place + size], "big"), place + size

    def _properties(self, box: Box) -> None:
        found: list[tuple[bytes, bytes]] = []
        for part in children(self.data, box):
            if part.kind == b"ipco":
                found = [(own.kind, self.data[own.body : own.end]) for own in children(self.data, part)]
            elif part.kind == b"ipma":
                self._associations(part, found)

    def _associations(self, box: Box, found: list[tuple[bytes, bytes]]) -> None:
        version, wide = self.data[box.body], self.data[box.body + 3] & 1
        (count,) = unpack(">I", self.data, box.body + 4)
        place = box.body + 8
        for _ in range(min(count, MOST_ITEMS)):
            number, links = unpack(">IB" if version else ">HB", self.data, place)
            place += 5 if version else 3
            for _ in range(links):
                (value,) = unpack(">H" if wide else ">B", self.data, place)
                place += 2 if wide else 1
                index = value & (0x7FFF if wide else 0x7F)
                if index > len(found):
                    raise Broken(f"item {number} has a property that is not there")
                if index:
                    self.items.setdefault(number, Item(number)).properties.append(found[index - 1])

    def _references(self, box: Box) -> None:
        wide = self.data[box.body]
        for part in boxes(self.data, box.body + 4, box.end):
            source, count = unpack(">IH" if wide else ">HH", self.data, part.body)
            place = part.body + (6 if wide else 4)
            targets = unpack(f">{count}{'I' if wide else 'H'}", self.data, place)
            if source in self.items:
                self.items[source].references.append((part.kind, [int(target) for target in targets]))

    def judge(self) -> None:
        """Say what each item is to the primary one."""
        primary = self.items.get(self.primary)
        if primary is None or (primary.kind not in CODED | DERIVED and primary.kind not in UNREAD):
            raise Broken("its main picture is not there")
        pixels = self._tiles(primary, set())
        self._size(primary)
        for number in sorted(pixels):
            self._pixels(self.items[number])
        described = defaultdict(list)
        for item in self.items.values():
            for kind, targets in item.references:
                described[item.number].append((kind, targets))
        for item in self.items.values():
            if item.number not in pixels:
                self._other(item, described[item.number], pixels)
        for item in self.items.values():
            for kind, _ in item.properties:
                if kind not in KNOWN_PROPERTIES and item.number in pixels:
                    self.keep_for(Reason.METADATA, f"unknown property {kind.decode('latin-1')}")

    def _tiles(self, item: Item, seen: set[int]) -> set[int]:
        """The items that a picture is made of, itself included."""
        if item.number in seen or len(seen) > MOST_ITEMS:
            return seen
        seen.add(item.number)
        for kind, targets in item.references:
            if kind == b"dimg" and item.kind in DERIVED:
                for target in targets:
                    if target in self.items:
                        self._tiles(self.items[target], seen)
        return seen

    def _size(self, item: Item) -> None:
        size = item.get(b"ispe")
        if size is None or len(size) < 12:
            raise Broken("a picture without a size")
        width, height = struct.unpack_from(">II", size, 4)
        self.fields |= {"width": width, "height": height}
        turns, mirror = item.get(b"irot"), item.get(b"imir")
        quarter = turns[0] & 3 if turns else 0
        order = [kind for kind, _ in item.properties if kind in (b"irot", b"imir")]
        if mirror:
            self.fields["orientation"] = MIRRORED[quarter, mirror[0] & 1]
            if order == [b"imir", b"irot"]:
                self.keep_for(Reason.IRREGULAR, "a mirror before a turn")
        else:
            self.fields["orientation"] = UPRIGHT[quarter]
        if item.get(b"clap"):
            self.keep_for(Reason.UNSUPPORTED, "a clean aperture: viewers show a part of its pixels")
        spacing = item.get(b"pasp")
        if spacing and spacing[:4] != spacing[4:8]:
            self.keep_for(Reason.UNSUPPORTED, "pixels that are not square")
        if item.get(b"clli") or item.get(b"mdcv") or item.get(b"cclv"):
            self.keep_for(Reason.COLORS, "high dynamic range")
        self._color(item)

    def _color(self, item: Item) -> None:
        for kind, content in item.properties:
            if kind == b"colr" and content[:4] == b"nclx" and len(content) >= 11:
                primaries, transfer, matrix = struct.unpack_from(">HHH", content, 4)
                self.fields["cicp"] = (primaries, transfer, matrix, bool(content[10] & 0x80))
            elif kind == b"colr" and content[:4] in (b"prof", b"rICC"):
                self.fields["icc"] = content[4:]

    def _pixels(self, item: Item) -> None:
        role = Role.PIXELS
        for offset, length in item.extents:
            self.part(offset, length, f"item {item.number} {item.kind.decode('latin-1')}", role)
        bits = self._bits(item)
        self.fields["bits"] = max(self.fields.get("bits", 8), bits)
        if bits > 8:
            self.keep_for(Reason.DEPTH, f"samples of {bits} bits")
        if item.kind in UNREAD:
            self.keep_for(Reason.UNSUPPORTED, f"pictures of kind {item.kind.decode('latin-1')}")

    def _bits(self, item: Item) -> int:
        """Bits a sample, by the item's own configuration and its pixi property; the larger where they differ."""
        bits = 8
        if (configuration := item.get(b"hvcC")) and len(configuration) >= 19:
            bits = max(8 + (configuration[17] & 7), 8 + (configuration[18] & 7))
        if (configuration := item.get(b"av1C")) and len(configuration) >= 3:
            bits = 8 if not configuration[2] & 0x40 else 12 if configuration[2] & 0x20 else 10
        if (channels := item.get(b"pixi")) and len(channels) > 5:
            bits = max(bits, *channels[5 : 5 + channels[4]])
        return bits

    def _other(self, item: Item, links: list[tuple[bytes, list[int]]], pixels: set[int]) -> None:
        """Name an item that is no part of the main picture."""
        about = {kind for kind, targets in links if set(targets) & pixels}
        content = b"".join(self.data[offset : offset + length] for offset, length in item.extents)
        name = f"item {item.number} {item.kind.decode('latin-1')}"
        role = Role.METADATA
        auxiliary = (item.get(b"auxC") or b"")[4:].split(b"\0")[0].decode("latin-1")
        if item.kind == b"Exif" and b"cdsc" in about and len(content) > 4:
            skipped = int.from_bytes(content[:4], "big")
            self.carry("exIf", content[4 + skipped :])
            if content[4 : 4 + skipped] not in (b"", b"Exif\0\0"):
                self.keep_for(Reason.METADATA, "bytes before its EXIF block")
        elif item.kind == b"mime" and item.content_type == "application/rdf+xml" and b"cdsc" in about:
            self.carry("xmPp", content)
        elif auxiliary in ALPHA and b"auxl" in about:
            role = Role.PIXELS
            if self._bits(item) > 8:
                self.keep_for(Reason.DEPTH, "transparency of more than 8 bits")
        elif auxiliary or item.kind == b"tmap":
            role = Role.UNACCOUNTED
            self.keep_for(Reason.GAIN_MAP, f"auxiliary picture {auxiliary or 'tmap'}")
        elif b"thmb" in about:
            role = Role.PREVIEW
        elif item.kind in CODED | DERIVED | UNREAD:
            role = self._further(item)
        else:
            self.unknown(f"HEIF {item.kind.decode('latin-1')} {item.content_type}", content)
        for offset, length in item.extents:
            self.part(offset, length, name, role)

    def _further(self, item: Item) -> Role:
        """A coded picture that the main one does not use: a tile of an alpha plane or thumbnail, or another picture."""
        for owner in self.items.values():
            for kind, targets in owner.references:
                if kind == b"dimg" and item.number in targets and owner.number != self.primary:
                    auxiliary = (owner.get(b"auxC") or b"")[4:].split(b"\0")[0].decode("latin-1")
                    if auxiliary in ALPHA:
                        return Role.PIXELS
        return Role.FRAMES
