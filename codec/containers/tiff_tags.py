"""TIFF tags by their role (TIFF 6.0; EXIF 3.0; DNG 1.7; GeoTIFF 1.1; Adobe's technical notes)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DirectoryEntry:
    """A directory entry; its value lies at `offset` and has `size` bytes."""

    tag: int
    kind: int
    count: int
    offset: int
    size: int


class Tag:
    """Tags that the reader interprets."""

    NEW_SUBFILE_TYPE = 254
    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    ORIENTATION = 274
    SAMPLES = 277
    ROWS = 278
    X_RESOLUTION = 282
    Y_RESOLUTION = 283
    PLANAR = 284
    RESOLUTION_UNIT = 296
    COLOR_MAP = 320
    TILE_WIDTH = 322
    TILE_HEIGHT = 323
    SUB_IFDS = 330
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    JPEG_TABLES = 347
    XMP = 700
    IPTC = 33723
    PHOTOSHOP = 34377
    EXIF = 34665
    ICC = 34675
    GPS = 34853
    INTEROPERABILITY = 40965
    DNG_VERSION = 50706
    PLACES = ((273, 279), (324, 325), (513, 514))
    """Offsets and lengths of strips, of tiles, and of a whole JPEG (TIFF 6.0, section 22)."""
    CARRIED = frozenset({XMP, IPTC, PHOTOSHOP, ICC, EXIF, GPS, SUB_IFDS, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT})


PICTURE = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339}
    | {292, 293, 347, 513, 514, 529, 530, 531, 532}
)
"""How the pixels are stored."""
SILENT = frozenset({263, 264, 265, 266, 280, 281, 340, 341})
"""Thresholds, fill order of bits (honored by the decoder), smallest and largest values."""
A_SAMPLE = frozenset({258, 280, 281, 338, 339, 340, 341})
"""Tags with a value for each sample of a pixel."""
COUNTS = {529: 3, 530: 2, 532: 6, 320: 3 << 8}
"""Allowed counts of other tags; all but these, per-sample tags and lists of offsets have one value."""
COLORS_OF_YCBCR = frozenset({529, 530, 531, 532})
NUMBERS = {529: (5,), 532: (4, 5)}
"""Types of tags other than 8, 16, 32 or 64-bit integers."""
LISTS = frozenset({273, 279, 324, 325, 347})
TEXTS = frozenset(
    {269, 270, 271, 272, 285, 305, 306, 315, 316, 33432} | {286, 287, 297, 18246, 18249} | {*range(40091, 40096)}
)
"""Names, description, make, model, software, date, artist, host and copyright; place on a page and its number; rating;
Windows' title, comment, author, keywords and subject: values without offsets, which any EXIF block holds."""
GEOGRAPHIC = frozenset({33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113, 33920})
LAYERS = frozenset({37724})
MARKS_OF_RAW = frozenset({50706, 50707, 50740, 33421, 33422, 37399})
"""DNG's version and private data, and the pattern of a color filter array."""
