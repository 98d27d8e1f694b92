"""Identifies a file by its bytes alone; its name is ignored."""

import struct
from dataclasses import replace

from codec.containers import bmff, gif, heif, jp2, jpeg, jxl, png, simple, tiff, webp
from codec.containers.builder import Broken, Builder
from codec.containers.reasons import Reason
from codec.containers.structure import Role, Structure
from codec.errors import ImageError, NotAnImageError

HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1"}
"""Brands of ISO/IEC 23008-12; other files of boxes are videos."""
AVIF_BRANDS = {b"avif", b"avis"}
RAW_SIGNATURES = (
    (0, b"FUJIFILMCCD-RAW", "RAF"),
    (0, b"IIRO", "ORF"),
    (0, b"IIRS", "ORF"),
    (0, b"MMOR", "ORF"),
    (0, b"IIU\0", "RW2"),
    (0, b"\0MRM", "MRW"),
    (0, b"FOVb", "X3F"),
    (0, b"II\x1a\0\0\0HEAPCCDR", "CRW"),
)
MARKUP = (b"<?xml", b"<!--", b"<!DOCTYPE svg", b"<svg")
RAW_MARKS = (b"NIKON", b"SONY", b"PENTAX", b"SAMSUNG", b"Hasselblad", b"Phase One", b"Leica")
UNREAD = (
    (b"8BPS", "PSD", "image/vnd.adobe.photoshop"),
    (b"v/1\x01", "EXR", "image/x-exr"),
    (b"#?RADIANCE", "HDR", "image/vnd.radiance"),
    (b"gimp xcf", "XCF", "image/x-xcf"),
    (b"DDS ", "DDS", "image/vnd.ms-dds"),
    (b"\xabKTX", "KTX", "image/ktx"),
    (b"SDPX", "DPX", "image/x-dpx"),
    (b"XPDS", "DPX", "image/x-dpx"),
    (b"SIMPLE  =", "FITS", "image/fits"),
    (b"II\xbc", "JXR", "image/jxr"),
    (b"P7\n", "PAM", "image/x-portable-arbitrarymap"),
    (b"Pf ", "PFM", "image/x-portable-floatmap"),
    (b"PF ", "PFM", "image/x-portable-floatmap"),
    (b"Pf\n", "PFM", "image/x-portable-floatmap"),
    (b"PF\n", "PFM", "image/x-portable-floatmap"),
    (b"qoif", "QOI", "image/qoi"),
    (b"BPG\xfb", "BPG", "image/bpg"),
    (b"FLIF", "FLIF", "image/flif"),
    (b"AT&TFORM", "DJVU", "image/vnd.djvu"),
    (b"icns", "ICNS", "image/icns"),
    (b"%!PS-Adobe", "EPS", "application/postscript"),
    (b"\xc5\xd0\xd3\xc6", "EPS", "application/postscript"),
    (b"\xd7\xcd\xc6\x9a", "WMF", "image/wmf"),
    (b"\x8bJNG", "JNG", "image/x-jng"),
    (b"\x8aMNG", "MNG", "video/x-mng"),
)


def inspect(data: bytes) -> Structure:
    """Reads the structure of an image file. Raises NotAnImageError if it is not an image, ImageError if it is empty.

    Raises nothing else, whatever the bytes are: faults of a picture are recorded in its structure.
    """
    if not data:
        raise ImageError("the file is empty")
    try:
        return _sized(_read(data))
    except ImageError:
        raise  # before ValueError below
    except (Broken, struct.error, LookupError, ValueError, ArithmeticError, RecursionError) as error:
        # A hostile file may break a reader where it has no check of its own. The file is then kept whole.
        return _whole(data, _container(data), "application/octet-stream", Reason.DAMAGED, str(error) or "unreadable")


def _sized(structure: Structure) -> Structure:
    """Keeps a picture whole if its reader found no size."""
    if (structure.width > 0 and structure.height > 0) or structure.keep or structure.damage:
        return structure
    return replace(structure, damage=("it does not state its size",))


def _read(data: bytes) -> Structure:
    """Chooses the reader by signature; formats with the weakest signatures come last."""
    head = data[:32]
    if head.startswith(b"\xff\xd8"):
        return jpeg.read(data)
    if head.startswith(png.SIGNATURE):
        return png.read(data)
    if head.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return webp.read(data)
    if head.startswith((b"GIF87a", b"GIF89a")):
        return gif.read(data)
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") and len(data) >= 16:
        if head[8:11] == b"CR\x02":  # Canon's raw files are TIFF with a second signature
            return _whole(data, "CR2", "image/x-canon-cr2", Reason.RAW, "a camera raw file")
        return _camera(data, tiff.read(data))
    if head[4:8] == b"ftyp":
        return _boxes(data)
    if head.startswith((jxl.CONTAINER, jxl.CODESTREAM)):
        return jxl.read(data)
    if head.startswith((jp2.CONTAINER, jp2.CODESTREAM)):
        return jp2.read(data)
    for offset, signature, name in RAW_SIGNATURES:
        if data[offset : offset + len(signature)] == signature:
            return _whole(data, name, "image/x-raw", Reason.RAW, "a camera raw file")
    for signature, name, media_type in UNREAD:
        if head.startswith(signature):
            return _whole(data, name, media_type, Reason.UNSUPPORTED, f"{name} is not supported")
    text = data[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()  # without UTF-8's byte order mark
    if text.startswith(MARKUP) and b"<svg" in text:
        return _whole(data, "SVG", "image/svg+xml", Reason.UNSUPPORTED, "SVG is not supported")
    return _simple(data)


def _simple(data: bytes) -> Structure:
    """Formats of one or two characteristic bytes: plausible fields of their headers confirm them."""
    head = data[:32]
    bmp_header = int.from_bytes(data[14:18], "little")
    if head.startswith(b"BM") and len(data) > 26 and bmp_header in simple.BMP_HEADERS:
        return simple.read_bmp(data)
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in (b" ", b"\n", b"\t", b"\r", b"#"):
        return simple.read_netpbm(data)
    if head[:4] in (b"\0\0\1\0", b"\0\0\2\0") and len(data) > 22 and 0 < data[4] < 100 and data[5] == 0:
        return simple.read_ico(data)
    if head[:1] == b"\x0a" and head[1:2] in b"\0\2\3\4\5" and head[2:3] in b"\0\1" and len(data) > 128:
        return simple.read_pcx(data)
    if simple.is_tga(data):
        return simple.read_tga(data)
    raise NotAnImageError("not a picture in a known format")


def _boxes(data: bytes) -> Structure:
    brand = data[8:12]
    if brand == b"crx ":
        return _whole(data, "CR3", "image/x-canon-cr3", Reason.RAW, "a camera raw file")
    # Only the ftyp box is read: a size of 0 means that it extends to the end of the file.
    stated = int.from_bytes(data[:4], "big")
    stop = min(len(data), stated or len(data))
    first = next(bmff.boxes(data[: 1 << 16], 0, stop))
    brands = {data[position : position + 4] for position in range(first.body, first.end, 4)}
    brands.add(brand)
    if brands & (HEIF_BRANDS | AVIF_BRANDS):
        return heif.read(data)
    raise NotAnImageError(f"a video or another ISO-BMFF file (brand {brand.decode('latin-1')})")


def _camera(data: bytes, structure: Structure) -> Structure:
    """A TIFF whose first picture is a camera's preview is a raw file, with or without a tag (NEF, ARW, PEF, SRW)."""
    head = data[: 1 << 12].upper()
    previews = any(part.role in (Role.FRAMES, Role.PREVIEW) for part in structure.parts)
    if previews and any(mark.upper() in head for mark in RAW_MARKS):
        return _whole(data, "RAW", "image/x-raw", Reason.RAW, "a camera raw file")
    return structure


def _container(data: bytes) -> str:
    if data.startswith(b"\xff\xd8"):
        return "JPEG"
    if data.startswith(png.SIGNATURE):
        return "PNG"
    return "unknown"


def _whole(data: bytes, container: str, media_type: str, reason: Reason, why: str) -> Structure:
    """The structure of a file that is kept whole without being parsed."""
    reader = Builder(data, container, media_type)
    reader.part(0, len(data), "file", Role.UNACCOUNTED)
    reader.keep_for(reason, why)
    return reader.build()
