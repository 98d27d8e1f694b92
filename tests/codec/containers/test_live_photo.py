"""Apple's content identifier is read from pictures and films, and nothing else is taken for one."""

import struct

import pytest

from codec.containers.inspect import inspect
from codec.containers.live_photo import KEY, SIGN, identifier
from tests.support.containers import box, exif, film, full_box, photo, segment, with_segments

NAME = b"5F0A1C3E-0000-4D1E-9B7A-123456789ABC"


def apple_jpeg(name: bytes = NAME, tag: int = 17) -> bytes:
    note = SIGN + struct.pack(">HHHII", 1, tag, 2, len(name) + 1, 32) + bytes(4) + name + b"\0"
    inner = struct.pack("<HHHIII", 1, 0x927C, 7, len(note), 8 + 2 + 24 + 4 + 18, 0)
    entries = struct.pack("<HHHIHHHHII", 2, 274, 3, 1, 1, 0, 0x8769, 4, 1, 38) + bytes(4)
    return with_segments(segment(0xE1, b"Exif\0\0II*\0" + struct.pack("<I", 8) + entries + inner + note))


def apple_film(name: bytes = NAME, key: bytes = KEY) -> bytes:
    keys = full_box(b"keys", struct.pack(">II4s", 1, 8 + len(key), b"mdta") + key)
    item = box(struct.pack(">I", 1), box(b"data", struct.pack(">II", 1, 0) + name))
    return film() + box(b"moov", box(b"meta", keys, box(b"ilst", item)))


def test_picture_and_film_have_one_identifier() -> None:
    assert identifier(apple_jpeg(), inspect(apple_jpeg())) == NAME.decode()
    assert identifier(apple_film(), None) == NAME.decode()


@pytest.mark.parametrize(
    "data",
    [photo(), apple_jpeg(tag=18), apple_jpeg(b"\xff\xff"), apple_jpeg(b"a" * 200),
     with_segments(segment(0xE1, b"Exif\0\0" + exif(extra=[(0x8769, 4, 1, b"\xff\xff\0\0")])))],
)  # fmt: skip
def test_pictures_without_one(data: bytes) -> None:
    assert identifier(data, inspect(data)) is None


@pytest.mark.parametrize(
    "data", [b"", b"a text", film(), apple_film(key=b"com.apple.quicktime.make"), apple_film()[:-30], apple_film(b"\n")]
)
def test_films_without_one(data: bytes) -> None:
    assert identifier(data, None) is None
