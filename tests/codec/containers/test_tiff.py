"""TIFF: every directory, value and strip has a name, and metadata moves into a block with equal values."""

import io
import struct
import tracemalloc

import pytest
from PIL import Image

from codec.containers.inspect import inspect
from codec.containers.judgement import Policy, judge
from codec.containers.reasons import Reason
from codec.format.tags import MetadataBlock
from tests.conftest import synthetic
from tests.support.containers import Entry, resolution, short, text, tiff, with_segments
from tests.support.image_files import stored


def reason(data: bytes, policy: Policy = Policy()) -> Reason | None:  # noqa: B008
    structure = inspect(data)
    assert sum(part.length for part in structure.parts) == len(data)
    return judge(structure, policy).reason


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"])
def test_what_pillow_writes_is_compressed(compression: str) -> None:
    image = Image.fromarray(synthetic(24, 32))
    image = image.convert("1") if compression == "group4" else image
    assert reason(stored(image, "TIFF", compression=compression)) is None


def test_bigtiff_and_both_byte_orders_are_read() -> None:
    assert reason(stored(Image.fromarray(synthetic(24, 32)), "TIFF", big_tiff=True)) is None
    for order in "<>":
        assert reason(tiff(order=order)) is None


@pytest.mark.parametrize("order", ["<", ">"])
def test_texts_exif_and_gps_move_into_a_block_with_equal_values(order: str) -> None:
    latitude = struct.pack(f"{order}6I", 48, 1, 51, 1, 30, 1)
    directories: list[tuple[int, list[Entry]]] = [
        (34665, [text(36867, b"2026:11:27 12:00:00"), (33434, 5, 1, struct.pack(f"{order}II", 1, 60))]),
        (34853, [text(1, b"N"), (2, 5, 3, latitude)]),
    ]
    entries = [text(270, b"a description"), text(315, b"an artist"), text(306, b"2026:11:27 12:00:00")]
    data = tiff(*entries, short(18246, 4, order=order), *resolution(600, order), order=order, directories=directories)
    verdict = judge(inspect(data))
    assert verdict.reason is None
    assert verdict.carried == ("exIf", "phYs")
    assert MetadataBlock("phYs", struct.pack("<B4I", 1, 600, 1, 600, 1)) in verdict.blocks
    found = Image.Exif()
    found.load(verdict.blocks[0].content)
    assert (found[270], found[315], found[18246]) == ("a description", "an artist", 4)
    assert dict(found.get_ifd(34665)) == {36867: "2026:11:27 12:00:00", 33434: 1 / 60}
    assert dict(found.get_ifd(34853)) == {1: "N", 2: (48.0, 51.0, 30.0)}


def test_xmp_iptc_photoshop_and_profile_are_carried() -> None:
    contents = {700: b"<xmp/>", 33723: b"\x1c\x02iptc", 34377: b"8BIM\x04\x04\0\0", 34675: b"profile"}
    structure = inspect(tiff(*[(tag, 7, len(content), content) for tag, content in contents.items()]))
    assert structure.icc == b"profile"
    assert set(judge(structure).blocks) == {
        MetadataBlock("xmPp", b"<xmp/>"),
        MetadataBlock("ipTc", b"\x1c\x02iptc"),
        MetadataBlock("psIr", b"Photoshop 3.0\08BIM\x04\x04\0\0"),
    }


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (tiff(directories=[(34665, [(37500, 7, 9, b"MakerNote")])]), Reason.METADATA),
        (tiff((34735, 3, 4, bytes(8))), Reason.METADATA),
        (tiff((37724, 7, 8, b"Adobe Ph")), Reason.METADATA),
        (tiff((51234, 7, 8, b"whatever")), Reason.METADATA),
        (tiff((270, 99, 1, b"?")), Reason.METADATA),
        (tiff((282, 5, 1, bytes(8))), Reason.METADATA),
        (tiff(behind=b"hidden bytes"), Reason.METADATA),
        (tiff() + b"trailer", Reason.TRAILING_DATA),
        (tiff(short(258, 16), (279, 4, 1, bytes([64, 0, 0, 0])), samples=1, behind=bytes(32)), Reason.DEPTH),
        (tiff(short(339, 2)), Reason.COLORS),
        (tiff(samples=4), Reason.COLORS),
        (tiff(short(338, 0), samples=4), Reason.COLORS),
        (tiff(short(262, 5)), Reason.COLORS),
        (tiff(short(262, 32803)), Reason.RAW),
        (tiff((50706, 1, 4, b"\1\4\0\0")), Reason.RAW),
        (tiff(short(254, 1)), Reason.RAW),
        (tiff(short(259, 34712)), Reason.UNSUPPORTED),
        (tiff((279, 4, 1, struct.pack("<I", 97))), Reason.IRREGULAR),
        (tiff((279, 4, 1, struct.pack("<I", 95))), Reason.DAMAGED),
        (tiff()[:-9], Reason.DAMAGED),
    ],
)
def test_what_cannot_be_carried_keeps_the_file(data: bytes, expected: Reason) -> None:
    assert reason(data) is expected


def test_alpha_that_is_stated_is_compressed() -> None:
    assert reason(tiff(short(338, 2), samples=4)) is None
    assert reason(tiff(short(338, 1), samples=4)) is None


def small(kind: int, size: tuple[int, int] = (4, 2), place: int = 8 + 96) -> list[Entry]:
    """A further directory of gray pixels, which stand behind those of the main picture."""
    width, height = size
    values = [short(tag, value) for tag, value in ((254, kind), (256, width), (257, height), (258, 8), (262, 1))]
    return [*values, (273, 4, 1, struct.pack("<I", place)), (279, 4, 1, struct.pack("<I", width * height))]


def test_a_reduced_copy_is_a_preview_and_any_other_page_is_a_picture() -> None:
    def with_page(kind: int, size: tuple[int, int] = (4, 2), *entries: Entry) -> bytes:
        return tiff(directories=[(330, [*small(kind, size), *entries])], behind=b"p" * (size[0] * size[1]))

    verdict = judge(inspect(with_page(1)))
    assert (verdict.reason, verdict.discarded) == (None, ("preview",))
    assert reason(with_page(1), Policy(discard=frozenset())) is Reason.FRAMES
    assert reason(with_page(0)) is Reason.FRAMES
    assert reason(with_page(4)) is Reason.FRAMES
    assert reason(with_page(1, (8, 4))) is Reason.FRAMES
    assert reason(with_page(1, (4, 2), text(270, b"of its own"))) is Reason.METADATA
    image = Image.fromarray(synthetic(24, 32))
    assert reason(stored(image, "TIFF", save_all=True, append_images=[image])) is Reason.FRAMES


def test_metadata_inside_a_jpeg_strip_keeps_the_file() -> None:
    inner = stored(Image.new("L", (8, 4)), "JPEG")
    for strip, expected in ((inner, None), (with_segments(b"\xff\xfe\0\x08hidden", data=inner), Reason.METADATA)):
        place = struct.pack("<I", 8 + 32)
        entries = [short(259, 7), (273, 4, 1, place), (279, 4, 1, struct.pack("<I", len(strip)))]
        data = tiff(*entries, samples=1, behind=strip)
        data = data[:8] + bytes(32) + data[40:]
        assert reason(data) is expected


@pytest.mark.parametrize("planar", [1, 2])
def test_a_stated_number_of_samples_allocates_nothing(planar: int) -> None:
    samples = (277, 4, 1, struct.pack("<I", 2**24))
    data = tiff(samples, short(284, planar))
    tracemalloc.start()
    try:
        assert reason(data) is Reason.DAMAGED
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_circles_and_hostile_numbers_end() -> None:
    data = tiff(directories=[(330, small(1))])
    pointer = struct.unpack_from("<I", data, 4)[0]
    assert reason(tiff(following=pointer)) is not None
    assert reason(tiff((330, 4, 2_000_000, struct.pack("<I", 8)))) is Reason.DAMAGED
    assert reason(b"II*\0" + b"\xff" * 40) is Reason.DAMAGED
    assert reason(io.BytesIO(data).read(30)) is Reason.DAMAGED
