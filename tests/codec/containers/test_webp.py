"""WebP: sizes, flags and chunks against each other."""

import pytest
from PIL import Image

from codec.containers.inspect import inspect
from codec.containers.judgement import judge
from codec.containers.reasons import Reason
from codec.format.tags import MetadataBlock
from tests.conftest import synthetic
from tests.support.containers import exif, extended_webp, photo, riff, webp_chunks
from tests.support.image_files import stored


def reason(data: bytes) -> Reason | None:
    structure = inspect(data)
    assert sum(part.length for part in structure.parts) == len(data)
    return judge(structure).reason


def test_lossy_lossless_and_transparent_pictures_are_compressed() -> None:
    assert reason(photo("WEBP")) is None
    assert reason(photo("WEBP", lossless=True)) is None
    transparent = Image.fromarray(synthetic(20, 30))
    transparent.putalpha(99)
    assert reason(stored(transparent, "WEBP")) is None
    assert reason(stored(transparent, "WEBP", lossless=True)) is None


def test_metadata_comes_back_to_the_byte() -> None:
    data = extended_webp((b"EXIF", exif(5)), (b"XMP ", b"<xmp/>"), (b"abcd", b"odd"), flags=0x0C)
    structure = inspect(data)
    assert structure.orientation == 5
    assert judge(structure).blocks == (
        MetadataBlock("exIf", exif(5)),
        MetadataBlock("xmPp", b"<xmp/>"),
        MetadataBlock("unKn", b"WEBP abcd\0odd"),
    )


@pytest.mark.parametrize(
    "data",
    [
        extended_webp((b"EXIF", exif()), flags=0),
        extended_webp(flags=0x08),
        extended_webp()[:24] + b"\x40" + extended_webp()[25:],
        extended_webp((b"VP8 ", webp_chunks(photo("WEBP"))[0][1])),
        extended_webp((b"ALPH", b"\0")),
        riff(*webp_chunks(photo("WEBP")), (b"EXIF", exif())),
    ],
    ids=["exif without flag", "flag without exif", "canvas", "second picture", "stray alpha", "no extended header"],
)
def test_what_contradicts_itself_is_irregular(data: bytes) -> None:
    assert reason(data) is Reason.IRREGULAR


def test_animations_second_pictures_and_trailers_keep_the_file() -> None:
    frames = [Image.fromarray(synthetic(16, 16) // step) for step in (1, 2)]
    assert reason(stored(frames[0], "WEBP", save_all=True, append_images=frames[1:])) is Reason.FRAMES
    both = riff(*webp_chunks(photo("WEBP")), *webp_chunks(photo("WEBP", lossless=True)))
    assert reason(both) is Reason.FRAMES
    assert reason(photo("WEBP") + b"behind") is Reason.TRAILING_DATA
    assert reason(extended_webp((b"C2PA", b"jumb"))) is Reason.SIGNED


def test_lost_bytes_are_damage() -> None:
    data = photo("WEBP", 320, 224)
    middle = len(data) // 2
    assert reason(data[:-1]) is Reason.DAMAGED
    assert reason(data[:middle] + bytes(30) + data[middle + 30 :]) is Reason.DAMAGED
    assert reason(data[:20] + bytes(3) + data[23:]) is Reason.DAMAGED


@pytest.mark.parametrize("color", [0, 128, 255])
def test_a_flat_picture_is_not_taken_for_lost_bytes(color: int) -> None:
    assert reason(stored(Image.new("RGB", (640, 480), (color,) * 3), "WEBP")) is None
