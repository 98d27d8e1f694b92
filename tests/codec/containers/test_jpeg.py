"""JPEG: each segment is named, and what lies behind the end."""

import struct

import pytest

from codec.containers.inspect import inspect
from codec.containers.judgement import Policy, judge
from codec.containers.reasons import Reason
from codec.containers.structure import Role
from codec.format.tags import MetadataBlock
from tests.support import containers
from tests.support.containers import PACKET, XMP, exif, film, photo, segment, with_pictures, with_segments

GAIN_MAP_XMP = XMP + PACKET % b'<rdf:Description hdrgm:Version="1.0"/>'
SMALL = photo("JPEG", 32, 24)


def reason(data: bytes, policy: Policy = Policy()) -> Reason | None:  # noqa: B008
    structure = inspect(data)
    assert sum(part.length for part in structure.parts) == len(data)
    return judge(structure, policy).reason


def test_a_plain_photo_is_compressed_and_carries_nothing() -> None:
    structure = inspect(photo())
    assert (structure.container, structure.width, structure.height) == ("JPEG", 64, 48)
    assert judge(structure).reason is None
    assert judge(structure).blocks == ()
    assert reason(photo("JPEG", progressive=True)) is None


def test_metadata_comes_back_to_the_byte() -> None:
    block = exif(6, extra=[(0x927C, 7, 9, b"MakerNote")])
    more = b"http://ns.adobe.com/xmp/extension/\0" + bytes(40)
    photoshop = b"Photoshop 3.0\08BIM\x04\x04\0\0\0\0\0\0"
    data = with_segments(
        segment(0xE1, b"Exif\0\0" + block),
        segment(0xE1, XMP + b"packet"),
        segment(0xE1, more),
        segment(0xED, photoshop),
        segment(0xFE, b"a comment"),
        segment(0xFE, b""),
        segment(0xE7, b"maker's own"),
    )
    structure = inspect(data)
    assert structure.orientation == 6
    assert judge(structure).blocks == (
        MetadataBlock("exIf", block),
        MetadataBlock("xmPp", b"packet"),
        MetadataBlock("xeXt", bytes(40)),
        MetadataBlock("psIr", photoshop),
        MetadataBlock("coMm", b"a comment"),
        MetadataBlock("unKn", b"JPEG empty coMm\0"),
        MetadataBlock("unKn", b"JPEG APP7\0maker's own"),
    )


def test_a_color_profile_in_pieces_is_put_together_and_a_missing_piece_keeps_the_file() -> None:
    pieces = [segment(0xE2, b"ICC_PROFILE\0" + bytes([number, 2]) + text) for number, text in ((2, b"b"), (1, b"a"))]
    assert inspect(with_segments(*pieces)).icc == b"ab"
    assert reason(with_segments(pieces[0])) is Reason.IRREGULAR
    assert reason(with_segments(*pieces, pieces[0])) is Reason.IRREGULAR


def test_a_resolution_is_carried_and_square_pixels_without_unit_say_nothing() -> None:
    data = bytearray(photo())
    data[13:18] = struct.pack(">BHH", 1, 300, 300)
    assert judge(inspect(bytes(data))).blocks == (MetadataBlock("phYs", struct.pack("<B4I", 1, 300, 1, 300, 1)),)
    data[13:18] = struct.pack(">BHH", 0, 1, 2)
    assert judge(inspect(bytes(data))).carried == ("phYs",)


def test_what_cannot_be_carried_keeps_the_file() -> None:
    block = segment(0xE1, b"Exif\0\0" + exif())
    assert reason(with_segments(block, block)) is Reason.METADATA
    many = [segment(0xE9, bytes(60_000))] * 18
    assert reason(with_segments(*many)) is Reason.METADATA
    assert reason(with_segments(segment(0xF3, b"?"))) is Reason.IRREGULAR
    assert reason(with_segments(b"text between")) is Reason.IRREGULAR
    assert reason(photo() + b"trailer") is Reason.TRAILING_DATA
    assert reason(photo() + photo()) is Reason.TRAILING_DATA
    assert reason(with_segments(segment(0xDB, bytes(65) + b"hidden"))) is Reason.IRREGULAR
    assert reason(with_segments(segment(0xC4, bytes(17) + b"hidden"))) is Reason.IRREGULAR


def test_padding_behind_the_end_says_nothing() -> None:
    assert reason(photo() + bytes(100)) is None
    assert reason(photo() + b"\xff" * 7) is None


def test_other_kinds_of_coding_are_kept() -> None:
    place = photo().index(b"\xff\xc0")
    for marker, expected in ((0xC3, Reason.UNSUPPORTED), (0xC9, Reason.UNSUPPORTED), (0xC5, Reason.UNSUPPORTED)):
        data = bytearray(photo())
        data[place + 1] = marker
        assert reason(bytes(data)) is expected
    data = bytearray(photo())
    data[place + 4] = 12
    assert reason(bytes(data)) is Reason.DEPTH
    cmyk = containers.stored(containers.Image.new("CMYK", (16, 16)), "JPEG")
    assert reason(cmyk) is Reason.COLORS


def test_lost_bytes_are_damage() -> None:
    data = photo("JPEG", 320, 224)
    middle = len(data) // 2
    assert reason(data[:-2]) is Reason.DAMAGED
    assert reason(data[:middle]) is Reason.DAMAGED
    assert reason(data[:middle] + bytes(len(data) - middle)) is Reason.DAMAGED
    assert reason(data[:middle] + bytes(40) + data[middle + 40 :]) is Reason.DAMAGED


@pytest.mark.parametrize("color", [0, 128, 255])
def test_a_flat_picture_is_not_taken_for_lost_bytes(color: int) -> None:
    flat = containers.Image.new("RGB", (1024, 512), (color, color, color))
    for options in ({}, {"optimize": True}, {"progressive": True}):
        assert reason(containers.stored(flat, "JPEG", **options)) is None


def test_a_gain_map_is_carried_to_the_byte_or_left_out_when_the_owner_says_so() -> None:
    data = with_pictures([(0, SMALL)], segment(0xE1, GAIN_MAP_XMP))
    verdict = judge(inspect(data))
    assert verdict.reason is None
    assert MetadataBlock("auXP", b"gain map (MPF)\0" + SMALL) in verdict.blocks
    assert "unKn" in verdict.carried  # the list of pictures itself
    verdict = judge(inspect(data), Policy(discard=frozenset({"gain-map"})))
    assert (verdict.reason, verdict.carried, verdict.discarded) == (None, ("xmPp",), ("gain-map",))


def test_another_further_picture_keeps_the_file() -> None:
    assert reason(with_pictures([(0, SMALL)])) is Reason.FRAMES
    assert reason(with_pictures([(0x020002, SMALL)])) is Reason.FRAMES


def test_a_preview_is_left_out_only_where_it_is_a_smaller_copy_with_nothing_behind_it() -> None:
    data = with_pictures([(0x010001, SMALL)])
    assert judge(inspect(data)).discarded == ("preview",)
    assert reason(data, Policy(discard=frozenset())) is Reason.FRAMES
    assert reason(with_pictures([(0x010001, photo("JPEG", 128, 96))])) is Reason.FRAMES
    assert reason(with_pictures([(0x010001, SMALL + film())])) is Reason.FRAMES


def test_a_film_keeps_the_file_unless_the_owner_leaves_it_out() -> None:
    data = with_segments(segment(0xE1, XMP + PACKET % b"<GCamera:MotionPhoto>1</GCamera:MotionPhoto>")) + film()
    assert reason(data) is Reason.TRAILING_DATA
    without_film = Policy(discard=frozenset({"motion"}))
    verdict = judge(inspect(data), without_film)
    assert (verdict.reason, verdict.discarded) == (None, ("motion",))
    assert reason(data + b"not the film's", without_film) is Reason.TRAILING_DATA


def test_content_credentials_keep_the_file_in_all_their_segments() -> None:
    first = segment(0xEB, b"JP\0\x01\0\0\0\x01" + b"\0\0\0\x20jumb....jumdc2pa")
    second = segment(0xEB, b"JP\0\x01\0\0\0\x02" + b"\0\0\0\x20jumb" + bytes(20))
    data = with_segments(first, second)
    assert reason(data) is Reason.SIGNED
    assert sum(part.role is Role.CREDENTIALS for part in inspect(data).parts) == 2
    verdict = judge(inspect(data), Policy(discard=frozenset({"content-credentials"})))
    assert (verdict.reason, verdict.carried, verdict.discarded) == (None, (), ("content-credentials",))


def test_a_thumbnail_in_the_jfif_header_keeps_the_resolution() -> None:
    header = b"JFIF\0\x01\x02\x01" + struct.pack(">HHBB", 72, 72, 1, 1) + b"rgb"
    data = photo()
    behind = containers.jpeg_boundaries(data)[1]
    verdict = judge(inspect(data[:2] + segment(0xE0, header) + data[behind:]))
    assert (verdict.reason, verdict.carried, verdict.discarded) == (None, ("phYs",), ("preview",))
    for thumbnail in (b"\x10" + photo("JPEG", 8, 8), b"\x11\1\1" + bytes(769), b"\x13\1\1rgb"):
        verdict = judge(inspect(data[:behind] + segment(0xE0, b"JFXX\0" + thumbnail) + data[behind:]))
        assert verdict.discarded == ("preview",)
        longer = segment(0xE0, b"JFXX\0" + thumbnail + b"more")
        assert judge(inspect(data[:behind] + longer + data[behind:])).carried == ("unKn",)
    assert judge(inspect(data[:2] + segment(0xE0, header + b"more") + data[behind:])).carried == ("unKn",)
