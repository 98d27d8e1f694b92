"""The preview of an .fdc file: a small WebP picture of the whole, for listings. Nothing here loads torch.

An encoder adds one to a picture's blocks; a decoder leaves it out of the decoded picture, whose pixels may change.
"""

import io
from dataclasses import replace

from PIL import Image

from codec.color import spaces
from codec.containers.writing import turned
from codec.format.bitstream import MAX_PIXELS, pack, parse
from codec.format.chunks import compressed
from codec.format.preview import LARGEST, SIDE, Preview, check_side
from codec.format.reader import varint
from codec.format.tags import PREVIEW, MetadataBlock
from codec.images import Picture

PIXELS_PER_BYTE = 512
"""A preview takes at most one byte for as many pixels of its picture: a 64th of a bit per pixel."""
SHARE = 0.25
"""Largest share of a target rate."""
QUALITIES = (40, 30, 20, 10)
"""WebP qualities, tried from the best on; with a worse one a smaller preview looks better."""
SMALLEST = 0.25
"""Least part of the side that is tried."""


def with_preview(picture: Picture, side: int = SIDE, bits_per_pixel: float | None = None) -> Picture:
    """Adds a preview to a picture's blocks; unchanged if it is no larger than the preview, or `side` is 0.

    Quality, and then the side, are lowered until the preview has at most LARGEST bytes, a 64th of a bit per pixel
    and a quarter of `bits_per_pixel`, if that is the target; a picture with no preview that small gets none. The same
    picture gives the same bytes on one machine. Raises SettingsError.
    """
    blocks = tuple(block for block in picture.blocks if block.tag != PREVIEW)
    if not check_side(side) or max(picture.width, picture.height) <= side:
        return replace(picture, blocks=blocks)
    pixels = picture.width * picture.height
    most = min(LARGEST, pixels // PIXELS_PER_BYTE)
    if bits_per_pixel is not None:
        most = min(most, int(SHARE * bits_per_pixel * pixels / 8))
    least = SMALLEST * side
    while side >= least:
        small = _reduced(picture, side)
        for quality in QUALITIES:
            stream = io.BytesIO()
            small.save(stream, "WEBP", quality=quality, method=4)
            if stream.tell() <= most:
                return replace(picture, blocks=(*blocks, MetadataBlock(PREVIEW, stream.getvalue())))
        side = side * 3 // 4
    return replace(picture, blocks=blocks)


def _reduced(picture: Picture, side: int) -> Image.Image:
    """The picture as displayed, reduced, in sRGB; transparent parts are white."""
    small = Image.fromarray(picture.pixels)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    if picture.icc is not None:
        small = spaces.to_srgb(small, picture.icc)
    if picture.alpha is not None:
        mask = Image.fromarray(picture.alpha).resize(small.size, Image.Resampling.LANCZOS)
        small = Image.composite(small, Image.new("RGB", small.size, "white"), mask)
    return turned(small, picture.orientation)


def read_preview(data: bytes) -> Preview | None:
    """Returns the preview of an .fdc file, without torch and without decoding a picture; None if it has none.

    Raises BitstreamError for a damaged file. Content in another form than the one written here counts as none.
    """
    for chunk in parse(data, max_pixels=MAX_PIXELS).chunks:
        if chunk.tag == PREVIEW:
            return Preview.of(chunk.content)
    return None


def cost(picture: Picture) -> int:
    """Bytes of a file that a picture's preview takes, with its chunk's tag and length; 0 without one."""
    for block in picture.blocks:
        if block.tag == PREVIEW:
            coded = len(compressed(block.content))
            return len(PREVIEW) + len(varint(coded)) + coded
    return 0


def without_preview(data: bytes) -> bytes:
    """Returns an .fdc file of version 2 without its preview, otherwise unchanged. Raises BitstreamError."""
    file = parse(data, max_pixels=MAX_PIXELS)
    return pack(replace(file, chunks=tuple(chunk for chunk in file.chunks if chunk.tag != PREVIEW)))
