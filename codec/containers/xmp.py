"""XMP packets: joins and splits extended ones (XMP part 3, section 1.1.3.1), and resets the orientation."""

import hashlib
import re
import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from io import BytesIO

from codec.format.tags import MetadataBlock

LARGEST_PACKET = 65502
"""Largest packet that fits into a JPEG segment, in bytes."""
PORTION = 65400
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
NOTE = "{http://ns.adobe.com/xmp/note/}HasExtendedXMP"
STANDARD = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="%s"/>'
    b"</rdf:RDF></x:xmpmeta>"
)
_ORIENTATION = re.compile(
    rb"""(tiff:Orientation\s*=\s*["']\s*|<tiff:Orientation>\s*)[2-8](\s*["']|\s*</tiff:Orientation>)"""
)


def upright(packet: bytes) -> bytes:
    """Returns the packet with orientation 1; no other byte changes."""
    return _ORIENTATION.sub(rb"\g<1>1\g<2>", packet)


def whole(blocks: Sequence[MetadataBlock]) -> bytes | None:
    """Merges a picture's standard packet and extended portions into one packet, for containers without a size limit.

    Returns the standard packet if they cannot be merged.
    """
    packet = next((block.content for block in blocks if block.tag == "xmPp"), None)
    if packet is None:
        return None
    extended = _assembled(packet, [block.content for block in blocks if block.tag == "xeXt"])
    return packet if extended is None else _joined(packet, extended) or packet


def joins(blocks: Sequence[MetadataBlock]) -> bool:
    """Whether `whole` contains everything in the extended portions."""
    return not any(block.tag == "xeXt" for block in blocks) or b"HasExtendedXMP" not in (whole(blocks) or b"")


def split(packet: bytes) -> tuple[bytes, list[bytes]]:
    """Splits a packet into a standard packet that fits into JPEG and extended portions."""
    digest = hashlib.md5(packet, usedforsecurity=False).hexdigest().upper().encode()
    portions = [
        digest + struct.pack(">II", len(packet), position) + packet[position : position + PORTION]
        for position in range(0, len(packet), PORTION)
    ]
    return STANDARD % digest, portions


def _assembled(packet: bytes, portions: Iterable[bytes]) -> bytes | None:
    """The extended packet that the standard one names; None if it is incomplete."""
    pieces: dict[int, bytes] = {}
    size = 0
    for portion in portions:
        if len(portion) >= 40 and portion[:32] in packet:
            size, position = struct.unpack_from(">II", portion, 32)
            pieces[position] = portion[40:]
    content = b"".join(pieces[position] for position in sorted(pieces))
    return content if pieces and len(content) == size else None


def _joined(packet: bytes, extended: bytes) -> bytes | None:
    try:
        for source in (packet, extended):
            for _, (prefix, name) in ElementTree.iterparse(BytesIO(source), ["start-ns"]):
                if prefix and not re.fullmatch(r"ns\d+|xml", prefix):
                    ElementTree.register_namespace(prefix, name)
        first, second = ElementTree.fromstring(packet), ElementTree.fromstring(extended)
    except (ElementTree.ParseError, ValueError):
        return None
    into, added = _rdf(first), _rdf(second)
    if into is None or added is None:
        return None
    for description in (*into, *added):
        description.attrib.pop(NOTE, None)
        for note in description.findall(NOTE):
            description.remove(note)
    into.extend(added)
    return b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>' + ElementTree.tostring(first) + b'<?xpacket end="w"?>'


def _rdf(tree: ElementTree.Element) -> ElementTree.Element | None:
    """The rdf:RDF element of a packet, with or without x:xmpmeta around it."""
    return tree if tree.tag == f"{RDF}RDF" else tree.find(f".//{RDF}RDF")
