"""The item list of HEIF and AVIF: locations, properties and references

(ISO/IEC 14496-12:2022, 8.11; ISO/IEC 23008-12:2022)."""

from dataclasses import dataclass, field

from codec.containers.bmff import Box, boxes, children
from codec.containers.builder import Broken, Builder, unpack
from codec.containers.reasons import Reason
from codec.containers.structure import Role

KNOWN_PROPERTIES = frozenset(
    {b"ispe", b"hvcC", b"av1C", b"pixi", b"colr", b"irot", b"imir", b"auxC", b"pasp", b"clap"}
    | {b"clli", b"mdcv", b"lsel", b"a1op", b"a1lx", b"rloc", b"cclv", b"amve"}
)
LENGTHS = {b"ispe": 12, b"irot": 1, b"imir": 1, b"pasp": 8, b"clap": 32, b"clli": 4, b"mdcv": 24}
LENGTHS |= {b"lsel": 2, b"a1op": 1, b"rloc": 12}
"""Length in bytes of properties with a fixed length, so that nothing else can hide in them."""
KNOWN_REFERENCES = frozenset({b"dimg", b"thmb", b"auxl", b"cdsc"})
LOCAL = bytes.fromhex("0000001c 64726566 00000000 00000001 0000000c 75726c20 00000001")
"""Content of a dinf box when all data is in this file."""
FILLERS = frozenset({b"free", b"skip"})
SILENT_IN_META = FILLERS | {b"hdlr", b"pitm", b"iinf", b"iloc", b"iprp", b"iref", b"idat", b"dinf", b"grpl"}
STEREO_GROUPS = frozenset({b"altr", b"ster", b"brst", b"eqiv"})
MOST_ITEMS, MOST_EXTENTS = 5000, 20_000


@dataclass
class HeifItem:
    """An item of the meta box."""

    number: int
    kind: bytes = b""
    content_type: str = ""
    packed: bool = False
    """Whether a mime item is compressed."""
    extents: list[tuple[int, int]] = field(default_factory=list)
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    references: list[tuple[bytes, list[int]]] = field(default_factory=list)

    def get(self, kind: bytes) -> bytes | None:
        """The content of its first property of a type."""
        return next((content for own, content in self.properties if own == kind), None)


class ItemReader(Builder):
    """Reads the meta box into `items`, by item ID, with locations, properties and references."""

    def __init__(self, data: bytes, container: str, media_type: str) -> None:
        super().__init__(data, container, media_type)
        self.items: dict[int, HeifItem] = {}
        self.primary = 0
        self.inline = 0, 0
        self.extents = 0
        self.named = 0

    def read_meta(self, meta: Box) -> None:
        found = {}
        for box in children(self.data, meta, full=True):
            silent = box.kind in SILENT_IN_META
            if box.kind != b"idat":
                self.part(box.offset, box.end - box.offset, box.name, Role.SILENT if silent else Role.UNACCOUNTED)
            if not silent:
                self.keep_for(Reason.METADATA, f"unknown box {box.name} in its list of items")
            if box.kind in found and box.kind not in FILLERS:
                raise Broken(f"a second box {box.name} in its list of items")
            if box.kind in FILLERS and any(self.data[box.body : box.end]):
                self.keep_for(Reason.TRAILING_DATA, "free space that is not empty")
            if box.kind == b"dinf" and self.data[box.body : box.end] != LOCAL:
                self.keep_for(Reason.METADATA, "data in other files")
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
            if own not in (2, 3):
                raise Broken(f"an item of version {own}")
            number, _, kind = unpack(">IH4s" if own == 3 else ">HH4s", self.data, info.body + 4)
            text = self.data[info.body + (14 if own == 3 else 12) : info.end].split(b"\0")
            content = text[1].decode("latin-1") if kind == b"mime" and len(text) > 1 else ""
            packed = kind == b"mime" and len(text) > 2 and bool(text[2])
            if len(self.items) >= MOST_ITEMS or number in self.items:
                raise Broken(f"item {number} twice, or more than {MOST_ITEMS} items")
            self.items[number] = HeifItem(number, kind, content, packed)

    def _locations(self, box: Box) -> None:
        data, version = self.data, self.data[box.body]
        (sizes,) = unpack(">H", data, box.body + 4)
        offset_size, length_size, base_size, index_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15, sizes & 15
        position = box.body + 6
        (count,) = unpack(">I" if version == 2 else ">H", data, position)
        position += 4 if version == 2 else 2
        if count > MOST_ITEMS:
            raise Broken(f"locations of {count} items")
        for _ in range(count):
            (number,) = unpack(">I" if version == 2 else ">H", data, position)
            position += 4 if version == 2 else 2
            method = 0
            if version:
                method = unpack(">H", data, position)[0] & 15
                position += 2
            if unpack(">H", data, position)[0]:
                self.keep_for(Reason.UNSUPPORTED, "an item stored in another file")
            position += 2
            base, position = self._sized(position, base_size)
            (extents,) = unpack(">H", data, position)
            position += 2
            item = self.items.setdefault(number, HeifItem(number))
            self.extents += extents
            if self.extents > MOST_EXTENTS:
                raise Broken(f"more than {MOST_EXTENTS} extents of items")
            for _ in range(extents):
                if version:
                    _, position = self._sized(position, index_size)
                offset, position = self._sized(position, offset_size)
                length, position = self._sized(position, length_size)
                self._extent(item, method, base + offset, length)

    def _extent(self, item: HeifItem, method: int, offset: int, length: int) -> None:
        limit = len(self.data)
        if method == 1:
            offset, limit = offset + self.inline[0], self.inline[1]
        elif method:
            self.keep_for(Reason.UNSUPPORTED, "an item constructed from another item")
            return
        if offset + length > limit:
            raise Broken(f"item {item.number} exceeds the file")
        length = length or limit - offset
        self.named += length
        if self.named > 2 * len(self.data) or length < 0:
            raise Broken("items that share their bytes")
        item.extents.append((offset, length))

    def _sized(self, position: int, size: int) -> tuple[int, int]:
        if position + size > len(self.data):
            raise Broken("a truncated list of locations")
        return int.from_bytes(self.data[position : position + size], "big"), position + size

    def _properties(self, box: Box) -> None:
        found: list[tuple[bytes, bytes]] = []
        for part in children(self.data, box):
            if part.kind == b"ipco":
                found = [(own.kind, self.data[own.body : own.end]) for own in children(self.data, part)]
                for kind, content in found:
                    if kind == b"pixi" and len(content) != 5 + content[4]:
                        self.irregular.append(f"a property pixi of {len(content)} bytes")
                    if len(content) != LENGTHS.get(kind, len(content)):
                        self.irregular.append(f"a property {kind.decode('latin-1')} of {len(content)} bytes")
                    if kind not in KNOWN_PROPERTIES:
                        self.keep_for(Reason.METADATA, f"unknown property {kind.decode('latin-1')}")
            elif part.kind == b"ipma":
                self._associations(part, found)

    def _associations(self, box: Box, found: list[tuple[bytes, bytes]]) -> None:
        version, wide = self.data[box.body], self.data[box.body + 3] & 1
        (count,) = unpack(">I", self.data, box.body + 4)
        position = box.body + 8
        for _ in range(count):
            number, links = unpack(">IB" if version else ">HB", self.data, position)
            position += 5 if version else 3
            for _ in range(links):
                (value,) = unpack(">H" if wide else ">B", self.data, position)
                position += 2 if wide else 1
                index = value & (0x7FFF if wide else 0x7F)
                if index > len(found):
                    raise Broken(f"item {number} refers to a missing property")
                if index:
                    self.items.setdefault(number, HeifItem(number)).properties.append(found[index - 1])

    def _references(self, box: Box) -> None:
        wide = self.data[box.body]
        for part in boxes(self.data, box.body + 4, box.end):
            source, count = unpack(">IH" if wide else ">HH", self.data, part.body)
            position = part.body + (6 if wide else 4)
            targets = unpack(f">{count}{'I' if wide else 'H'}", self.data, position)
            if source in self.items:
                self.items[source].references.append((part.kind, [int(target) for target in targets]))
            if part.kind not in KNOWN_REFERENCES:
                self.keep_for(Reason.METADATA, f"unknown references {part.name} between items")
