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
MOST_ITEMS = 5000
MOST_EXTENTS = 20_000


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
        for own, content in self.properties:
            if own == kind:
                return content
        return None


class ItemReader(Builder):
    """Reads the meta box into `items`, by item ID, with locations, properties and references."""

    def __init__(self, data: bytes, container: str, media_type: str) -> None:
        super().__init__(data, container, media_type)
        self.items: dict[int, HeifItem] = {}
        self.primary = 0
        self.inline = (0, 0)
        """First byte and end of the content of the idat box."""
        self.extents = 0
        self.named = 0

    def read_meta(self, meta: Box) -> None:
        """Reads the meta box. Raises Broken if a required box is missing or contradicts the others."""
        found: dict[bytes, Box] = {}
        for box in children(self.data, meta, full=True):
            self._inner(box, repeated=box.kind in found)
            found[box.kind] = box
        for kind in (b"pitm", b"iinf", b"iloc", b"iprp"):
            if kind not in found:
                raise Broken(f"no box {kind.decode()}")
        if b"idat" in found:
            box = found[b"idat"]
            self.inline = (box.body, box.end)
            # Only its head: the items name their own bytes.
            self.part(box.offset, box.body - box.offset, "idat", Role.SILENT)
        primary = found[b"pitm"]
        wide = self.data[primary.body]  # its version
        self.primary, _ = self._number(primary.body + 4, wide=bool(wide))
        # The items first: locations, properties and references are added to them.
        self._infos(found[b"iinf"])
        self._locations(found[b"iloc"])
        self._properties(found[b"iprp"])
        if b"iref" in found:
            self._references(found[b"iref"])
        if b"grpl" in found:
            self._groups(found[b"grpl"])

    def _inner(self, box: Box, *, repeated: bool) -> None:
        """Names a box inside the meta box, and checks those that could hide something."""
        silent = box.kind in SILENT_IN_META
        if box.kind != b"idat":
            self.part(box.offset, box.end - box.offset, box.name, Role.SILENT if silent else Role.UNACCOUNTED)
        if not silent:
            self.keep_for(Reason.METADATA, f"unknown box {box.name} in its list of items")
        if repeated and box.kind not in FILLERS:
            raise Broken(f"a second box {box.name} in its list of items")
        if box.kind in FILLERS and any(self.data[box.body : box.end]):
            self.keep_for(Reason.TRAILING_DATA, "free space that is not empty")
        if box.kind == b"dinf" and self.data[box.body : box.end] != LOCAL:
            self.keep_for(Reason.METADATA, "data in other files")

    def _groups(self, box: Box) -> None:
        for group in children(self.data, box):
            if group.kind not in STEREO_GROUPS:
                self.keep_for(Reason.METADATA, f"a group {group.name}")
            elif group.kind != b"altr":  # alternatives: a reader shows one of them
                self.keep_for(Reason.FRAMES, f"a group {group.name} of pictures")

    def _infos(self, box: Box) -> None:
        """The number and type of each item (ISO/IEC 14496-12, 8.11.6)."""
        version = self.data[box.body]
        for info in boxes(self.data, box.body + (8 if version else 6), box.end):
            own = self.data[info.body]
            if own not in (2, 3):
                raise Broken(f"an item of version {own}")
            number, position = self._number(info.body + 4, wide=own == 3)
            _, kind = unpack(">H4s", self.data, position)
            if len(self.items) >= MOST_ITEMS or number in self.items:
                raise Broken(f"item {number} twice, or more than {MOST_ITEMS} items")
            item = HeifItem(number, kind)
            if kind == b"mime":
                # Its name, content type and content encoding, each ended by a zero.
                texts = self.data[position + 6 : info.end].split(b"\0")
                if len(texts) > 1:
                    item.content_type = texts[1].decode("latin-1")
                item.packed = len(texts) > 2 and bool(texts[2])
            self.items[number] = item

    def _number(self, position: int, *, wide: bool) -> tuple[int, int]:
        """An item's number, of 32 bits or 16, and the offset after it."""
        if wide:
            (number,) = unpack(">I", self.data, position)
            return int(number), position + 4
        (number,) = unpack(">H", self.data, position)
        return int(number), position + 2

    def _locations(self, box: Box) -> None:
        """The extents of each item (ISO/IEC 14496-12, 8.11.3)."""
        data = self.data
        version = data[box.body]
        (sizes,) = unpack(">H", data, box.body + 4)
        offset_size = sizes >> 12
        length_size = sizes >> 8 & 15
        base_size = sizes >> 4 & 15
        index_size = sizes & 15
        wide = version == 2
        count, position = self._number(box.body + 6, wide=wide)
        if count > MOST_ITEMS:
            raise Broken(f"locations of {count} items")
        for _ in range(count):
            number, position = self._number(position, wide=wide)
            method = 0
            if version:
                method = unpack(">H", data, position)[0] & 15
                position += 2
            (other_file,) = unpack(">H", data, position)
            if other_file:
                self.keep_for(Reason.UNSUPPORTED, "an item stored in another file")
            position += 2
            base, position = self._sized(position, base_size)
            (extents,) = unpack(">H", data, position)
            position += 2
            # An item without an info box is kept too, so that its bytes are named.
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
        """Adds an extent: method 0 counts from the file's first byte, 1 from that of the idat box."""
        limit = len(self.data)
        if method == 1:
            offset += self.inline[0]
            limit = self.inline[1]
        elif method:
            self.keep_for(Reason.UNSUPPORTED, "an item constructed from another item")
            return
        if offset + length > limit:
            raise Broken(f"item {item.number} exceeds the file")
        if length == 0:  # up to the end
            length = limit - offset
        # Without this bound, items that share their bytes could multiply a small file's work.
        self.named += length
        if self.named > 2 * len(self.data) or length < 0:
            raise Broken("items that share their bytes")
        item.extents.append((offset, length))

    def _sized(self, position: int, size: int) -> tuple[int, int]:
        """A number of `size` bytes, and the offset after it."""
        if position + size > len(self.data):
            raise Broken("a truncated list of locations")
        return int.from_bytes(self.data[position : position + size], "big"), position + size

    def _properties(self, box: Box) -> None:
        found: list[tuple[bytes, bytes]] = []
        for part in children(self.data, box):
            if part.kind == b"ipco":
                found = [(own.kind, self.data[own.body : own.end]) for own in children(self.data, part)]
                for kind, content in found:
                    self._property(kind, content)
            elif part.kind == b"ipma":
                self._associations(part, found)

    def _property(self, kind: bytes, content: bytes) -> None:
        """Checks type and length of a property, so that nothing else can hide in it."""
        if kind == b"pixi" and len(content) != 5 + content[4]:
            self.irregular.append(f"a property pixi of {len(content)} bytes")
        if len(content) != LENGTHS.get(kind, len(content)):
            self.irregular.append(f"a property {kind.decode('latin-1')} of {len(content)} bytes")
        if kind not in KNOWN_PROPERTIES:
            self.keep_for(Reason.METADATA, f"unknown property {kind.decode('latin-1')}")

    def _associations(self, box: Box, found: list[tuple[bytes, bytes]]) -> None:
        """Adds to each item its properties, which are given by their position, counted from 1."""
        version = self.data[box.body]
        wide = self.data[box.body + 3] & 1
        (count,) = unpack(">I", self.data, box.body + 4)
        position = box.body + 8
        for _ in range(count):
            number, position = self._number(position, wide=bool(version))
            (links,) = unpack(">B", self.data, position)
            position += 1
            for _ in range(links):
                # The highest bit says whether the property is essential.
                if wide:
                    index = unpack(">H", self.data, position)[0] & 0x7FFF
                    position += 2
                else:
                    index = unpack(">B", self.data, position)[0] & 0x7F
                    position += 1
                if index > len(found):
                    raise Broken(f"item {number} refers to a missing property")
                if index:  # 0 refers to none
                    self.items.setdefault(number, HeifItem(number)).properties.append(found[index - 1])

    def _references(self, box: Box) -> None:
        wide = bool(self.data[box.body])
        for part in boxes(self.data, box.body + 4, box.end):
            source, position = self._number(part.body, wide=wide)
            (count,) = unpack(">H", self.data, position)
            targets = unpack(f">{count}{'I' if wide else 'H'}", self.data, position + 2)
            if source in self.items:
                self.items[source].references.append((part.kind, [int(target) for target in targets]))
            if part.kind not in KNOWN_REFERENCES:
                self.keep_for(Reason.METADATA, f"unknown references {part.name} between items")
