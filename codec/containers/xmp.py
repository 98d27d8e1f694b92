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
    packets = [block.content for block in blocks if block.tag == "xmPp"]
    if not packets:
        return None
    packet = packets[0]  # at most one: the tag is not repeatable
    extended = _assembled(packet, [block.content for block in blocks if block.tag == "xeXt"])
    if extended is None:
        return packet
    return _joined(packet, extended) or packet


def joins(blocks: Sequence[MetadataBlock]) -> bool:
    """Whether `whole` contains everything in the extended portions."""
    if not any(block.tag == "xeXt" for block in blocks):
        return True
    # Merging removes the property that names the extended packet.
    return b"HasExtendedXMP" not in (whole(blocks) or b"")


def split(packet: bytes) -> tuple[bytes, list[bytes]]:
    """Splits a packet into a standard packet that fits into JPEG and extended portions."""
    digest = hashlib.md5(packet, usedforsecurity=False).hexdigest().upper().encode()
    portions = []
    for position in range(0, len(packet), PORTION):
        head = digest + struct.pack(">II", len(packet), position)
        portions.append(head + packet[position : position + PORTION])
    return STANDARD % digest, portions


def _assembled(packet: bytes, portions: Iterable[bytes]) -> bytes | None:
    """The extended packet that the standard one names; None if it is incomplete."""
    pieces: dict[int, bytes] = {}
    size = 0
    for portion in portions:
        # Portions of another packet, left by an editor, have another digest in their first 32 bytes.
        if len(portion) >= 40 and portion[:32] in packet:
            size, position = struct.unpack_from(">II", portion, 32)
            pieces[position] = portion[40:]
    content = b"".join(pieces[position] for position in sorted(pieces))
    if not pieces or len(content) != size:
        return None
    return content


def _joined(packet: bytes, extended: bytes) -> bytes | None:
    """One packet with the descriptions of both; None if one of them is not RDF in well-formed XML."""
    try:
        for source in (packet, extended):
            _register_namespaces(source)
        first = ElementTree.fromstring(packet)
        second = ElementTree.fromstring(extended)
    except (ElementTree.ParseError, ValueError):
        return None
    into = _rdf(first)
    added = _rdf(second)
    if into is None or added is None:
        return None
    for description in (*into, *added):
        description.attrib.pop(NOTE, None)
        for note in description.findall(NOTE):
            description.remove(note)
    into.extend(added)
    return b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>' + ElementTree.tostring(first) + b'<?xpacket end="w"?>'


def _register_namespaces(packet: bytes) -> None:
    """Keeps the packet's prefixes: ElementTree would write ns0, ns1, ..., which some readers do not understand."""
    for _, (prefix, name) in ElementTree.iterparse(BytesIO(packet), ["start-ns"]):
        if prefix and not re.fullmatch(r"ns\d+|xml", prefix):  # ElementTree refuses ns0 and the like, and knows xml
            ElementTree.register_namespace(prefix, name)


def _rdf(tree: ElementTree.Element) -> ElementTree.Element | None:
    """The rdf:RDF element of a packet, with or without x:xmpmeta around it."""
    if tree.tag == f"{RDF}RDF":
        return tree
    return tree.find(f".//{RDF}RDF")
