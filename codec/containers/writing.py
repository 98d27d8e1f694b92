"""Writes pictures in common formats: upright, with all metadata that the format can hold.

Pixels are rotated upright, so the orientation in the copied EXIF and XMP becomes 1; no other byte of them changes.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from codec.containers import exif, gain_map, xmp
from codec.containers.judgement import lists_pictures
from codec.errors import SettingsError
from codec.format.tags import NAMES, MetadataBlock
from codec.images import Picture

Kind = Literal["png", "jpeg", "webp", "avif", "jxl"]
OF_STORAGE = (b"PLTE", b"hIST", b"bKGD", b"sBIT")
"""PNG chunks whose form depends on how the source stored its pixels, which differs from how they are written."""
KINDS: tuple[str, ...] = get_args(Kind)
SUFFIXES = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp", "avif": "avif", "jxl": "jxl"}
"""File kinds by extension."""
EXTENSIONS = {"png": "png", "jpeg": "jpg", "webp": "webp", "avif": "avif", "jxl": "jxl"}
"""Extensions by file kind."""
DEFAULT_QUALITY = 92
LARGEST_SEGMENT = 65533
EVERYWHERE = ("exIf", "xmPp", "xeXt", "phYs")
"""Blocks that every file kind can hold."""
LARGEST_TEXT = 1 << 20
METERS = {1: 0.0254, 2: 0.01, 3: 1.0}
"""Meters of each unit of resolution."""
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
    blocks = _upright_blocks(picture.blocks, TURNS.get(picture.orientation, ()))
    if picture.orientation == 1:
        return replace(picture, blocks=blocks)
    pixels = np.asarray(_turned(Image.fromarray(picture.pixels), picture.orientation))
    alpha = None if picture.alpha is None else np.asarray(_turned(Image.fromarray(picture.alpha), picture.orientation))
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
        return True  # dropped together with them
    if kind == "jpeg":
        name = block.content.partition(b"\0")[0]
        if block.tag == "unKn":
            return name.startswith(b"JPEG APP")
        return gain_map.is_one(block) or block.tag in ("phYs", "xmPp") or any(_jpeg_segments([block]))
    if block.tag == "unKn" and kind == "png":
        return block.content.startswith(b"PNG ")
    return block.tag in EVERYWHERE or (kind == "png" and block.tag in ("teXt", "coMm", "ipTc", "psIr"))


def parse_kind(text: str) -> tuple[Kind, int]:
    """Parses `jpeg`, `jpeg:90`, ... into kind and quality. Raises SettingsError."""
    name, _, number = text.partition(":")
    kind = SUFFIXES.get(name.lower())
    if kind is None or (number and not (number.isdecimal() and 1 <= int(number) <= 100)):
        raise SettingsError(
            f"{text!r} is not a file kind; choose one of {', '.join(KINDS)}, or add a quality, as in jpeg:90"
        )
    return kind, int(number) if number else DEFAULT_QUALITY  # type: ignore[return-value]


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    for turn in TURNS.get(orientation, ()):
        image = image.transpose(turn)
    return image


def _upright_blocks(blocks: Sequence[MetadataBlock], turns: Sequence[Image.Transpose]) -> tuple[MetadataBlock, ...]:
    """The blocks of an upright picture. Gain maps are rotated too, which changes the length stated in XMP."""
    shown = tuple(gain_map.turned(block, turns) if turns and gain_map.is_one(block) else block for block in blocks)
    return tuple(_upright_block(block, list(zip(blocks, shown, strict=True))) for block in shown)


def _upright_block(block: MetadataBlock, pairs: Sequence[tuple[MetadataBlock, MetadataBlock]]) -> MetadataBlock:
    content = block.content
    if block.tag == "exIf":
        content = exif.upright(content)
    elif block.tag in ("xmPp", "xeXt", "teXt"):
        content = xmp.upright(content)
        for old, new in pairs:
            if old is not new and block.tag == "xmPp":
                content = gain_map.resized(content, old, new)
    return MetadataBlock(block.tag, content)


def _image(picture: Picture, *, alpha: bool) -> tuple[Image.Image, bytes | None]:
    """Pixels for Pillow, grayscale if all are gray and the profile allows it, and the profile if it fits."""
    space = (picture.icc or b"")[16:20]
    gray = picture.gray and space in (b"", b"GRAY")
    image = Image.fromarray(np.ascontiguousarray(picture.pixels[..., 0]) if gray else picture.pixels)
    if picture.alpha is not None and alpha:
        image.putalpha(Image.fromarray(picture.alpha))
    return image, picture.icc if space == (b"GRAY" if gray else b"RGB ") else None


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **{name: value for name, value in options.items() if value is not None})
    return stream.getvalue()


def _png(picture: Picture, _: int) -> bytes:
    image, icc = _image(picture, alpha=True)
    data = _saved(image, "PNG", compress_level=4, icc_profile=icc)
    chunks = b"".join(_png_chunk(*pair) for block in _one_packet(picture) for pair in _png_chunks(block))
    first = data.index(b"IDAT") - 4
    return data[:first] + chunks + data[first:]


def _one_packet(picture: Picture) -> tuple[MetadataBlock, ...]:
    """Returns the blocks with extended XMP merged into the standard packet."""
    blocks = tuple(block for block in picture.blocks if block.tag not in ("xmPp", "xeXt"))
    packet = xmp.whole(picture.blocks)
    return blocks if packet is None else (*blocks, MetadataBlock("xmPp", packet))


def _png_chunks(block: MetadataBlock) -> Iterable[tuple[bytes, bytes]]:
    content = block.content
    match block.tag:
        case "exIf":
            yield b"eXIf", content
        case "xmPp":
            yield b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + content
        case "teXt":
            yield content[:4], content[4:]
        case "coMm":
            yield b"tEXt", b"Comment\0" + content.replace(b"\0", b" ")
        case "ipTc":
            yield b"zTXt", _raw_profile(b"iptc", content)
        case "psIr":
            yield b"zTXt", _raw_profile(b"8bim", content.removeprefix(b"Photoshop 3.0\0"))
        case "phYs":
            yield from _png_resolution(content)
        case "unKn":
            name, _, data = content.partition(b"\0")
            if name.startswith(b"PNG ") and len(name) == 8 and name[4:] not in OF_STORAGE:
                yield name[4:], data


def _png_resolution(content: bytes) -> Iterable[tuple[bytes, bytes]]:
    unit, across, across_of, down, down_of = struct.unpack("<B4I", content)
    if across_of and down_of:
        meters = METERS.get(unit, 1.0)
        values = [round(across / across_of / meters), round(down / down_of / meters)]
        if all(0 < value < 1 << 31 for value in values):
            yield b"pHYs", struct.pack(">IIB", *values, 1 if unit else 0)


def _raw_profile(kind: bytes, content: bytes) -> bytes:
    """Hexadecimal text, as ImageMagick and ExifTool store blocks for which PNG has no chunk."""
    digits = content.hex().encode()
    lines = b"\n".join(digits[begin : begin + 72] for begin in range(0, len(digits), 72))
    text = b"\n" + kind + b"\n" + str(len(content)).rjust(8).encode() + b"\n" + lines + b"\n"
    return b"Raw profile type " + kind + b"\0\0" + zlib.compress(text)


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + zlib.crc32(body).to_bytes(4, "big")


def _jpeg(picture: Picture, quality: int) -> bytes:
    image, icc = _image(picture, alpha=True)
    if image.mode in ("LA", "RGBA"):  # JPEG has no transparency: composite over white
        below = Image.new("RGBA", image.size, "white")
        below.alpha_composite(image.convert("RGBA"))
        image = below.convert("L" if image.mode == "LA" else "RGB")
    data = _saved(image, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2, icc_profile=icc)
    header = 2 + 2 + struct.unpack_from(">H", data, 4)[0]
    start = data[:header]
    resolution = next((block.content for block in picture.blocks if block.tag == "phYs"), None)
    if resolution is not None and data[6:11] == b"JFIF\0":
        start = start[:13] + _jfif_density(resolution, start[13:18]) + start[18:]
    segments = b"".join(_jpeg_segments(picture.blocks))
    return gain_map.joined(start + segments, data[header:], picture.blocks)


def _jfif_density(content: bytes, default: bytes) -> bytes:
    unit, across, across_of, down, down_of = struct.unpack("<B4I", content)
    if not across_of or not down_of:
        return default
    factor = 0.0254 if unit == 3 else 1.0  # convert pixels per meter to pixels per inch
    values = [round(across / across_of * factor), round(down / down_of * factor)]
    if not all(0 < value < 65536 for value in values):
        return default
    return struct.pack(">BHH", 1 if unit == 3 else unit, *values)


def _jpeg_segments(blocks: Iterable[MetadataBlock]) -> Iterable[bytes]:
    for block in blocks:
        content = block.content
        match block.tag:
            case "exIf":
                yield _segment(0xE1, b"Exif\0\0" + content)
            case "xmPp":
                standard, portions = (content, []) if len(content) <= xmp.LARGEST_PACKET else xmp.split(content)
                yield _segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + standard)
                for portion in portions:
                    yield _segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + portion)
            case "xeXt":
                yield _segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + content)
            case "psIr":
                yield _segment(0xED, content)
            case "ipTc":
                record = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(content)) + content + bytes(len(content) % 2)
                yield _segment(0xED, b"Photoshop 3.0\0" + record)
            case "coMm":
                yield _segment(0xFE, content)
            case "teXt":
                if text := _plain_text(content):
                    yield _segment(0xFE, text)
            case "unKn":
                name, _, data = content.partition(b"\0")
                if name.startswith(b"JPEG APP") and not data.startswith(b"MPF\0"):
                    yield _segment(0xE0 + int(name[8:]), data)


def _plain_text(content: bytes) -> bytes:
    """`keyword: text` of a PNG text; empty if it is broken or too long for a comment."""
    kind, (keyword, _, rest) = content[:4], content[4:].partition(b"\0")
    packed = kind == b"zTXt"
    if packed:
        rest = rest[1:]
    elif kind == b"iTXt":
        packed, rest = rest[:1] == b"\1", rest[2:]
        for _ in range(2):  # language, translated keyword
            rest = rest.partition(b"\0")[2]
    if packed:
        try:
            rest = zlib.decompressobj().decompress(rest, LARGEST_TEXT)
        except zlib.error:
            return b""
    return keyword + b": " + rest


def _segment(marker: int, content: bytes) -> bytes:
    """Encodes a segment; empty if the content is too long for one."""
    if len(content) > LARGEST_SEGMENT:
        return b""
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def _webp(picture: Picture, quality: int) -> bytes:
    image, icc = _image(picture, alpha=True)
    return _saved(image, "WEBP", quality=quality, icc_profile=icc, **_exif_and_xmp(picture))


def _avif(picture: Picture, quality: int) -> bytes:
    image, icc = _image(picture, alpha=True)
    return _saved(image, "AVIF", quality=quality, icc_profile=icc, **_exif_and_xmp(picture))


def _exif_and_xmp(picture: Picture) -> dict[str, bytes | None]:
    block = _exif(picture)
    return {"exif": b"Exif\0\0" + block if block else None, "xmp": xmp.whole(picture.blocks)}


def _exif(picture: Picture) -> bytes | None:
    """The EXIF block, or one that states the resolution if the picture has nothing else."""
    found = {block.tag: block.content for block in picture.blocks}
    if "exIf" not in found and "phYs" in found:
        return exif.of_resolution(found["phYs"])
    return found.get("exIf")


def _jxl(picture: Picture, _: int) -> bytes:
    """Lossless JPEG XL in its container, with EXIF and XMP in boxes (ISO/IEC 18181-2)."""
    import imagecodecs

    if picture.icc:
        raise SettingsError("JPEG XL is written in sRGB only; choose png, webp or avif for this picture")
    image, _icc = _image(picture, alpha=True)
    coded = bytes(imagecodecs.jpegxl_encode(np.asarray(image), lossless=True, effort=3, numthreads=1))
    block, packet = _exif(picture), xmp.whole(picture.blocks)
    boxes = [(b"JXL ", b"\r\n\x87\n"), (b"ftyp", b"jxl \0\0\0\0jxl "), (b"jxlc", coded)]
    if block:
        boxes.append((b"Exif", bytes(4) + block))
    if packet:
        boxes.append((b"xml ", packet))
    return b"".join(struct.pack(">I", 8 + len(content)) + kind + content for kind, content in boxes)
