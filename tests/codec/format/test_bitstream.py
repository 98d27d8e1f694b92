"""The file format: every field survives, has one form, and anything wrong is refused with its place."""

import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.errors import BitstreamError
from codec.format.bitstream import SIGNATURE, FdcFile, pack, parse
from codec.format.breakdown import bit_breakdown
from codec.format.chunks import Chunk, compressed
from codec.format.tags import NAMES, REPEATABLE
from codec.quantization.parameters import QuantizationParameters

FILE = FdcFile(
    width=768,
    height=512,
    gray=False,
    bundle_id="0123456789abcdef",
    quality_code=112,
    parameters=QuantizationParameters((140,), 431),
    stream=bytes(range(200)) * 20,
)
BODY = pack(FILE)[:-4]
END = len(BODY) - 1
"""Where the orientation stands, the last byte before the checksum of a file without chunks."""


def sealed(body: bytes) -> bytes:
    """A body with the checksum that belongs to it."""
    return body + zlib.crc32(body).to_bytes(4, "little")


def chunk(tag: str, content: bytes = b"content") -> Chunk:
    return Chunk(tag, compressed(content), content)


def raw(tag: bytes, payload: bytes) -> bytes:
    return tag + bytes([len(payload)]) + payload


@pytest.mark.parametrize("alphas", [(140,), (1, 2, 3, 255)])
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_field_survives(alphas: tuple[int, ...], gray: bool, orientation: int) -> None:
    parameters = QuantizationParameters(alphas, 7992)
    file = FdcFile(7, 300000, gray, "fedcba9876543210", 3, parameters, b"abcd", orientation=orientation)
    assert parse(pack(file)) == file
    assert file.upright_size == ((300000, 7) if orientation > 4 else (7, 300000))


def test_a_photo_costs_at_most_36_bytes_beyond_its_stream() -> None:
    largest = replace(FILE, width=16383, height=16383, stream=bytes(2**21 - 4))
    for file in (FILE, largest):
        assert len(pack(file)) - len(file.stream) <= 36
    assert len(pack(replace(FILE, parameters=QuantizationParameters((1, 2, 3, 4), 8)))) - len(FILE.stream) <= 40


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


def test_a_transfer_as_text_is_found_by_the_signature() -> None:
    data = pack(FILE)
    for damaged in (data.replace(b"\r\n", b"\n"), bytes([data[0] & 0x7F]) + data[1:], data[:6]):
        with pytest.raises(BitstreamError, match="signature"):
            parse(damaged)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"PNG" + BODY[3:], "not an .fdc file"),
        (SIGNATURE + b"\x03" + BODY[9:], "version 3 at byte 8"),
        (BODY[:10] + b"\x04" + BODY[11:], "unknown flags 0x04 at byte 10"),
        (BODY[:10] + b"\x80" + BODY[11:], "unknown flags 0x80 at byte 10"),
        (BODY[:19] + b"\x00" + BODY[21:], "impossible size"),
        (BODY[:19] + b"\xff\xff\x7f" + b"\xff\xff\x7f" + BODY[23:], "impossible size"),
        (BODY[:24] + b"\xff\xff" + BODY[26:], "timestep code 65535"),
        (BODY[:-20], "inside its stream"),
        (BODY[:19] + b"\x80\x00" + BODY[21:], "not a valid number"),
        (BODY[:10] + b"\x01" + BODY[11:26] + bytes([9] * 4) + BODY[27:], "four equal alpha codes"),
        (BODY[:27] + b"\x00" + BODY[END:], "stream length of 0 bytes"),
        (BODY[:27] + b"\x05abcde" + BODY[END:], "stream length of 5 bytes"),
        (BODY[:END] + b"\x00", "orientation 0"),
        (BODY[:END] + b"\x09", "orientation 9"),
        (BODY[:END], "inside its orientation"),
    ],
)
def test_a_hostile_header_with_a_right_checksum_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(BitstreamError, match=message):
        parse(sealed(body))


def test_four_equal_alpha_codes_are_written_as_one() -> None:
    assert parse(pack(replace(FILE, parameters=QuantizationParameters((9, 9, 9, 9), 8)))).parameters.alpha_codes == (9,)


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        (raw(b"XyZw", b""), "critical chunk XyZw at byte"),
        (raw(b"exif", b""), "not a chunk tag"),
        (raw(b"ex1f", b""), "not a chunk tag"),
        (raw(b"e\xc3If", b""), "not a chunk tag"),
        (raw(b"exIf", compressed(b"a")) * 2, "repeated or out of order"),
        (raw(b"xmPp", compressed(b"a")) + raw(b"exIf", compressed(b"a")), "out of order"),
        (raw(b"exIf", compressed(b"a")) + raw(b"ICCP", compressed(b"a")), "out of order"),
        (raw(b"coMm", b"\x01" + compressed(b"a")), "index 1, which is not the next"),
        (raw(b"coMm", b"\0" + compressed(b"a")) + raw(b"coMm", b"\x02" + compressed(b"a")), "index 2"),
        (raw(b"coMm", b"\0" + compressed(b"a")) * 2, "repeated"),
        (raw(b"coMm", b"\x80\0" + compressed(b"a")), "not a valid number"),
        (raw(b"exIf", compressed(b"")), "EXIF block at byte .* is empty"),
        (raw(b"exIf", b""), "does not end where"),
        (raw(b"exIf", compressed(b"a") + b"\0"), "does not end where"),
        (raw(b"exIf", b"\x03\xff"), "not LZMA2 data"),
        (b"exIf\x20", "inside its chunk exIf"),
        (b"exI", "inside its chunk's tag"),
        (b"".join(raw(b"aa%c%c" % (65 + n // 26, 97 + n % 26), b"") for n in range(257)), "more than 256 chunks"),
    ],
)
def test_hostile_chunks_with_a_right_checksum_are_refused(chunks: bytes, message: str) -> None:
    with pytest.raises(BitstreamError, match=message):
        parse(sealed(BODY + chunks))


def test_an_unknown_ancillary_chunk_is_skipped_unread_and_shown() -> None:
    data = sealed(BODY + raw(b"exIf", compressed(b"a")) + raw(b"neWa", b"\xff\xff"))
    file = parse(data)
    assert file.unknown == (("neWa", 2),)
    assert [own.tag for own in file.chunks] == ["exIf"]
    assert sum(entry.bits for entry in bit_breakdown(file)) == 8 * len(data)


def test_a_later_minor_version_is_read_and_its_critical_chunk_says_why_it_is_not() -> None:
    later = BODY[:9] + b"\x07" + BODY[10:]
    assert parse(sealed(later)).width == 768
    with pytest.raises(BitstreamError, match="a later release wrote the file"):
        parse(sealed(later + raw(b"NeWA", b"")))


CONTENTS = st.binary(min_size=1, max_size=60)
ONCE = sorted(set(NAMES) - set(REPEATABLE) - {"ALPH"})
CHUNKS = st.tuples(
    st.dictionaries(st.sampled_from(ONCE), CONTENTS), st.dictionaries(st.sampled_from(REPEATABLE), st.lists(CONTENTS))
)


@settings(max_examples=60, deadline=None)
@given(CHUNKS, st.integers(1, 8))
def test_any_file_with_any_chunks_survives_and_its_breakdown_adds_up(
    contents: tuple[dict[str, bytes], dict[str, list[bytes]]], orientation: int
) -> None:
    once, several = contents
    chunks = [chunk(tag, content) for tag, content in once.items()]
    chunks += [chunk(tag, content) for tag, many in several.items() for content in many]
    data = pack(replace(FILE, chunks=tuple(chunks), orientation=orientation))
    file = parse(data)
    assert {(own.tag, own.content) for own in file.chunks} == {(own.tag, own.content) for own in chunks}
    for tag, many in several.items():
        assert [own.content for own in file.chunks if own.tag == tag] == many
    assert pack(file) == data
    assert sum(entry.bits for entry in bit_breakdown(file)) == 8 * len(data)


FULL = pack(replace(FILE, stream=b"abcd", chunks=(chunk("ICCP"), chunk("exIf"), chunk("coMm"), chunk("coMm", b"2"))))


@settings(max_examples=400, deadline=None)
@given(st.integers(0, len(FULL) - 5), st.integers(1, 255))
def test_one_changed_byte_with_a_mended_checksum_is_refused_or_another_file(place: int, change: int) -> None:
    body = bytearray(FULL[:-4])
    body[place] ^= change
    try:
        file = parse(sealed(bytes(body)))
    except BitstreamError:
        return
    if not file.unknown and body[9] == 0:
        assert pack(file) == sealed(bytes(body)), "two files say the same"
