"""Structural readers for formats of one header and its pixels: BMP, Netpbm, ICO, TGA, PCX."""

import re
import struct

from codec.containers.builder import Broken, Builder, resolution, unpack
from codec.containers.reasons import Reason
from codec.containers.structure import Role, Structure

BMP_HEADERS = {12, 40, 52, 56, 64, 108, 124}
BMP_SRGB, BMP_WINDOWS, BMP_EMBEDDED = b"BGRs", b" niW", b"DEBM"
MOST_TEXT = 1 << 24
"""Upper bound on text or run-length data that is parsed, in bytes."""
TGA_FOOTER = b"TRUEVISION-XFILE.\0"
TGA_KINDS = {1, 2, 3, 9, 10, 11}


def read_bmp(data: bytes) -> Structure:
    """BMP with headers of 12 to 124 bytes (Microsoft, Bitmap Storage)."""
    reader = Builder(data, "BMP", "image/bmp")
    try:
        (start,) = unpack("<I", data, 10)
        (size,) = unpack("<I", data, 14)
        if size not in BMP_HEADERS:
            raise Broken(f"a header of {size} bytes")
        width, height = unpack("<HH" if size == 12 else "<ii", data, 18)
        bits = unpack("<H", data, 24 if size == 12 else 28)[0]
        compression = unpack("<I", data, 30)[0] if size > 12 else 0
        reader.fields |= {"width": abs(width), "height": abs(height)}
        if height < 0:
            reader.fields["height"] = -height
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
    used = unpack("<I", reader.data, 46)[0] if size >= 40 else 0
    if used and bits > 8:
        reader.keep_for(Reason.METADATA, "an unused palette")
    colors = min(used or 1 << bits, 1 << bits) if bits <= 8 else 0
    palette = (3 if size == 12 else 4) * colors
    reader.part(
        0, min(start, 14 + size + palette + (12 if compression == 3 and size == 40 else 0)), "header", Role.PIXELS
    )
    length = height * (-(-width * bits // 32) * 4)
    if compression in (1, 2):
        (length,) = unpack("<I", reader.data, 34)
    if start + length > len(reader.data):
        raise Broken("the file ends within its pixels")
    reader.part(start, length, "pixels", Role.PIXELS)
    fourth = reader.data[start + 3 : start + length : 4] if bits == 32 else b""
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
    reader = Builder(data, "PPM", {b"1": "image/x-portable-bitmap", b"4": "image/x-portable-bitmap"}.get(
        kind, "image/x-portable-graymap" if kind in b"25" else "image/x-portable-pixmap"))  # fmt: skip
    if kind in b"14":
        found = re.match(rb"P[14](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})(\s)", data[: 1 << 16])
    else:
        found = re.match(
            rb"P[2356](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})(\s)",
            data[: 1 << 16],
        )
    if not found:
        reader.damage.append("not a Netpbm header")
        return reader.build()
    width, height = int(found[1]), int(found[2])
    highest = 1 if kind in b"14" else int(found[3])
    reader.fields |= {"width": width, "height": height}
    reader.part(0, found.end(), "header", Role.PIXELS)
    for comment in re.findall(rb"#([^\n]*)\n", data[: found.end()]):
        reader.carry("coMm", comment)
    if highest > 255:
        reader.fields["bits"] = 16
        reader.keep_for(Reason.DEPTH, f"samples up to {highest}")
    start, rest = found.end(), len(data) - found.end()
    if kind in b"123":
        reader.part(start, rest, "pixels", Role.PIXELS)
        _plain_samples(reader, kind, start, width * height * (3 if kind == b"3" else 1))
        return reader.build()
    length = {b"4": height * -(-width // 8), b"5": width * height, b"6": 3 * width * height}[kind]
    length *= 2 if highest > 255 else 1
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
    elif samples.translate(None, b"0123456789 \t\r\n\v\f"):
        reader.keep_for(Reason.IRREGULAR, "samples that are not numbers")
    else:
        digits = samples.translate(None, b" \t\r\n\v\f")
        found = len(digits) if kind == b"1" else len(samples.split())
        if kind == b"1" and digits.translate(None, b"01"):
            reader.damage.append("samples that are neither 0 nor 1")
        elif found < due:
            reader.damage.append(f"{found} of {due} samples")
        elif found > due:
            reader.irregular.append(f"{found} samples, of which {due} are due")


def read_ico(data: bytes) -> Structure:
    """ICO and CUR: a directory of pictures. Kept whole, since one picture cannot replace several or a mask."""
    reader = Builder(data, "ICO", "image/vnd.microsoft.icon")
    try:
        _, _, count = unpack("<HHH", data, 0)
        width, height = unpack("BB", data, 6)
        reader.fields |= {"width": width or 256, "height": height or 256}
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
    width, height, bits, flags = struct.unpack_from("<HHBB", data, 12)
    plain = data[1] == 0 and not any(data[3:8]) and (data[2], bits) in {(2, 24), (2, 32), (3, 8)} and not flags & 0xC0
    return plain and width * height > 0 and len(data) == 18 + data[0] + width * height * (bits // 8)


def read_tga(data: bytes) -> Structure:
    """TGA (Truevision, 1984 and 1991): kept whole if it has more than a header, pixels and an empty footer."""
    footer = 26 if data[-18:] == TGA_FOOTER else 0
    reader = Builder(data, "TGA", "image/x-tga")
    width, height, bits, flags = struct.unpack_from("<HHBB", data, 12)
    reader.fields |= {"width": width, "height": height}
    extension, developer = struct.unpack_from("<II", data, len(data) - 26) if footer else (0, 0)
    if bits not in (8, 24, 32) or data[2] not in (2, 3) or data[1] or flags & 0xC0:
        reader.keep_for(Reason.UNSUPPORTED, f"kind {data[2]} with {bits} bits")
    if bits == 32 and flags & 15 != 8:
        reader.keep_for(Reason.COLORS, "a fourth channel of unknown meaning")
    if any(data[3:12]):
        reader.unknown("TGA origin", data[3:12])  # of the color map and of the screen
    length = width * height * (bits // 8)
    start = 18 + data[0]
    reader.part(0, 18, "header", Role.PIXELS)
    if data[0]:
        reader.part(18, data[0], "identification", Role.METADATA)
        reader.unknown("TGA identification", data[18:start])
    reader.part(start, length, "pixels", Role.PIXELS)
    if extension or developer:
        reader.keep_for(Reason.METADATA, "an extension area")
    if footer:
        reader.part(len(data) - footer, footer, "footer", Role.SILENT)
    reader.behind(start + length)
    if start + length > len(data) - footer:
        reader.damage.append("the file ends within its pixels")
        reader.parts = []
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
    (line,) = struct.unpack_from("<H", data, 66)
    end, missing = _end_of_runs(data, 128, data[65] * line * (bottom - top + 1))
    if missing:
        reader.damage.append("the file ends within its pixels")
    reader.part(128, end - 128, "pixels", Role.PIXELS)
    if len(data) - end == 769 and data[end] == 12:
        reader.part(end, 769, "palette", Role.PIXELS)
    else:
        reader.behind(end)
    if data[65] == 3 and len(data) > end:
        reader.keep_for(Reason.METADATA, "an unused palette")
    if data[3] != 8 or data[65] not in (1, 3):
        reader.keep_for(Reason.UNSUPPORTED, f"{data[3]} bits in {data[65]} planes")
    return reader.build()


def _end_of_runs(data: bytes, position: int, due: int) -> tuple[int, bool]:
    """Offset after the run-length code of `due` bytes, and whether the file ends before."""
    while due > 0 and position < len(data):
        run = data[position] & 0x3F if data[position] >= 0xC0 else 1
        position += 2 if data[position] >= 0xC0 else 1
        due -= run
    return min(position, len(data)), due > 0 or position > len(data)
