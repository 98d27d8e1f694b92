"""What holds for all files: every byte has a name, no part is lost without a word, and no bytes raise anything else."""

import struct
import time
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.containers.inspect import inspect
from codec.containers.judgement import Policy, judge
from codec.containers.reasons import Reason
from codec.errors import ImageError
from tests.benchmarks.silent_losses import outcome
from tests.support import containers, insertions
from tests.support.containers import box, coded_item, exif, heif, segment, short, text, tiff
from tests.support.insertions import INSERTIONS, Case

EXIF = segment(0xE1, b"Exif\0\0" + exif())
FILES = (
    insertions.JPEGS[2],
    containers.with_pictures([(0x010001, insertions.SMALLER), (0, insertions.SMALLER)], EXIF),
    *insertions.PNGS,
    containers.png_with((b"tEXt", b"Title\0a"), (b"eXIf", exif())),
    *insertions.WEBPS,
    containers.photo("GIF"),
    tiff(text(270, b"words"), short(274, 6), directories=[(34665, [text(36867, b"2026")]), (34853, [text(1, b"N")])]),
    tiff(order=">", directories=[(330, [short(254, 1)])]),
    heif(
        coded_item(),
        coded_item(2, containers.auxiliary_type(b"urn:own"), references=[(b"auxl", [1])]),
        containers.HeifItem(3, b"Exif", bytes(4) + exif(), references=[(b"cdsc", [1])]),
    ),
    b"".join(insertions.JXL_HEAD),
    insertions.JP2,
    *insertions.SIMPLE,
)
LONGEST_S = 2.0


def judged(data: bytes) -> Reason | None:
    """The reason of a file, after what must hold for any bytes."""
    began = time.process_time()
    try:
        structure = inspect(data)
    except ImageError:
        return Reason.NOT_AN_IMAGE
    assert sum(part.length for part in structure.parts) == len(data)
    for metadata in ("all", "no-location", "none"):
        judge(structure, Policy(metadata=metadata))  # type: ignore[arg-type]
    assert time.process_time() - began < LONGEST_S
    return judge(structure).reason


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(INSERTIONS), st.integers(0, 2**64))
def test_nothing_that_is_put_into_a_picture_is_lost_without_a_word(make: Callable[[Random], Case], seed: int) -> None:
    assert not outcome(make(Random(seed))).startswith("lost")


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(FILES),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4),
)
def test_changed_bytes_end_in_a_structure_or_in_an_error_of_ours(
    data: bytes, changes: list[tuple[float, int, bytes]]
) -> None:
    for where, way, content in changes:
        place = int(where * len(data))
        cut = (0, len(content), 1, len(data))[way]
        data = data[:place] + content + data[place + cut :]
    judged(data)


@pytest.mark.parametrize("number", range(len(FILES)))
def test_a_file_that_is_cut_short_anywhere_ends_in_a_structure(number: int) -> None:
    data = FILES[number]
    for length in range(1, len(data), 1 + len(data) // 200):
        judged(data[:length])


def test_hostile_lengths_and_circles_take_no_time() -> None:
    many = b"\xff\xd8" + segment(0xC4, bytes(1000)) * 2000 + segment(0xDA, bytes(6)) * 2000
    boxes = box(b"ftyp", b"avif\0\0\0\0mif1avif") + box(b"free") * 20_000
    nested = heif(*[containers.HeifItem(n, b"grid", b"", (), [(b"dimg", [*range(1, 200)])]) for n in range(1, 200)])
    strips = tiff((273, 4, 50_000, bytes(200_000)), (279, 4, 50_000, b"\xff\0\0\0" * 50_000), short(259, 7))
    shared = heif(*[coded_item(number) for number in range(1, 120)]).replace(b"\0\0\0\x0f", b"\0\0\x0f\xff")
    chunks = containers.png_with(*[(b"tEXt", b"a\0b")] * 5000)
    empty = containers.riff(*[(struct.pack(">I", number), b"") for number in range(1, 150_000)])
    for data in (
        empty,
        many,
        boxes,
        nested,
        strips,
        shared,
        chunks,
        b"P2 1 1 1\n" + b"#" * 500_000,
        b"P6 " + b"\n" * 500_000,
    ):
        assert judged(data) is not None
