"""Reads image files as upright sRGB pixels and writes PNG."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

from codec.errors import ImageError, ImageLimitError
from codec.format.tags import EXIF, MetadataBlock

if TYPE_CHECKING:  # processes that only read pictures do not import torch
    from torch import Tensor

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "JXL", "HEIF")
"""Formats that may be opened by Pillow or a plug-in; none of them runs another program."""
MAX_PIXELS = 100_000_000

PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""The mode that a picture must have for each kind of color profile."""
COLORS = np.stack(np.meshgrid(*[np.arange(0, 256, 17, dtype=np.uint8)] * 3), -1).reshape(64, 64, 3)
"""A picture of colors sampled over the RGB cube."""
RGB_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "YCbCr")
"""Modes that 8-bit RGB and an alpha plane represent exactly."""
# content that 8-bit sRGB pixels cannot represent
DEPTH = "depth"
COLORS_BEYOND = "colors"
FRAMES = "frames"
BITS_PER_SAMPLE = 258
"""A TIFF tag."""
PHOTOMETRIC = 262
"""A TIFF tag, which is WHITE_IS_ZERO for inverted gray."""
WHITE_IS_ZERO = 0
PNG_DEPTH = 24
"""The byte of a PNG file that states its bit depth."""
AVIF_DEEP = 0x40
"""The bit of an AVIF configuration (av1C) for more than 8 bits."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture: 8-bit pixels (H, W, 3), alpha plane, profile, orientation and metadata."""

    pixels: NDArray[np.uint8]
    gray: bool = False
    """Whether the three channels are equal everywhere."""
    source_format: str = "RGB"
    alpha: NDArray[np.uint8] | None = None
    """Alpha plane (H, W); None if every pixel is opaque."""
    icc: bytes | None = None
    """The color profile of the pixels; None is sRGB."""
    orientation: int = 1
    """1 to 8 as in EXIF: what a viewer applies to the stored pixels."""
    blocks: tuple[MetadataBlock, ...] = ()
    """The file's metadata, byte for byte."""
    reduced: str | None = None
    """Content beyond these pixels: samples of more than 8 bits (DEPTH), inks or channels that RGB does not
    have (COLORS_BEYOND), further pictures (FRAMES); None otherwise."""

    @property
    def exif(self) -> bytes | None:
        """The EXIF block, as a TIFF structure."""
        for block in self.blocks:
            if block.tag == EXIF:
                return block.content
        return None

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])


def read_image(source: bytes | str | Path, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Reads a picture upright, converted to 8-bit sRGB; the first frame of an animation.

    Raises ImageError if the file is no picture, damaged or truncated, and ImageLimitError if it declares more than
    max_pixels (Pillow's own limit also applies) or has no defined white.
    """
    with _loaded(source, max_pixels) as (image, name, reduced):
        return _normalize(image, name, reduced)


def check_image(source: bytes | str | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[str, int, int]:
    """Returns format, width and height (upright) of a picture, decoded whole to find damage but not converted.

    Raises as read_image does, in a quarter of its time.
    """
    with _loaded(source, max_pixels) as (image, name, _):
        _deep_range(image, name)
        return image.format or "unknown", *_upright(image).size


@contextmanager
def _loaded(source: bytes | str | Path, max_pixels: int) -> Iterator[tuple[Image.Image, str, str | None]]:
    """Yields a decoded picture, its name, and its content beyond RGB. Exceptions in the block become ImageErrors."""
    name = "the picture" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read {name}: {error.strerror}") from None
    if not data:
        raise ImageError(f"{name} is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about sizes and tags that are checked here
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                if image.width * image.height > max_pixels:
                    raise ImageLimitError(
                        f"{name} declares {image.width} x {image.height} pixels, more than {max_pixels}"
                    )
                reduced = _reduced(image, data)  # before loading, which discards how the samples were stored
                image.load()
                yield image, name, reduced
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not a picture in a known format") from None
    except Image.DecompressionBombError:
        raise ImageLimitError(f"{name} declares more pixels than Pillow allows") from None
    except Exception as error:  # decoders raise any exception on damaged files
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ImageError(f"{name} is damaged or truncated: {reason}") from None


def to_tensor(pixels: NDArray[np.uint8]) -> "Tensor":
    """(H, W, 3) 8-bit -> (3, H, W) float32 in [-1, 1]."""
    import torch

    return torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1).contiguous() / 127.5 - 1


def to_pixels(tensor: "Tensor") -> NDArray[np.uint8]:
    """(3, H, W) in [-1, 1] -> (H, W, 3) 8-bit, clamped and rounded."""
    import torch

    scaled = ((tensor.detach().float() + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
    return np.ascontiguousarray(scaled.permute(1, 2, 0).cpu().numpy())


def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _reduced(image: ImageFile.ImageFile, data: bytes) -> str | None:
    if getattr(image, "n_frames", 1) > 1:
        return FRAMES
    if _is_deep(image, data):
        return DEPTH
    return None if image.mode in RGB_MODES else COLORS_BEYOND


def _is_deep(image: ImageFile.ImageFile, data: bytes) -> bool:
    """Whether the file's samples have more than 8 bits; Pillow exposes that for gray but not for color."""
    if image.format == "PNG":
        return data[PNG_DEPTH] > 8
    if image.format == "TIFF":
        return bool(max(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (1,))) > 8)
    if image.format == "AVIF":
        return bool(data[data.find(b"av1C") + 6] & AVIF_DEEP)
    if image.mode.startswith("I"):
        return True
    if image.format == "PPM":
        # Pillow's decoder gets (mode, largest value) for color, and its name alone for 8 bits
        levels = image.tile[0].args
        return isinstance(levels, tuple) and len(levels) == 2 and int(levels[1]) > 255
    return False


def _normalize(image: Image.Image, name: str, reduced: str | None) -> Picture:
    icc = image.info.get("icc_profile")
    deep = _deep_range(image, name)
    upright = _upright(image)
    exif = upright.info.get("exif")
    if deep is not None:
        upright = _eight_bits(upright, *deep)
    alpha = alpha_plane(upright)
    converted, icc = _to_srgb(upright, icc)
    blocks: tuple[MetadataBlock, ...] = ()
    if exif:
        blocks = (MetadataBlock(EXIF, exif.removeprefix(b"Exif\0\0")),)
    return Picture(
        np.asarray(converted),
        gray=_is_gray(converted),
        source_format=image.format or "unknown",
        alpha=alpha,
        icc=icc,
        blocks=blocks,
        reduced=reduced,
    )


def _upright(image: Image.Image) -> Image.Image:
    """Applies the EXIF orientation. An unreadable EXIF block is ignored."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # its parser raises any exception
        copy = image.copy()
        copy.info.pop("exif", None)
        return copy


def _deep_range(image: Image.Image, name: str) -> tuple[int, int] | None:
    """The black and white levels of a gray picture of more than 8 bits."""
    if image.mode == "I" and image.format == "PPM":
        return 0, 65535
    if image.mode in ("I", "F"):
        raise ImageLimitError(f"{name} has 32-bit or signed samples, whose white is not defined; convert it to 16 bits")
    if not image.mode.startswith("I;16"):
        return None
    tags = getattr(image, "tag_v2", {})
    white = int(2 ** tags.get(BITS_PER_SAMPLE, (16,))[0] - 1)
    return (white, 0) if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else (0, white)


def _eight_bits(image: Image.Image, black: int, white: int) -> Image.Image:
    """Scales gray of more than 8 bits to 8 (Pillow's conversion clips); a transparent value becomes an alpha plane."""
    values = np.asarray(image).astype(np.int64)
    levels = np.rint((values - black) * (255 / (white - black))).clip(0, 255)
    gray = Image.fromarray(levels.astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is not None:
        opacity = np.where(values == transparent, 0, 255).astype(np.uint8)
        gray.putalpha(Image.fromarray(opacity))
    return gray


def alpha_plane(image: Image.Image) -> NDArray[np.uint8] | None:
    """The alpha plane (H, W) of an image, or None if every pixel is opaque."""
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
        if (alpha < 255).any():
            return alpha
    return None


def _to_srgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, bytes | None]:
    """Returns the colors in sRGB without a profile, or unchanged with the profile if it cannot be applied."""
    plain = image.convert("RGB")
    if not icc or image.mode == "LAB":  # Pillow converts LAB
        return plain, None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        mode = PROFILE_MODES[profile.profile.xcolor_space.strip()]
        # a profile for another kind of colors describes nothing here; it is kept, so that nothing is lost
        is_of_other_inks = (mode == "CMYK") != (image.mode == "CMYK")
        is_for_gray_only = mode == "L" and not _is_gray(plain)
        if is_of_other_inks or is_for_gray_only:
            return plain, icc
        colors = plain if mode == "RGB" else image.convert(mode)
        return _converted(colors, profile), None
    except (ImageCms.PyCMSError, OSError, ValueError, KeyError):
        return plain, icc


def _converted(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    """Gray stays gray. A profile that moves no color by more than one level counts as sRGB and is not applied."""
    transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), image.mode, "RGB")
    if image.mode == "RGB":
        moved = np.asarray(ImageCms.applyTransform(Image.fromarray(COLORS), transform))
        if np.abs(moved.astype(int) - COLORS).max() <= 1:
            return image
    converted = cast(Image.Image, ImageCms.applyTransform(image, transform))
    if image.mode != "CMYK" and _is_gray(image.convert("RGB")):
        return converted.getchannel("G").convert("RGB")
    return converted


def _is_gray(image: Image.Image) -> bool:
    pixels = np.asarray(image)
    return bool((pixels == pixels[..., :1]).all())
