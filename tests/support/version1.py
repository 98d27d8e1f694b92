"""A writer of format version 1, which the codec itself has no more."""

import zlib

from codec.format.bitstream import parse
from codec.format.reader import varint

FLAGS = {"ALPH": 4, "ICCP": 8, "exIf": 16}


def as_version_1(data: bytes) -> bytes:
    """The version 1 form of a file whose chunks version 1 has too."""
    file = parse(data, max_pixels=2**30)
    codes = file.parameters.alpha_codes
    chunks = {chunk.tag: chunk.coded for chunk in file.chunks}
    # Version 1 had one bit for each thing that a file may have, and no tags.
    flags = sum(FLAGS[tag] for tag in chunks)
    if len(codes) == 4:
        flags |= 1
    if file.gray:
        flags |= 2
    body = b"FDC\x01" + bytes([flags]) + bytes.fromhex(file.bundle_id)
    body += varint(file.width) + varint(file.height) + bytes([file.quality_code])
    body += file.parameters.timestep_code.to_bytes(2, "little") + bytes(codes)
    body += varint(len(file.stream)) + file.stream
    for tag in FLAGS:
        if tag in chunks:
            body += varint(len(chunks[tag])) + chunks[tag]
    return body + zlib.crc32(body).to_bytes(4, "little")
