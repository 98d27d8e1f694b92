"""Registers .fdc with Pillow: `import codec.pillow`, then Image.open, Image.save and all that is built on them.

>>> import codec.pillow
>>> from PIL import Image
>>> Image.open("photo.jpg").save("photo.fdc", quality=8)
>>> Image.open("photo.fdc").size

`Image.open` reads size, mode and info from the file's header and chunks, without torch; the networks run when pixels
are needed. Images are upright, as `fdc decode` writes them. Damaged files raise OSError, other files
UnidentifiedImageError, too large ones Image.DecompressionBombError, as with Pillow's own formats.
"""

import functools
import io
import struct
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFile

from codec.color import spaces
from codec.containers import exif as exif_blocks
from codec.containers import writing, xmp
from codec.errors import BitstreamError, BitstreamLimitError, FdcError, SettingsError
from codec.format import bitstream, tags, version1
from codec.format.bitstream import FdcFile
from codec.format.tags import MetadataBlock
from codec.goal import Goal
from codec.images import RGB_MODES, Picture, alpha_plane

if TYPE_CHECKING:
    from codec.codec import Codec

FORMAT = "FDC"
MEDIA_TYPE = "image/vnd.fdcodec"
EXIF_PREFIX = b"Exif\0\0"
UNITS_OF_INCH = {1: 1.0, 2: 2.54, 3: 0.0254}
"""How many inches, centimeters and meters an inch has, by the unit of a resolution block."""

# As in Pillow's AVIF plug-in: Image.open takes no parameters of a format.
BUNDLES: list[str | Path] = []
"""Folders of trained codecs beside the embedded ones, to decode files of other bundles."""
DEVICE = "cpu"
"""PyTorch device of the networks, for decoding and as the default of save."""


class FdcImageFile(ImageFile.ImageFile):
    """An .fdc file. `info` has exif, xmp, icc_profile, dpi and comment if the file has them, and `fdc`."""

    format = FORMAT
    format_description = "fdcodec"

    def _open(self) -> None:
        assert self.fp is not None
        self._data = self.fp.read()
        file = _parsed(self._data)
        self._size = file.upright_size
        self._preview = _preview(file)
        self._drafted: Image.Image | None = None
        blocks = writing.upright(_without_pixels(file)).blocks
        icc = _content(file, tags.ICC)
        gray = writing.is_shown_gray(file.gray, icc)
        has_alpha = any(chunk.tag == tags.ALPHA for chunk in file.chunks)
        self._mode = ("L" if gray else "RGB") + ("A" if has_alpha else "")
        self.info.update(_info(blocks, writing.fitting_profile(icc, gray=gray)))
        self.info["fdc"] = {
            "version": file.version,
            "bundle_id": file.bundle_id,
            "quality": file.quality,
            "timestep": file.timestep,
            "bits_per_pixel": 8 * len(self._data) / (file.width * file.height),
        }
        self._set_tile()

    def _set_tile(self) -> None:
        self.tile = [ImageFile._Tile("raw", (0, 0, *self.size), 0, self.mode)]

    def draft(self, mode: str | None, size: tuple[int, int] | None) -> Any:
        """Chooses the stored preview if it fills a box of `size`; the networks need not run then."""
        if self._preview is None or size is None or not self.tile:
            return None
        preview = self._preview
        if preview.width < size[0] and preview.height < size[1]:
            return None
        self._drafted = preview
        self._size = preview.size
        self._set_tile()
        return self.mode, (0, 0, *preview.size)

    def load(self) -> Any:
        """Decodes the pixels. Raises OSError."""
        if self.tile:
            image = self._decoded()
            if self.fp and self._exclusive_fp:
                self.fp.close()
            self.fp = io.BytesIO(image.tobytes())
        return super().load()

    def load_seek(self, pos: int) -> None:
        """The pixels are not in the file but in memory."""

    def _decoded(self) -> Image.Image:
        if self._drafted is not None:
            return self._drafted.convert(self.mode)
        try:
            picture = _codec_of(_parsed(self._data).bundle_id).decode_picture(
                self._data, max_pixels=bitstream.MAX_PIXELS
            )
        except FdcError as error:
            raise OSError(f"cannot decode image file: {error}") from error
        return writing.to_pillow(writing.upright(picture))[0]


def _accept(prefix: bytes) -> bool:
    return prefix.startswith((bitstream.SIGNATURE, version1.MAGIC))


def _parsed(data: bytes) -> FdcFile:
    """Parses a file within Pillow's limit on pixels. Raises OSError, Image.DecompressionBombError."""
    most = bitstream.MAX_PIXELS
    if Image.MAX_IMAGE_PIXELS is not None:
        most = min(most, 2 * Image.MAX_IMAGE_PIXELS)  # Pillow itself warns from one times its limit on
    try:
        return bitstream.parse(data, max_pixels=most)
    except BitstreamLimitError as error:
        raise Image.DecompressionBombError(str(error)) from error
    except BitstreamError as error:
        raise OSError(f"image file is damaged or truncated: {error}") from error


def _content(file: FdcFile, tag: str) -> bytes | None:
    for chunk in file.chunks:
        if chunk.tag == tag:
            return chunk.content
    return None


def _preview(file: FdcFile) -> Image.Image | None:
    """The small picture in the file, upright; None if there is none or it cannot be read."""
    content = _content(file, tags.PREVIEW)
    if content is None:
        return None
    try:
        preview = Image.open(io.BytesIO(content), formats=("WEBP",))
        preview.load()
    except (OSError, ValueError):
        return None  # the picture itself can still be decoded
    return writing.turned(preview, file.orientation)


def _without_pixels(file: FdcFile) -> Picture:
    """The file's metadata as that of a picture of one pixel."""
    blocks = tuple(
        MetadataBlock(chunk.tag, chunk.content) for chunk in file.chunks if chunk.tag not in (tags.ALPHA, tags.ICC)
    )
    return Picture(np.zeros((1, 1, 3), np.uint8), orientation=file.orientation, blocks=blocks)


def _info(blocks: tuple[MetadataBlock, ...], icc: bytes | None) -> dict[str, Any]:
    """Metadata under the names of Pillow's own formats."""
    found: dict[str, Any] = {}
    if icc is not None:
        found["icc_profile"] = icc
    for block in blocks:
        if block.tag == tags.EXIF:
            found["exif"] = EXIF_PREFIX + block.content
        elif block.tag == tags.COMMENT:
            found.setdefault("comment", block.content)
        elif block.tag == tags.RESOLUTION:
            dpi = _dpi(block.content)
            if dpi is not None:
                found["dpi"] = dpi
    packet = xmp.whole(blocks)
    if packet is not None:
        found["xmp"] = packet
    return found


def _dpi(content: bytes) -> tuple[float, float] | None:
    try:
        unit, across, across_of, down, down_of = struct.unpack("<B4I", content)
    except struct.error:
        return None  # of no use to a viewer; the file keeps it
    if unit not in UNITS_OF_INCH or not across_of or not down_of:
        return None
    return across / across_of * UNITS_OF_INCH[unit], down / down_of * UNITS_OF_INCH[unit]


@functools.cache
def _codec(bundle: Path | None, device: str) -> "Codec":
    from codec.codec import Codec

    return Codec.load(bundle, device=device)


def _codec_of(bundle_id: str) -> "Codec":
    """The codec that wrote a file, loaded once a process. Raises BundleError."""
    from codec.bundle import find_bundle

    return _codec(find_bundle(bundle_id, BUNDLES).path, DEVICE)


def _save(image: Image.Image, stream: IO[bytes], filename: str | bytes) -> None:
    """Encodes an image of Pillow; infra/docs/pillow.md lists the options.

    Raises ValueError for an impossible option, OSError for a mode or size that no file can hold and for a quality that
    no file reaches.
    """
    options = image.encoderinfo
    try:
        goal = Goal(
            quality=options.get("quality"),
            target_bpp=options.get("target_bpp"),
            min_psnr_db=options.get("min_psnr_db"),
            max_lpips=options.get("max_lpips"),
            effort=options.get("effort", 0),
        )
        picture = _picture(image, options)
        bundle = options.get("bundle")
        codec = _codec(None if bundle is None else Path(bundle), options.get("device", DEVICE))
        encoded = goal.encode(codec, picture)
    except SettingsError as error:
        raise ValueError(str(error)) from error
    except FdcError as error:
        raise OSError(f"cannot write image as {FORMAT}: {error}") from error
    stream.write(encoded.data)


def _picture(image: Image.Image, options: dict[str, Any]) -> Picture:
    """The picture to encode, with the metadata of the options and, as in Pillow's formats, the image's own profile."""
    if image.mode not in RGB_MODES:
        raise OSError(f"cannot write mode {image.mode} as {FORMAT}")
    plain = image.convert("RGB")
    icc = options.get("icc_profile", image.info.get("icc_profile")) or None
    profile: bytes | None = icc
    if icc is not None:
        try:
            profile = spaces.of_profile(icc, image if image.mode == "L" else plain).profile
        except spaces.ColorsError:
            plain = spaces.to_srgb(plain, icc)
            profile = None
    blocks = _blocks(options)
    found = {block.tag: block.content for block in blocks}
    return Picture(
        np.asarray(plain),
        gray=spaces.is_gray(plain),
        source_format=image.format or "RGB",
        alpha=alpha_plane(image),
        icc=profile,
        orientation=exif_blocks.orientation(found.get(tags.EXIF, b"")),
        blocks=blocks,
    )


def _blocks(options: dict[str, Any]) -> tuple[MetadataBlock, ...]:
    exif = options.get("exif") or b""
    if isinstance(exif, Image.Exif):
        exif = exif.tobytes()
    packet = options.get("xmp") or b""
    comment = options.get("comment") or b""
    blocks = (
        MetadataBlock(tags.EXIF, exif.removeprefix(EXIF_PREFIX)),
        MetadataBlock(tags.XMP, packet.encode() if isinstance(packet, str) else packet),
        MetadataBlock(tags.COMMENT, comment.encode() if isinstance(comment, str) else comment),
        MetadataBlock(tags.RESOLUTION, _resolution(options.get("dpi"))),
    )
    return tuple(block for block in blocks if block.content)


def _resolution(dpi: tuple[float, float] | None) -> bytes:
    """The block of a resolution in dots per inch; empty for None."""
    if dpi is None:
        return b""
    across, down = (Fraction(value).limit_denominator(10_000) for value in dpi)
    try:
        return struct.pack("<B4I", 1, across.numerator, across.denominator, down.numerator, down.denominator)
    except struct.error:
        raise ValueError(f"a resolution of {dpi} dots per inch cannot be stored") from None


def load_ipython_extension(shell: object) -> None:
    """Makes `%load_ext codec.pillow` work; the import itself has registered the format."""


Image.register_open(FORMAT, FdcImageFile, _accept)
Image.register_save(FORMAT, _save)
Image.register_extension(FORMAT, ".fdc")
Image.register_mime(FORMAT, MEDIA_TYPE)
