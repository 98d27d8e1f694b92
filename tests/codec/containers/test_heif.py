"""HEIF and AVIF: what each item is to the main picture."""

import struct

import pytest
from PIL import Image

from codec.containers.inspect import inspect
from codec.containers.judgement import Policy, judge
from codec.containers.reasons import Reason
from codec.containers.structure import Role
from codec.errors import NotAnImageError
from codec.format.tags import MetadataBlock
from tests.conftest import synthetic
from tests.support.containers import (
    HeifItem,
    auxiliary_type,
    av1_configuration,
    box,
    coded_item,
    exif,
    film,
    full_box,
    heif,
    picture_size,
)
from tests.support.image_files import stored

ALPHA = auxiliary_type(b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha")
GAIN_MAP = auxiliary_type(b"urn:com:apple:photo:2020:aux:hdrgainmap")
OF_MAIN = [(b"auxl", [1])]


def reason(data: bytes, policy: Policy = Policy()) -> Reason | None:  # noqa: B008
    structure = inspect(data)
    assert sum(part.length for part in structure.parts) == len(data)
    return judge(structure, policy).reason


def test_a_plain_picture_is_compressed() -> None:
    structure = inspect(heif(coded_item()))
    assert (structure.container, structure.width, structure.height, structure.bits) == ("AVIF", 64, 48, 8)
    assert judge(structure).reason is None
    transparent = Image.fromarray(synthetic(48, 64))
    transparent.putalpha(99)
    assert reason(stored(transparent, "AVIF", exif=b"Exif\0\0" + exif(), xmp=b"<xmp/>")) is None


def test_exif_xmp_and_other_metadata_come_back_to_the_byte() -> None:
    data = heif(
        coded_item(),
        HeifItem(2, b"Exif", b"\0\0\0\x06Exif\0\0" + exif(6), references=[(b"cdsc", [1])]),
        HeifItem(3, b"mime", b"<xmp/>", references=[(b"cdsc", [1])], content_type=b"application/rdf+xml"),
        HeifItem(4, b"mime", b"text", references=[(b"cdsc", [1])], content_type=b"text/plain"),
    )
    structure = inspect(data)
    assert structure.orientation == 1  # viewers of HEIF go by irot and imir
    assert judge(structure).blocks == (
        MetadataBlock("exIf", exif(6)),
        MetadataBlock("xmPp", b"<xmp/>"),
        MetadataBlock("unKn", b"HEIF mime text/plain\0text"),
    )


@pytest.mark.parametrize(
    ("properties", "orientation"),
    [
        ([], 1),
        ([box(b"irot", b"\1")], 8),
        ([box(b"irot", b"\2")], 3),
        ([box(b"irot", b"\3")], 6),
        ([box(b"imir", b"\1")], 2),
        ([box(b"imir", b"\0")], 4),
        ([box(b"irot", b"\1"), box(b"imir", b"\1")], 7),
        ([box(b"irot", b"\3"), box(b"imir", b"\1")], 5),
    ],
)
def test_the_orientation_is_that_of_irot_then_imir(properties: list[bytes], orientation: int) -> None:
    assert inspect(heif(coded_item(1, *properties))).orientation == orientation


def test_colors_become_fields() -> None:
    code = box(b"colr", b"nclx" + struct.pack(">HHHB", 12, 13, 6, 0x80))
    profile = box(b"colr", b"profprofile")
    structure = inspect(heif(coded_item(1, code, profile)))
    assert (structure.cicp, structure.icc) == ((12, 13, 6, True), b"profile")


def test_a_grid_counts_with_all_its_tiles() -> None:
    def grid(*tiles: HeifItem) -> bytes:
        main = HeifItem(1, b"grid", bytes(8), [picture_size()], [(b"dimg", [tile.number for tile in tiles])])
        return heif(main, *tiles)

    assert reason(grid(coded_item(2), coded_item(3))) is None
    assert reason(grid(coded_item(2), coded_item(3, bits=10))) is Reason.DEPTH
    assert reason(grid(coded_item(2), coded_item(3, box(b"irot", b"\1")))) is Reason.UNSUPPORTED
    missing = HeifItem(1, b"grid", bytes(8), [picture_size()], [(b"dimg", [7])])
    assert reason(heif(missing)) is Reason.DAMAGED


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (heif(coded_item(bits=10)), Reason.DEPTH),
        (heif(coded_item(), coded_item(2, ALPHA, bits=10, references=OF_MAIN)), Reason.DEPTH),
        (heif(coded_item(1, full_box(b"pixi", b"\3\x0a\x0a\x0a"))), Reason.DEPTH),
        (heif(coded_item(1, box(b"clap", bytes(32)))), Reason.UNSUPPORTED),
        (heif(coded_item(1, box(b"pasp", struct.pack(">II", 1, 2)))), Reason.UNSUPPORTED),
        (heif(coded_item(1, box(b"clli", bytes(4)))), Reason.COLORS),
        (heif(coded_item(1, box(b"priv", b"?"))), Reason.METADATA),
        (heif(coded_item(), coded_item(2)), Reason.FRAMES),
        (heif(coded_item(), coded_item(2, references=[(b"base", [1])])), Reason.FRAMES),
        (heif(coded_item(), HeifItem(2, b"Exif", b"\0\0\0\0II", references=[(b"prem", [1])])), Reason.METADATA),
        (heif(coded_item(), meta=box(b"what", b"?")), Reason.METADATA),
        (heif(coded_item(), top=box(b"what", b"?")), Reason.METADATA),
        (heif(coded_item(), top=box(b"free", b"hidden")), Reason.TRAILING_DATA),
        (heif(coded_item(), meta=box(b"free", b"hidden")), Reason.TRAILING_DATA),
        (heif(coded_item(), top=box(b"moov", bytes(8))), Reason.FRAMES),
        (heif(coded_item(), top=box(b"mpvd", film())), Reason.TRAILING_DATA),
        (heif(coded_item(), top=box(b"uuid", bytes(16), b"c2pa")), Reason.SIGNED),
        (heif(coded_item(), top=b"trailer"), Reason.TRAILING_DATA),
        (heif(coded_item(), top=b"a longer trailer"), Reason.TRAILING_DATA),
        (heif(coded_item(), filler=b"between"), Reason.METADATA),
        (heif(coded_item(), primary=9), Reason.DAMAGED),
        (heif(HeifItem(1, b"j2k1", b"coded", [picture_size()])), Reason.UNSUPPORTED),
        (heif(coded_item())[:-1], Reason.DAMAGED),
        (heif(coded_item(), brand=b"avis"), Reason.FRAMES),
    ],
)
def test_what_is_not_read_right_keeps_the_file(data: bytes, expected: Reason) -> None:
    assert reason(data) is expected


def test_empty_space_says_nothing() -> None:
    assert reason(heif(coded_item(), top=box(b"free", bytes(30)), filler=bytes(16))) is None


def test_gray_in_limited_range_is_kept() -> None:
    code = box(b"colr", b"nclx" + struct.pack(">HHHB", 1, 13, 1, 0))
    gray = HeifItem(1, b"av01", b"coded", [picture_size(), av1_configuration(gray=True), code])
    assert reason(heif(gray)) is Reason.COLORS
    assert reason(heif(coded_item(1, code))) is None


def test_a_gain_map_is_carried_with_what_describes_it_or_left_out_when_the_owner_says_so() -> None:
    data = heif(coded_item(), coded_item(2, GAIN_MAP, size=(32, 24), bits=10, references=OF_MAIN))
    verdict = judge(inspect(data))
    assert (verdict.reason, verdict.carried) == (None, ("auXP",))
    content = verdict.blocks[0].content
    assert content.startswith(b"urn:com:apple:photo:2020:aux:hdrgainmap (HEIF)\0")
    assert all(
        piece in content for piece in (b"coded picture 2", GAIN_MAP, picture_size(32, 24), av1_configuration(10))
    )
    verdict = judge(inspect(data), Policy(discard=frozenset({"gain-map"})))
    assert (verdict.reason, verdict.carried, verdict.discarded) == (None, (), ("gain-map",))


def test_a_tone_map_of_iso_21496_is_carried_with_its_gain_map() -> None:
    tone_map = HeifItem(3, b"tmap", b"parameters", [picture_size()], [(b"dimg", [1, 2])])
    structure = inspect(heif(coded_item(), coded_item(2, size=(32, 24)), tone_map))
    verdict = judge(structure)
    assert (verdict.reason, verdict.carried) == (None, ("auXP",))
    assert b"parameters" in verdict.blocks[0].content and b"coded picture 2" in verdict.blocks[0].content
    assert sum(part.role is Role.AUXILIARY for part in structure.parts) == 2


def test_a_thumbnail_is_left_out_where_it_is_smaller() -> None:
    data = heif(coded_item(), coded_item(2, size=(16, 12), references=[(b"thmb", [1])]))
    assert (judge(inspect(data)).reason, judge(inspect(data)).discarded) == (None, ("preview",))
    assert reason(heif(coded_item(), coded_item(2, references=[(b"thmb", [1])]))) is Reason.FRAMES


def test_the_container_is_that_of_the_coded_picture_whatever_the_brand() -> None:
    assert inspect(heif(coded_item(), brand=b"mif1")).container == "AVIF"
    hevc = HeifItem(1, b"hvc1", b"coded", [picture_size()])
    assert inspect(heif(hevc, brand=b"avif")).container == "HEIF"


def test_a_film_is_no_picture() -> None:
    with pytest.raises(NotAnImageError):
        inspect(film())
    assert reason(box(b"ftyp", b"crx \0\0\0\1crx isom") + box(b"moov", bytes(9))) is Reason.RAW
