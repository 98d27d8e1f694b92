"""Chunk tags, and the metadata blocks of a picture stored under them.

A tag is four ASCII letters, each with a meaning of its own, as in PNG. An upper-case first letter is critical: a
decoder that does not know the tag refuses the file. The third is reserved and upper case. A lower-case fourth letter
says that a program which changes the pixels may copy the chunk unread.
"""

from dataclasses import dataclass

# critical: without transparency or the color profile a decoder would show other pixels
ALPHA = "ALPH"
ICC = "ICCP"
# ancillary: a decoder may skip them
EXIF = "exIf"
XMP = "xmPp"
XMP_EXTENDED = "xeXt"
IPTC = "ipTc"
PHOTOSHOP = "psIr"
COMMENT = "coMm"
TEXT = "teXt"
RESOLUTION = "phYs"
AUXILIARY = "auXP"
PREVIEW = "prEV"
UNKNOWN = "unKn"

CRITICAL = (ALPHA, ICC)
REPEATABLE = (COMMENT, TEXT, PHOTOSHOP, XMP_EXTENDED, AUXILIARY, UNKNOWN)
"""Tags that may repeat; each chunk states its index, counted from 0."""


NAMES = {
    ALPHA: "alpha plane",
    ICC: "color profile",
    EXIF: "EXIF block",
    XMP: "XMP packet",
    XMP_EXTENDED: "portion of extended XMP",
    IPTC: "IPTC record",
    PHOTOSHOP: "Photoshop resources",
    COMMENT: "comment",
    TEXT: "PNG text",
    RESOLUTION: "resolution",
    AUXILIARY: "auxiliary picture",
    PREVIEW: "preview",
    UNKNOWN: "metadata of an unknown kind",
}
"""Names of the known tags, as used in messages."""
KNOWN = frozenset(NAMES)


@dataclass(frozen=True)
class MetadataBlock:
    """A block of a source's metadata, byte for byte.

    tag      content
    exIf     the TIFF structure of EXIF, without the six bytes `Exif` 0 0
    xmPp     the XMP packet
    xeXt     one portion of extended XMP: what follows the identifier in its APP1 segment (GUID, length, offset, text)
    ipTc     an IPTC-IIM record, as in a TIFF
    psIr     the payload of an APP13 segment, from `Photoshop 3.0` on
    coMm     a comment of a JPEG or GIF, without length
    teXt     four letters (tEXt, zTXt or iTXt) and the data of that PNG chunk
    phYs     one byte for the unit (0 none, 1 inch, 2 centimeter, 3 meter), then four 32-bit numbers, little-endian:
             horizontal numerator and denominator, vertical numerator and denominator, in pixels a unit
    auXP     a name, 0, and an auxiliary picture with what describes it (gain map, depth), as the source has it
    prEV     a small WebP picture of the whole (codec.preview)
    unKn     a name (`JPEG APP7`, `PNG npTc`), 0, and metadata of an unknown kind
    """

    tag: str
    content: bytes
