"""The file format: every field survives, and anything wrong is refused with its place."""

import zlib

import pytest

from codec.errors import BitstreamError
from codec.format.bitstream import File, pack, parse
from codec.quantization.quantizer import Parameters

FILE = File(
    width=768,
    height=512,
    grey=False,
    bundle_id="0123456789abcdef",
    quality_code=112,
    parameters=Parameters((140,), 431),
    stream=bytes(range(200)) * 20,
)


def sealed(body: bytes) -> bytes:
    """A body with the checksum that belongs to it."""
    return body + zlib.crc32(body).to_bytes(4, "little")


@pytest.mark.parametrize("alphas", [(140,), (1, 2, 3, 255)])
@pytest.mark.parametrize("grey", [False, True])
def test_every_field_survives(alphas: tuple[int, ...], grey: bool) -> None:
    file = File(7, 300000, grey, "fedcba9876543210", 3, Parameters(alphas, 7992), b"abcd")
    assert parse(pack(file)) == file


def test_a_photo_costs_at_most_36_bytes_beyond_its_stream() -> None:
    assert len(pack(FILE)) - len(FILE.stream) <= 36


def test_every_truncation_is_refused() -> None:
    data = pack(FILE)
    for length in range(len(data)):
        with pytest.raises(BitstreamError):
            parse(data[:length])


def test_every_flipped_bit_is_refused() -> None:
    data = pack(FILE)
    for place in range(8 * 40):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(BitstreamError):
            parse(bytes(damaged))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"PNG\x01" + pack(FILE)[4:-4], "not an .fdc file"),
        (b"FDC\x02" + pack(FILE)[4:-4], "version 2"),
        (pack(FILE)[:4] + b"\x80" + pack(FILE)[5:-4], "unknown flags 0x80 at byte 4"),
        (pack(FILE)[:4] + b"\x20" + pack(FILE)[5:-4], "unknown flags 0x20 at byte 4"),
        (pack(FILE)[:13] + b"\x00" + pack(FILE)[15:-4], "impossible size"),
        (pack(FILE)[:13] + b"\xff\xff\x7f" + b"\xff\xff\x7f" + pack(FILE)[17:-4], "impossible size"),
        (pack(FILE)[:-4] + b"\x00", "1 bytes too many after the last part"),
        (pack(FILE)[:18] + b"\xff\xff" + pack(FILE)[20:-4], "timestep code 65535"),
        (pack(FILE)[:-20], "inside its stream"),
        (pack(FILE)[:13] + b"\x80\x00" + pack(FILE)[15:-4], "not a valid number"),
    ],
)
def test_a_hostile_header_with_a_right_checksum_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(BitstreamError, match=message):
        parse(sealed(body))
