"""Structural readers for formats of one header and its pixels: BMP, Netpbm, ICO, TGA, PCX."""

import re
import struct

from codec.containers.builder import Broken, Builder, resolution, unpack
from codec.containers.reasons import Reason
from codec.containers.structure import Role, Structure

BMP_HEADERS = {12, 40, 52, 56, 64, 108, 124}
"""Lengths of the header after the file's own 14 bytes; 12 is that of OS/2, with sides of 16 bits."""
BMP_SRGB = b"BGRs"
BMP_WINDOWS = b" niW"
BMP_EMBEDDED = b"DEBM"
MOST_TEXT = 1 << 24
"""Upper bound on text or run-length data that is parsed, in bytes."""
NETPBM_GAP = rb"(?:\s|#[^\n]*\n)+"
"""White space and comments."""
NETPBM_SIZE = NETPBM_GAP + rb"(?P<width>\d{1,9})" + NETPBM_GAP + rb"(?P<height>\d{1,9})"
NETPBM_BITMAP = re.compile(rb"P[14]" + NETPBM_SIZE + rb"(\s)")
NETPBM_SAMPLES = re.compile(rb"P[2356]" + NETPBM_SIZE + NETPBM_GAP + rb"(?P<highest>\d{1,9})(\s)")
TGA_FOOTER = b"TRUEVISION-XFILE.\0"
TGA_KINDS = {1, 2, 3, 9, 10, 11}
"""Indices, RGB and gray, plain and run-length coded."""
TGA_PLAIN = {(2, 24), (2, 32), (3, 8)}
"""Kind and bits per pixel of plain RGB and gray pixels."""


def read_bmp(data: bytes) -> Structure:
    """BMP with headers of 12 to 124 bytes (Microsoft, Bitmap Storage)."""
    reader = Builder(data, "BMP", "image/bmp")
    try:
        (start,) = unpack("<I", data, 10)
        (size,) = unpack("<I", data, 14)
        if size not in BMP_HEADERS:
            raise Broken(f"a header of {size} bytes")
        compression = 0
        if size == 12:
            width, height = unpack("<HH", data, 18)
            (bits,) = unpack("<H", data, 24)
        else:
            width, height = unpack("<ii", data, 18)
            (bits,) = unpack("<H", data, 28)
            (compression,) = unpack("<I", data, 30)
        reader.fields |= {"width": abs(width), "height": abs(height)}  # a negative height means top to bottom
        if size > 12:
            across, down = unpack("<ii", data, 38)
            if across > 0 and down > 0:
                reader.carry("phYs", resolution(3, (across, 1), (down, 1)))
        if bits not in (1, 4, 8, 16, 24, 32):
            raise Broken(f"pixels of {bits} bits")
        if any(data[6:10]):
            reader.unknown("BMP reserved", data[6:10])
        _bmp_pixels(reader, start, abs(width), abs(height), bits, compression)
        if size >= 108:
            _bmp_colors(reader, size)
        _bmp_end(reader)
        if compression not in (0, 1, 2, 3):
            reader.keep_for(Reason.UNSUPPORTED, f"compression {compression}")
        if bits == 16 or (bits == 32 and (size > 40 or compression)):
            reader.keep_for(Reason.UNSUPPORTED, "color masks")
    except Broken as broken:
        reader.damage.append(str(broken))
    return reader.build()


def _bmp_pixels(reader: Builder, start: int, width: int, height: int, bits: int, compression: int) -> None:
    """Names header, palette and pixels; the bytes behind them stay unnamed."""
    (size,) = unpack("<I", reader.data, 14)
    used = 0
    if size >= 40:
        (used,) = unpack("<I", reader.data, 46)
    if used and bits > 8:
        reader.keep_for(Reason.METADATA, "an unused palette")
    header = 14 + size
    if bits <= 8:
        colors = min(used or 1 << bits, 1 << bits)  # 0 means all
        header += (3 if size == 12 else 4) * colors
    if compression == 3 and size == 40:
        header += 12  # three color masks, which longer headers contain
    reader.part(0, min(start, header), "header", Role.PIXELS)
    length = height * (-(-width * bits // 32) * 4)  # rows are padded to 32 bits
    if compression in (1, 2):  # run lengths: the header states the size
        (length,) = unpack("<I", reader.data, 34)
    if start + length > len(reader.data):
        raise Broken("the file ends within its pixels")
    reader.part(start, length, "pixels", Role.PIXELS)
    if bits == 32:
        # Some writers store transparency there, others nothing.
        fourth = reader.data[start + 3 : start + length : 4]
        if fourth.count(0) != len(fourth):
            reader.keep_for(Reason.COLORS, "a fourth channel of unknown meaning")


def _bmp_colors(reader: Builder, size: int) -> None:
    space = reader.data[70:74]
    if space == bytes(4):
        reader.keep_for(Reason.COLORS, "calibrated colors")
    elif space == BMP_EMBEDDED and size == 124:
        offset, length = struct.unpack_from("<II", reader.data, 126)
        profile = reader.data[14 + offset : 14 + offset + length]
        if len(profile) != length:
            reader.irregular.append("a truncated color profile")
        reader.part(14 + offset, length, "profile", Role.PIXELS)
        reader.fields["icc"] = profile
    elif space not in (BMP_SRGB, BMP_WINDOWS):
        reader.keep_for(Reason.COLORS, "a linked profile")


def _bmp_end(reader: Builder) -> None:
    """Bytes after pixels and profile are a trailer."""
    reader.behind(max((part.offset + part.length for part in reader.parts), default=len(reader.data)))


def read_netpbm(data: bytes) -> Structure:
    """PBM, PGM and PPM (netpbm.sourceforge.net/doc); comments are carried, further pictures keep the file whole."""
    kind = data[1:2]
    bitmap = kind in b"14"
    if bitmap:
        media_type = "image/x-portable-bitmap"
    elif kind in b"25":
        media_type = "image/x-portable-graymap"
    else:
        media_type = "image/x-portable-pixmap"
    reader = Builder(data, "PPM", media_type)
    form = NETPBM_BITMAP if bitmap else NETPBM_SAMPLES
    found = form.match(data[: 1 << 16])
    if not found:
        reader.damage.append("not a Netpbm header")
        return reader.build()
    width = int(found["width"])
    height = int(found["height"])
    highest = 1 if bitmap else int(found["highest"])
    reader.fields |= {"width": width, "height": height}
    reader.part(0, found.end(), "header", Role.PIXELS)
    for comment in re.findall(rb"#([^\n]*)\n", data[: found.end()]):
        reader.carry("coMm", comment)
    if highest > 255:
        reader.fields["bits"] = 16
        reader.keep_for(Reason.DEPTH, f"samples up to {highest}")
    start = found.end()
    rest = len(data) - start
    if kind in b"123":
        reader.part(start, rest, "pixels", Role.PIXELS)
        _plain_samples(reader, kind, start, width * height * (3 if kind == b"3" else 1))
        return reader.build()
    if kind == b"4":
        length = height * -(-width // 8)  # rows of bits, padded to bytes
    elif kind == b"5":
        length = width * height
    else:
        length = 3 * width * height
    if highest > 255:
        length *= 2
    if length > rest:
        reader.damage.append("the file ends within its pixels")
    reader.part(start, min(length, rest), "pixels", Role.PIXELS)
    if highest == 0 or highest > 65535:
        reader.damage.append(f"samples up to {highest}")
    if re.match(rb"P[1-7]\s", data[start + length : start + length + 3]):
        reader.part(start + length, len(data) - start - length, "further pictures", Role.FRAMES)
    reader.behind(start + length)
    return reader.build()


def _plain_samples(reader: Builder, kind: bytes, start: int, due: int) -> None:
    """Checks samples in text form: exactly as many numbers as the picture has samples."""
    samples = reader.data[start:]
    if len(samples) > MOST_TEXT:
        reader.keep_for(Reason.UNSUPPORTED, f"samples as {len(samples)} bytes of text")
        return
    if samples.translate(None, b"0123456789 \t\r\n\v\f"):
        reader.keep_for(Reason.IRREGULAR, "samples that are not numbers")
        return
    if kind == b"1":  # the digits of a bitmap need no white space between them
        digits = samples.translate(None, b" \t\r\n\v\f")
        if digits.translate(None, b"01"):
            reader.damage.append("samples that are neither 0 nor 1")
            return
        found = len(digits)
    else:
        found = len(samples.split())
    if found < due:
        reader.damage.append(f"{found} of {due} samples")
    elif found > due:
        reader.irregular.append(f"{found} samples, of which {due} are due")


def read_ico(data: bytes) -> Structure:
    """ICO and CUR: a directory of pictures. Kept whole, since one picture cannot replace several or a mask."""
    reader = Builder(data, "ICO", "image/vnd.microsoft.icon")
    try:
        _, _, count = unpack("<HHH", data, 0)
        width, height = unpack("BB", data, 6)
        reader.fields |= {"width": width or 256, "height": height or 256}  # a byte has no room for 256
        reader.part(0, len(data), "icons", Role.FRAMES)
        reader.keep_for(Reason.FRAMES, f"an icon of {count} pictures")
    except Broken as broken:
        reader.damage.append(str(broken))
    return reader.build()


def is_tga(data: bytes) -> bool:
    """Whether the bytes are a Truevision file: it has the footer, or exactly the length that its header implies.

    Older files have no signature; run-length coded ones among them cannot be recognized.
    """
    if len(data) <= 18 or data[2] not in TGA_KINDS:
        return False
    return (data[-18:] == TGA_FOOTER and len(data) > 44) or _is_plain_tga(data)


def _is_plain_tga(data: bytes) -> bool:
    """Whether the header is of plain pixels without a color map, and the file has exactly their length."""
    width, height, bits, flags = struct.unpack_from("<HHBB", data, 12)
    identification = data[0]
    color_map = data[1]
    kind = data[2]
    if color_map or any(data[3:8]) or (kind, bits) not in TGA_PLAIN or flags & 0xC0:
        return False
    length = int(width * height * (bits // 8))
    return length > 0 and len(data) == 18 + identification + length


def read_tga(data: bytes) -> Structure:
    """TGA (Truevision, 1984 and 1991): kept whole if it has more than a header, pixels and an empty footer."""
    footer = 26 if data[-18:] == TGA_FOOTER else 0
    reader = Builder(data, "TGA", "image/x-tga")
    identification = data[0]
    color_map = data[1]
    kind = data[2]
    width, height, bits, flags = struct.unpack_from("<HHBB", data, 12)
    reader.fields |= {"width": width, "height": height}
    if bits not in (8, 24, 32) or kind not in (2, 3) or color_map or flags & 0xC0:
        reader.keep_for(Reason.UNSUPPORTED, f"kind {kind} with {bits} bits")
    if bits == 32 and flags & 15 != 8:  # the low bits state how many of them are alpha
        reader.keep_for(Reason.COLORS, "a fourth channel of unknown meaning")
    if any(data[3:12]):
        reader.unknown("TGA origin", data[3:12])  # of the color map and of the screen
    length = width * height * (bits // 8)
    start = 18 + identification
    reader.part(0, 18, "header", Role.PIXELS)
    if identification:
        reader.part(18, identification, "identification", Role.METADATA)
        reader.unknown("TGA identification", data[18:start])
    reader.part(start, length, "pixels", Role.PIXELS)
    if footer:
        extension, developer = struct.unpack_from("<II", data, len(data) - footer)
        if extension or developer:
            reader.keep_for(Reason.METADATA, "an extension area")
        reader.part(len(data) - footer, footer, "footer", Role.SILENT)
    reader.behind(start + length)
    if start + length > len(data) - footer:
        reader.damage.append("the file ends within its pixels")
        reader.parts = []  # pixels and footer overlap
    return reader.build()


def read_pcx(data: bytes) -> Structure:
    """PCX 5 (ZSoft, 1991): one header, run-length coded pixels, a palette."""
    reader = Builder(data, "PCX", "image/vnd.zbrush.pcx")
    left, top, right, bottom = struct.unpack_from("<HHHH", data, 4)
    reader.fields |= {"width": right - left + 1, "height": bottom - top + 1}
    if right < left or bottom < top:
        reader.damage.append("an impossible size")
        return reader.build()
    reader.part(0, 128, "header", Role.PIXELS)
    if any(data[16:65]) or any(data[70:128]):
        reader.unknown("PCX header", data[:128])
    across, down = struct.unpack_from("<HH", data, 12)
    if across and down:
        reader.carry("phYs", resolution(1, (across, 1), (down, 1)))
    if len(data) > MOST_TEXT:
        reader.keep_for(Reason.UNSUPPORTED, f"runs in {len(data)} bytes")
        return reader.build()
    bits = data[3]
    planes = data[65]
    (line,) = struct.unpack_from("<H", data, 66)
    end, missing = _end_of_runs(data, 128, planes * line * (bottom - top + 1))
    if missing:
        reader.damage.append("the file ends within its pixels")
    reader.part(128, end - 128, "pixels", Role.PIXELS)
    if len(data) - end == 769 and data[end] == 12:  # a mark, then 256 colors
        reader.part(end, 769, "palette", Role.PIXELS)
    else:
        reader.behind(end)
    if planes == 3 and len(data) > end:
        reader.keep_for(Reason.METADATA, "an unused palette")
    if bits != 8 or planes not in (1, 3):
        reader.keep_for(Reason.UNSUPPORTED, f"{bits} bits in {planes} planes")
    return reader.build()


def _end_of_runs(data: bytes, position: int, due: int) -> tuple[int, bool]:
    """Offset after the run-length code of `due` bytes, and whether the file ends before."""
    while due > 0 and position < len(data):
        if data[position] >= 0xC0:  # a count in the low six bits, then the byte
            due -= data[position] & 0x3F
            position += 2
        else:
            due -= 1
            position += 1
    missing = due > 0 or position > len(data)
    return min(position, len(data)), missing
