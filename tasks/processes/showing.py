"""Makes pictures for viewers from stored files: upright, no wider than asked, with their color profile alone."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image

from codec import lossless
from codec.containers.reading import read_leniently
from codec.containers.writing import parse_kind, upright, write
from codec.errors import ImageError
from codec.images import Picture
from tasks.processes.child import Frame
from tasks.processes.requests import Show


def show(request: Show, data: bytes, decode: Callable[[bytes], Picture] | None = None) -> Frame:
    """Answers with the picture, and with width and height before it was reduced.

    `decode` decodes an .fdc file; without it, such files are refused. Raises ImageError, BitstreamError.
    """
    if request.codec == "fdc":
        if decode is None:
            raise ImageError("this process has no codec")
        found = decode(data)
    elif request.codec == "jxl":
        found, _ = read_leniently(lossless.restore(data))
    else:
        found, _ = read_leniently(data)
    # Blocks hold where and by whom a photo was taken, which no viewer needs.
    shown = upright(replace(found, blocks=()))
    kind, quality = parse_kind(request.kind)
    return {"width": shown.width, "height": shown.height}, write(reduced(shown, request.width), kind, quality)


def reduced(picture: Picture, width: int | None) -> Picture:
    """Returns an upright picture of at most this width in pixels, in proportion."""
    if width is None or picture.width <= width:
        return picture
    size = (width, max(1, round(picture.height * width / picture.width)))
    image = Image.fromarray(picture.pixels)
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha))  # Pillow then weighs colors by their opacity
    small = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    alpha = None
    if picture.alpha is not None:
        alpha = np.asarray(small.getchannel("A"))
    return replace(picture, pixels=np.asarray(small.convert("RGB")), alpha=alpha)
