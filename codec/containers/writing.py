"""Writes pictures in common formats: upright, with all metadata that the format can hold.

Pixels are rotated upright, so the orientation in the copied EXIF and XMP becomes 1; no other byte of them changes.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from codec.containers import exif, gain_map, png_chunks, xmp
from codec.containers.judgement import lists_pictures
from codec.errors import SettingsError
from codec.format.tags import NAMES, MetadataBlock
from codec.images import Picture

Kind = Literal["png", "jpeg", "webp", "avif", "jxl"]
KINDS: tuple[str, ...] = get_args(Kind)
SUFFIXES = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp", "avif": "avif", "jxl": "jxl"}
"""File kinds by extension."""
EXTENSIONS = {"png": "png", "jpeg": "jpg", "webp": "webp", "avif": "avif", "jxl": "jxl"}
"""Extensions by file kind."""
DEFAULT_QUALITY = 92
LARGEST_SEGMENT = 65533
XMP_SIGNATURE = b"http://ns.adobe.com/xap/1.0/\0"
EXTENDED_XMP_SIGNATURE = b"http://ns.adobe.com/xmp/extension/\0"
EVERYWHERE = ("exIf", "xmPp", "xeXt", "phYs")
"""Blocks that every file kind can hold."""
LARGEST_TEXT = 1 << 20
TURNS = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT,),
    3: (Image.Transpose.ROTATE_180,),
    4: (Image.Transpose.FLIP_TOP_BOTTOM,),
    5: (Image.Transpose.TRANSPOSE,),
    6: (Image.Transpose.ROTATE_270,),
    7: (Image.Transpose.TRANSVERSE,),
    8: (Image.Transpose.ROTATE_90,),
}
"""The transformation that makes each orientation upright (EXIF 3.0, tag Orientation)."""


def upright(picture: Picture) -> Picture:
    """Returns the picture as a viewer shows it: rotated, with orientation 1 in its EXIF and XMP."""
    # Even for orientation 1: the blocks of a picture that its decoder has turned may still say otherwise.
    blocks = _upright_blocks(picture.blocks, TURNS.get(picture.orientation, ()))
    if picture.orientation == 1:
        return replace(picture, blocks=blocks)
    pixels = np.asarray(turned(Image.fromarray(picture.pixels), picture.orientation))
    alpha = None
    if picture.alpha is not None:
        alpha = np.asarray(turned(Image.fromarray(picture.alpha), picture.orientation))
    return replace(picture, pixels=pixels, alpha=alpha, orientation=1, blocks=blocks)


def write(picture: Picture, kind: Kind = "png", quality: int = DEFAULT_QUALITY) -> bytes:
    """Encodes a picture as a file of this kind, upright.

    `quality` (1 to 100) applies to JPEG, WebP and AVIF; PNG and JXL are lossless.

    Raises SettingsError if the kind cannot represent the picture's colors.
    """
    shown = upright(picture)
    writers: dict[str, Callable[[Picture, int], bytes]] = {
        "png": _png, "jpeg": _jpeg, "webp": _webp, "avif": _avif, "jxl": _jxl,
    }  # fmt: skip
    return writers[kind](shown, quality)


def encode_png(picture: Picture | NDArray[np.uint8]) -> bytes:
    """Encodes pixels (H, W, 3), or (H, W) gray, as a PNG file; a Picture upright, with all that PNG can hold.

    A gray picture becomes a gray PNG. A profile that does not match the kind of pixels, which PNG forbids, is left out.
    """
    if isinstance(picture, Picture):
        return write(picture, "png")
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG", compress_level=4)
    return stream.getvalue()


def left_behind(picture: Picture, kind: Kind) -> tuple[str, ...]:
    """Names the parts of a picture that a file of this kind cannot hold, as used in messages."""
    missing = {NAMES[block.tag] for block in picture.blocks if not _can_carry(block, kind)}
    if kind != "jpeg" and not xmp.joins(picture.blocks):
        missing.add(NAMES["xeXt"])
    if kind == "jpeg" and picture.alpha is not None:
        missing.add("transparency")
    return tuple(sorted(missing))


def _can_carry(block: MetadataBlock, kind: Kind) -> bool:
    if lists_pictures(block):
        return True  # written anew, or dropped together with the pictures
    if kind == "jpeg":
        return _jpeg_can_carry(block)
    if kind == "png":
        if block.tag == "unKn":
            return block.content.startswith(b"PNG ")
        return block.tag in (*EVERYWHERE, "teXt", "coMm", "ipTc", "psIr")
    return block.tag in EVERYWHERE


def _jpeg_can_carry(block: MetadataBlock) -> bool:
    if block.tag == "unKn":
        name, _, _ = block.content.partition(b"\0")
        return name.startswith(b"JPEG APP")
    if block.tag in ("phYs", "xmPp") or gain_map.is_one(block):
        return True
    return any(_jpeg_segments([block]))  # empty if the content is too long for a segment


def parse_kind(text: str) -> tuple[Kind, int]:
    """Parses `jpeg`, `jpeg:90`, ... into kind and quality. Raises SettingsError."""
    name, _, number = text.partition(":")
    kind = SUFFIXES.get(name.lower())
    if kind is None or (number and not _is_quality(number)):
        raise SettingsError(
            f"{text!r} is not a file kind; choose one of {', '.join(KINDS)}, or add a quality, as in jpeg:90"
        )
    quality = int(number) if number else DEFAULT_QUALITY
    return cast(Kind, kind), quality


def _is_quality(text: str) -> bool:
    return text.isdecimal() and 1 <= int(text) <= 100


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """Applies an orientation of EXIF."""
    for turn in TURNS.get(orientation, ()):
        image = image.transpose(turn)
    return image


def _upright_blocks(blocks: Sequence[MetadataBlock], turns: Sequence[Image.Transpose]) -> tuple[MetadataBlock, ...]:
    """The blocks of an upright picture. Gain maps are rotated too, which changes the length stated in XMP."""
    turned_maps: list[tuple[MetadataBlock, MetadataBlock]] = []
    shown: list[MetadataBlock] = []
    for block in blocks:
        if turns and gain_map.is_one(block):
            turned = gain_map.turned(block, turns)
            turned_maps.append((block, turned))
            shown.append(turned)
        else:
            shown.append(block)
    return tuple(_upright_block(block, turned_maps) for block in shown)


def _upright_block(block: MetadataBlock, turned_maps: Sequence[tuple[MetadataBlock, MetadataBlock]]) -> MetadataBlock:
    content = block.content
    if block.tag == "exIf":
        content = exif.upright(content)
    elif block.tag in ("xmPp", "xeXt", "teXt"):
        content = xmp.upright(content)
    if block.tag == "xmPp":
        for old, new in turned_maps:
            content = gain_map.resized(content, old, new)
    return MetadataBlock(block.tag, content)


def to_pillow(picture: Picture) -> tuple[Image.Image, bytes | None]:
    """The stored pixels as an image of Pillow, grayscale if `is_shown_gray`, and the profile if it fits them."""
    gray = is_shown_gray(picture.gray, picture.icc)
    if gray:
        image = Image.fromarray(np.ascontiguousarray(picture.pixels[..., 0]))
    else:
        image = Image.fromarray(picture.pixels)
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha))
    return image, fitting_profile(picture.icc, gray=gray)


def is_shown_gray(gray: bool, icc: bytes | None) -> bool:
    """Whether gray pixels can be one channel: a profile of RGB needs three."""
    return gray and _space(icc) in (b"", b"GRAY")


def fitting_profile(icc: bytes | None, *, gray: bool) -> bytes | None:
    """The profile, or None if it is for other pixels: PNG forbids such a one, and viewers ignore it."""
    return icc if _space(icc) == (b"GRAY" if gray else b"RGB ") else None


def _space(icc: bytes | None) -> bytes:
    """The color space of a profile's header; empty without a profile."""
    return (icc or b"")[16:20]


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """Encodes with Pillow. Options that are None are left out, since not all of its writers take None."""
    given = {name: value for name, value in options.items() if value is not None}
    stream = io.BytesIO()
    image.save(stream, kind, **given)
    return stream.getvalue()


def _png(picture: Picture, _: int) -> bytes:
    image, icc = to_pillow(picture)
    data = _saved(image, "PNG", compress_level=4, icc_profile=icc)
    chunks = b"".join(png_chunks.of_block(block) for block in _one_packet(picture))
    # Some chunks must come before the image data; a chunk begins with the four bytes of its length.
    first = data.index(b"IDAT") - 4
    return data[:first] + chunks + data[first:]


def _one_packet(picture: Picture) -> tuple[MetadataBlock, ...]:
    """Returns the blocks with extended XMP merged into the standard packet."""
    blocks = tuple(block for block in picture.blocks if block.tag not in ("xmPp", "xeXt"))
    packet = xmp.whole(picture.blocks)
    if packet is None:
        return blocks
    return (*blocks, MetadataBlock("xmPp", packet))


def _jpeg(picture: Picture, quality: int) -> bytes:
    image, icc = to_pillow(picture)
    if image.mode in ("LA", "RGBA"):  # JPEG has no transparency: composite over white
        below = Image.new("RGBA", image.size, "white")
        below.alpha_composite(image.convert("RGBA"))
        image = below.convert("L" if image.mode == "LA" else "RGB")
    subsampling = 0 if quality >= 90 else 2  # 4:4:4 or 4:2:0
    data = _saved(image, "JPEG", quality=quality, subsampling=subsampling, icc_profile=icc)
    # The segments go between SOI with JFIF, which must be first, and the rest.
    header = 2 + 2 + struct.unpack_from(">H", data, 4)[0]
    start = data[:header]
    resolution = _content(picture.blocks, "phYs")
    if resolution is not None and data[6:11] == b"JFIF\0":
        start = start[:13] + _jfif_density(resolution, start[13:18]) + start[18:]
    segments = b"".join(_jpeg_segments(picture.blocks))
    return gain_map.joined(start + segments, data[header:], picture.blocks)


def _content(blocks: Iterable[MetadataBlock], tag: str) -> bytes | None:
    """The content of the first block with this tag."""
    for block in blocks:
        if block.tag == tag:
            return block.content
    return None


def _jfif_density(content: bytes, default: bytes) -> bytes:
    """Unit and densities of a JFIF header; the default if they do not fit into 16 bits."""
    unit, across, across_of, down, down_of = struct.unpack("<B4I", content)
    if not across_of or not down_of:
        return default
    factor = 0.0254 if unit == 3 else 1.0  # convert pixels per meter to pixels per inch
    values = [round(across / across_of * factor), round(down / down_of * factor)]
    if not all(0 < value < 65536 for value in values):
        return default
    return struct.pack(">BHH", 1 if unit == 3 else unit, *values)


def _jpeg_segments(blocks: Iterable[MetadataBlock]) -> Iterable[bytes]:
    """The segments for these blocks; an empty one for content that does not fit."""
    for block in blocks:
        content = block.content
        match block.tag:
            case "exIf":
                yield _segment(0xE1, b"Exif\0\0" + content)
            case "xmPp":
                if len(content) <= xmp.LARGEST_PACKET:
                    yield _segment(0xE1, XMP_SIGNATURE + content)
                    continue
                standard, portions = xmp.split(content)
                yield _segment(0xE1, XMP_SIGNATURE + standard)
                for portion in portions:
                    yield _segment(0xE1, EXTENDED_XMP_SIGNATURE + portion)
            case "xeXt":
                yield _segment(0xE1, EXTENDED_XMP_SIGNATURE + content)
            case "psIr":
                yield _segment(0xED, content)
            case "ipTc":
                # Photoshop's image resource 0x0404, padded to an even length.
                record = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(content)) + content + bytes(len(content) % 2)
                yield _segment(0xED, b"Photoshop 3.0\0" + record)
            case "coMm":
                yield _segment(0xFE, content)
            case "teXt":
                text = _plain_text(content)
                if text:
                    yield _segment(0xFE, text)
            case "unKn":
                name, _, data = content.partition(b"\0")
                # gain_map.joined writes a list of pictures of its own: the old one has other offsets.
                if name.startswith(b"JPEG APP") and not data.startswith(b"MPF\0"):
                    yield _segment(0xE0 + int(name[8:]), data)


def _plain_text(content: bytes) -> bytes:
    """`keyword: text` of a PNG text; empty if it is broken or too long for a comment."""
    kind = content[:4]
    keyword, _, rest = content[4:].partition(b"\0")
    packed = False
    if kind == b"zTXt":
        packed = True
        rest = rest[1:]  # without the compression method
    elif kind == b"iTXt":
        packed = rest[:1] == b"\1"
        _, _, rest = rest[2:].partition(b"\0")  # without the language
        _, _, rest = rest.partition(b"\0")  # without the translated keyword
    if packed:
        try:
            rest = zlib.decompressobj().decompress(rest, LARGEST_TEXT)  # no more: it may be a decompression bomb
        except zlib.error:
            return b""
    return keyword + b": " + rest


def _segment(marker: int, content: bytes) -> bytes:
    """Encodes a segment; empty if the content is too long for one."""
    if len(content) > LARGEST_SEGMENT:
        return b""
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def _webp(picture: Picture, quality: int) -> bytes:
    image, icc = to_pillow(picture)
    return _saved(image, "WEBP", quality=quality, icc_profile=icc, **_exif_and_xmp(picture))


def _avif(picture: Picture, quality: int) -> bytes:
    image, icc = to_pillow(picture)
    return _saved(image, "AVIF", quality=quality, icc_profile=icc, **_exif_and_xmp(picture))


def _exif_and_xmp(picture: Picture) -> dict[str, bytes | None]:
    """Options of Pillow's writers."""
    block = _exif(picture)
    packet = xmp.whole(picture.blocks)
    if not block:
        return {"exif": None, "xmp": packet}
    return {"exif": b"Exif\0\0" + block, "xmp": packet}


def _exif(picture: Picture) -> bytes | None:
    """The EXIF block, or one that states the resolution if the picture has nothing else."""
    found = {block.tag: block.content for block in picture.blocks}
    if "exIf" in found:
        return found["exIf"]
    if "phYs" in found:
        return exif.of_resolution(found["phYs"])  # these formats have no field for it
    return None


def _jxl(picture: Picture, _: int) -> bytes:
    """Lossless JPEG XL in its container, with EXIF and XMP in boxes (ISO/IEC 18181-2)."""
    import imagecodecs

    if picture.icc:
        raise SettingsError("JPEG XL is written in sRGB only; choose png, webp or avif for this picture")
    image, _icc = to_pillow(picture)
    coded = bytes(imagecodecs.jpegxl_encode(np.asarray(image), lossless=True, effort=3, numthreads=1))
    data = _box(b"JXL ", b"\r\n\x87\n") + _box(b"ftyp", b"jxl \0\0\0\0jxl ") + _box(b"jxlc", coded)
    block = _exif(picture)
    if block:
        data += _box(b"Exif", bytes(4) + block)  # after the offset of the TIFF header
    packet = xmp.whole(picture.blocks)
    if packet:
        data += _box(b"xml ", packet)
    return data


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content
