"""Any image file to upright sRGB pixels and back; the one place that reads pictures."""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from codec.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "JXL", "HEIF")
"""Formats that are opened, where Pillow or a plug-in reads them; none that calls another program."""
MAX_PIXELS = 100_000_000
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True)
class Picture:
    """Upright 8-bit sRGB pixels (H, W, 3), and what the file said beside them."""

    pixels: NDArray[np.uint8]
    grey: bool = False
    """The file held one channel of grey; all three channels are equal."""
    source_format: str = "RGB"
    alpha: NDArray[np.uint8] | None = None
    """Transparency (H, W), where any pixel is not opaque."""
    icc: bytes | None = None
    """The colour profile, where the pixels could not be converted to sRGB."""
    exif: bytes | None = None

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])


def read_image(source: bytes | str | Path, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read a picture whole: upright, converted to sRGB; of an animation the first frame.

    Raises ImageError for what is no picture, is damaged or cut short, or declares more than max_pixels.
    """
    name = "the picture" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read {name}: {error.strerror}") from None
    if not data:
        raise ImageError(f"{name} is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of sizes and tags that are judged here
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                if image.width * image.height > max_pixels:
                    raise ImageError(f"{name} declares {image.width} x {image.height} pixels, more than {max_pixels}")
                image.load()
                return _normalise(image)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not a picture in a known format") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name} declares more pixels than any real picture has") from None
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, OverflowError, EOFError) as error:
        raise ImageError(f"{name} is damaged: {str(error) or type(error).__name__}") from None
    except (ArithmeticError, AttributeError, MemoryError, RuntimeError, NotImplementedError) as error:
        raise ImageError(f"{name} cannot be decoded: {str(error) or type(error).__name__}") from None


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels (H, W, 3), or (H, W) grey, as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=4)
    return stream.getvalue()


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) 8-bit -> (3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1).contiguous() / 127.5 - 1


def to_pixels(tensor: Tensor) -> NDArray[np.uint8]:
    """(3, H, W) in [-1, 1] -> (H, W, 3) 8-bit, clamped and rounded."""
    scaled = ((tensor.detach().float() + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
    return np.ascontiguousarray(scaled.permute(1, 2, 0).cpu().numpy())


def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _normalise(image: Image.Image) -> Picture:
    source_format, icc = image.format or "unknown", image.info.get("icc_profile")
    exif = image.info.get("exif")
    upright = ImageOps.exif_transpose(image)
    grey = upright.mode in ("1", "L", "LA", "La", "F", *DEEP_MODES)
    if upright.mode in DEEP_MODES:
        upright = _eight_bits(upright)
    alpha = _alpha(upright)
    upright, icc = _to_srgb(upright, icc)
    if upright.mode in ("P", "PA", "La", "LA", "1", "F"):
        upright = upright.convert("RGBA" if alpha is not None else "RGB")
    pixels = np.asarray(upright.convert("RGB"))
    if not grey and upright.mode == "RGB" and image.mode == "P":
        grey = bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())
    return Picture(pixels, grey, source_format, alpha, icc, exif)


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey (as Pillow's I modes hold it) scaled to 8 bits; its own convert would clip."""
    values = np.asarray(image).astype(np.int64)
    scale = 257 if values.max(initial=0) > 255 else 1
    return Image.fromarray(np.clip(values // scale, 0, 255).astype(np.uint8))


def _alpha(image: Image.Image) -> NDArray[np.uint8] | None:
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
        if (alpha < 255).any():
            return alpha
    return None


def _to_srgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, bytes | None]:
    """The picture in sRGB with no profile, or unchanged with its profile where that cannot be applied."""
    if not icc or image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image, None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        mode = "RGBA" if image.mode == "RGBA" else "L" if image.mode == "L" else "RGB"
        if image.mode == "L":
            return image, None  # a grey profile holds a tone curve near sRGB's; the values are kept
        converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image, icc
    return converted or image, None
