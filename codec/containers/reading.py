"""Reads a source for compression: its structure, the verdict on it, and its pixels as stored."""

import io
import warnings
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from codec.color import spaces
from codec.color.spaces import ColorsError, Space
from codec.containers.inspect import inspect
from codec.containers.judgement import Policy, Verdict, judge
from codec.containers.reasons import MEANINGS, Reason
from codec.containers.structure import Structure
from codec.errors import ImageError, NotAnImageError
from codec.format.tags import MetadataBlock
from codec.images import MAX_PIXELS, Picture, check_image, read_image

LARGEST_SIDE = 2**31
"""Sides from this length on are not credible, whatever a header states."""
MILD = ("Unknown Adobe", "unknown JFIF", "Invalid SOS parameters")
"""libjpeg's warnings about headers. All other warnings are about the coded data."""
PLUGINS = {"JPEG": "JPEG", "PNG": "PNG", "WEBP": "WEBP", "GIF": "GIF", "TIFF": "TIFF", "AVIF": "AVIF", "BMP": "BMP"}
PLUGINS |= {"PPM": "PPM", "JP2": "JPEG2000", "TGA": "TGA", "PCX": "PCX"}
COLOR_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "La", "YCbCr")


@dataclass(frozen=True, eq=False)
class SourceImage:
    """A file as read. `picture` is set if the verdict allows compression."""

    structure: Structure | None
    """None if the file is not a picture."""
    verdict: Verdict
    picture: Picture | None = None
    coded_space: str = spaces.SRGB

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height after the orientation is applied; None if unknown."""
        about = self.structure
        if about is None:
            return None
        if not 0 < about.width < LARGEST_SIDE or not 0 < about.height < LARGEST_SIDE:
            return None
        if about.orientation > 4:  # a quarter turn swaps the sides
            return about.height, about.width
        return about.width, about.height


class _KeptError(Exception):
    """A reason, found while decoding, to keep the file whole."""

    def __init__(self, reason: Reason, why: str) -> None:
        super().__init__(why)
        self.reason = reason


def read_source(data: bytes, policy: Policy = Policy(), *, max_pixels: int = MAX_PIXELS) -> SourceImage:  # noqa: B008
    """Reads a file for compression: accounts for every byte, decodes the stored pixels, collects metadata as blocks.

    Never raises because of the bytes: the verdict states the reason.
    """
    try:
        structure = inspect(data)
    except NotAnImageError as error:
        return SourceImage(None, _fallback(Reason.NOT_AN_IMAGE, str(error)))
    except ImageError as error:
        return SourceImage(None, _fallback(Reason.DAMAGED, str(error)))
    verdict = judge(structure, policy)
    if verdict.reason is not None:
        return SourceImage(structure, verdict)
    if structure.width * structure.height > max_pixels:
        why = f"{structure.width} x {structure.height} pixels, more than {max_pixels}"
        return SourceImage(structure, _fallback(Reason.UNSUPPORTED, why))
    try:
        inner = _transcoded(structure, data)
        if inner is not None:
            # Pixels of the JPEG, as its own decoder gives them.
            return _of_transcoded(structure, verdict, inner, policy, max_pixels)
        image = _decoded(structure, data)
        space = _space(structure, image)
    except _KeptError as error:
        return SourceImage(structure, _fallback(error.reason, str(error)))
    except ColorsError as error:
        return SourceImage(structure, _fallback(Reason.COLORS, str(error)))
    picture = _picture(structure, image, space, verdict)
    return SourceImage(structure, verdict, picture, space.name)


REFUSED = (Reason.NOT_AN_IMAGE, Reason.RAW, Reason.DAMAGED, Reason.UNSUPPORTED)
"""No picture is read for these reasons, even leniently: a thumbnail or half a picture does not replace the picture."""


def read_leniently(data: bytes, policy: Policy = Policy()) -> tuple[Picture, str]:  # noqa: B008  # frozen
    """Reads a picture even from a file that an archive would keep whole, and says in one line what is left out.

    The line is empty if nothing is left out. Raises ImageError for files that are no picture, damaged or unsupported.
    """
    source = read_source(data, policy)
    reason, detail = source.verdict.reason, source.verdict.detail
    if source.picture is not None:
        return source.picture, ", ".join(source.verdict.discarded)
    if reason in REFUSED or source.structure is None:
        raise _refusal(source.verdict)
    if reason in (Reason.DEPTH, Reason.COLORS, Reason.FRAMES):
        # The strict decoding below would refuse these; the general loader converts them.
        picture = replace(read_image(data), blocks=_carried(source.structure))
        return picture, f"{MEANINGS[reason]} ({detail})"
    try:
        image = _decoded(source.structure, data)
        space = _space(source.structure, image)
    except (_KeptError, ColorsError) as error:
        raise ImageError(str(error)) from None
    verdict = replace(source.verdict, blocks=_carried(source.structure))
    return _picture(source.structure, image, space, verdict), f"{MEANINGS[cast(Reason, reason)]} ({detail})"


def check_source(data: bytes) -> tuple[str, int, int]:
    """Returns container, width and height (upright) of a picture after decoding it whole to find damage.

    Raises ImageError for files that are no picture, damaged or unsupported.
    """
    source = read_source(data)
    if source.verdict.reason in REFUSED or source.structure is None:
        raise _refusal(source.verdict)
    if source.picture is None or source.size is None:
        return check_image(data)  # kept whole for its metadata or the like: not decoded yet
    return source.structure.container, *source.size


def _refusal(verdict: Verdict) -> ImageError:
    if verdict.reason is Reason.NOT_AN_IMAGE:
        return ImageError(verdict.detail)
    if verdict.reason is Reason.DAMAGED:
        return ImageError(f"damaged or truncated: {verdict.detail}")
    return ImageError(f"not supported: {verdict.detail}")


def _carried(structure: Structure) -> tuple[MetadataBlock, ...]:
    """The blocks of a file that is encoded without all of its parts, minus those that refer to the missing parts."""
    return tuple(block for block in structure.blocks if block.tag not in ("auXP", "unKn"))


def _fallback(reason: Reason, why: str) -> Verdict:
    return Verdict(reason, " ".join(why.split()), (), (), ())


def _transcoded(structure: Structure, data: bytes) -> bytes | None:
    """The JPEG from which a JPEG XL file was transcoded, or None."""
    if structure.container != "JXL":
        return None
    if not any(part.name == "jbrd" for part in structure.parts):
        return None
    import imagecodecs

    try:
        return bytes(imagecodecs.jpegxl_decode_jpeg(data, numthreads=1))
    except (RuntimeError, ValueError) as error:
        raise _KeptError(Reason.DAMAGED, f"its JPEG cannot be reconstructed: {error}") from None


def _of_transcoded(
    structure: Structure, verdict: Verdict, inner: bytes, policy: Policy, max_pixels: int
) -> SourceImage:
    """Reads the inner JPEG. Metadata of the JPEG XL container must equal the JPEG's or be absent there."""
    source = read_source(inner, policy, max_pixels=max_pixels)
    if source.verdict.reason is not None or source.picture is None:
        return SourceImage(structure, source.verdict)
    own = {block.tag: block.content for block in source.picture.blocks}
    for block in verdict.blocks:
        if block.tag in own and own[block.tag] != block.content:
            return SourceImage(structure, _fallback(Reason.METADATA, "metadata that differs from the inner JPEG's"))
    added = tuple(block for block in verdict.blocks if block.tag not in own)
    picture = replace(source.picture, blocks=source.picture.blocks + added, source_format="JXL")
    both = replace(source.verdict, blocks=picture.blocks)
    # Viewers show the JPEG, turned as its EXIF says.
    turned = replace(structure, orientation=picture.orientation)
    return SourceImage(turned, both, picture, source.coded_space)


def _decoded(structure: Structure, data: bytes) -> Image.Image:
    """Decodes the pixels as stored. Raises _KeptError."""
    if structure.container == "JPEG":
        image = _jpeg(data)
    elif structure.container == "HEIF":
        image = _heif(data)
    elif structure.container == "JXL":
        image = _jxl(data)
    else:
        image = _with_pillow(structure, data)
    stored = (structure.width, structure.height)
    if structure.container == "HEIF":
        stored = image.size  # libheif applies rotation and crop
    if image.size != stored:
        raise _KeptError(Reason.IRREGULAR, f"decodes to {image.size} pixels, but states {stored}")
    if image.mode not in COLOR_MODES:
        raise _KeptError(Reason.COLORS, f"pixels of mode {image.mode}")
    return image


def _jpeg(data: bytes) -> Image.Image:
    """Decodes with libjpeg's warnings as errors; Pillow drops them."""
    import simplejpeg

    try:
        _, _, kind, _ = simplejpeg.decode_jpeg_header(data, strict=False)
        gray = kind == "Gray"
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "GRAY" if gray else "RGB", strict=True)
    except ValueError as error:
        reason = Reason.DAMAGED
        if str(error).startswith(MILD):
            reason = Reason.IRREGULAR
        raise _KeptError(reason, f"libjpeg: {error}") from None
    if gray:
        pixels = pixels[..., 0]
    return Image.fromarray(pixels)


def _heif(data: bytes) -> Image.Image:
    try:
        import pi_heif
    except ImportError:
        raise _KeptError(Reason.UNSUPPORTED, "install fdcodec[heif] to read HEIC and HEIF") from None
    try:
        file = pi_heif.open_heif(data, convert_hdr_to_8bit=False)
        return cast(Image.Image, file[file.primary_index].to_pillow())
    except Exception as error:  # the library raises several kinds
        raise _KeptError(Reason.DAMAGED, f"libheif: {error}") from None


def _jxl(data: bytes) -> Image.Image:
    import imagecodecs

    try:
        pixels = np.asarray(imagecodecs.jpegxl_decode(data, numthreads=1))
    except (RuntimeError, ValueError) as error:
        raise _KeptError(Reason.DAMAGED, f"libjxl: {error}") from None
    if pixels.dtype != np.uint8 or pixels.ndim > 3:
        raise _KeptError(Reason.DEPTH, f"samples of type {pixels.dtype}")
    if pixels.ndim == 2:
        return Image.fromarray(pixels)
    channels = pixels.shape[2]
    if channels not in (1, 2, 3, 4):
        raise _KeptError(Reason.COLORS, f"{channels} channels")
    if channels == 1:
        pixels = pixels[..., 0]
    return Image.fromarray(pixels)


PIXEL_CHUNKS = {"signature", "IHDR", "PLTE", "tRNS", "IDAT", "IEND"}
"""Parts of a PNG that are passed to its decoder; compressed texts that may be decompression bombs are not."""


def _with_pillow(structure: Structure, data: bytes) -> Image.Image:
    if structure.container == "PNG":
        parts = [part for part in structure.parts if part.name in PIXEL_CHUNKS]
        data = b"".join(data[part.offset : part.offset + part.length] for part in parts)
    try:
        with warnings.catch_warnings():
            # Pillow warns of broken metadata, which the structure has already judged.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=(PLUGINS[structure.container],))
            image.load()
    except KeyError:
        raise _KeptError(Reason.UNSUPPORTED, f"{structure.container} is not supported") from None
    except UnidentifiedImageError:
        raise _KeptError(Reason.UNSUPPORTED, f"an unsupported kind of {structure.container}") from None
    except MemoryError:
        raise  # says nothing about the file
    except Exception as error:  # decoders raise any exception on damaged files
        raise _KeptError(Reason.DAMAGED, f"{type(error).__name__}: {error}") from None
    if getattr(image, "n_frames", 1) > 1:
        raise _KeptError(Reason.FRAMES, "several pictures")
    return image


def _space(structure: Structure, image: Image.Image) -> Space:
    """The color space in which viewers show the pixels. Raises ColorsError."""
    # In PNG code points take precedence over the profile (third edition, section 4.3), elsewhere the profile does.
    if structure.container == "PNG" and structure.cicp is not None:
        return _of_code(structure)
    if structure.icc is not None:
        plain = image if image.mode in ("RGB", "L") else image.convert("RGB")
        return spaces.of_profile(structure.icc, plain)
    if structure.cicp is not None:
        return _of_code(structure)
    if structure.chromaticities is not None or structure.gamma is not None:
        return spaces.of_chromaticities(structure.chromaticities, structure.gamma)
    return spaces.PLAIN


def _of_code(structure: Structure) -> Space:
    primaries, transfer, matrix, full = cast(tuple[int, int, int, bool], structure.cicp)
    if structure.container == "PNG" and (matrix != 0 or not full):
        raise ColorsError("CICP code points that PNG does not allow")
    return spaces.of_cicp(primaries, transfer)


def _picture(structure: Structure, image: Image.Image, space: Space, verdict: Verdict) -> Picture:
    alpha = _alpha(structure, image)
    pixels = np.asarray(image.convert("RGB"))
    turned = structure.orientation
    if structure.container in ("HEIF", "JXL"):
        turned = 1  # their decoders have turned the pixels
    return Picture(
        pixels,
        gray=bool((pixels == pixels[..., :1]).all()),
        source_format=structure.container,
        alpha=alpha,
        icc=space.profile,
        orientation=turned,
        blocks=verdict.blocks,
    )


def _alpha(structure: Structure, image: Image.Image) -> NDArray[np.uint8] | None:
    """Alpha plane (H, W), or None if every pixel is opaque."""
    transparent: Any = image.info.get("transparency")
    if structure.container == "PNG" and image.mode in ("1", "L") and isinstance(transparent, int):
        # Pillow scales gray of 1, 2 and 4 bits to 8 but leaves the transparent value as the file has it.
        values = np.asarray(image.convert("L"))
        scaled = transparent * 255 // (2**structure.bits - 1)
        alpha = np.where(values == scaled, 0, 255).astype(np.uint8)
    elif image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    else:
        return None
    if not (alpha < 255).any():
        return None
    return alpha
