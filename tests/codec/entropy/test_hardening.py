"""A hostile file gives BitstreamError or symbols within its declared limits: no crash, no hang, no unbounded memory."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codec import BitstreamError, Codec, Picture
from codec.bundle import Bundle
from codec.entropy.coder import SYMBOL_LIMIT, SymbolDecoder, SymbolEncoder
from codec.entropy.tables import Tables, build_counts
from codec.format.bitstream import DEFAULT_MAX_PIXELS, FdcFile, pack, parse
from codec.images import MAX_PIXELS
from codec.quantization.parameters import QuantizationParameters
from tests.benchmarks import fuzz
from tests.conftest import synthetic
from tests.support.range_coder import RangeDecoder, RangeEncoder


@pytest.fixture(scope="module")
def codec(bundle: Bundle) -> Codec:
    return Codec.load(bundle)


@pytest.fixture(scope="module")
def tables() -> Tables:
    return Tables(build_counts())


def sealed(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


def header(width: int, height: int, stream: bytes) -> FdcFile:
    return FdcFile(width, height, False, "0123456789abcdef", 64, QuantizationParameters((128,), 0), stream)


@pytest.mark.parametrize("shape", [(1, 1), (70, 90), (16, 1100)])
@pytest.mark.parametrize("quality", [0.1, 8, 1000])
def test_a_second_decoder_written_from_the_format_page_reads_the_same_symbols(
    shape: tuple[int, int], quality: float, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = codec.encode(Picture(synthetic(*shape)), quality=quality)
    monkeypatch.setattr("codec.entropy.stream.SymbolDecoder", RangeDecoder)
    assert np.array_equal(codec.symbols(encoded.data), encoded.symbols)


def test_a_second_decoder_reads_escapes_and_every_scale(tables: Tables) -> None:
    rng = np.random.default_rng(4)
    means, levels = rng.integers(-3000, 3000, 2000), rng.integers(0, 128, 2000)
    symbols = (means // 32 + rng.normal(0, 2 * tables.radii[levels])).astype(np.int32)
    symbols[:2] = SYMBOL_LIMIT, -SYMBOL_LIMIT
    encoder = SymbolEncoder(tables)
    encoder.write(symbols, means, levels)
    data = encoder.finish()
    for decoder in (RangeDecoder(tables, data), SymbolDecoder(tables, data)):
        assert np.array_equal(decoder.read(means, levels), symbols)
        decoder.close()


@pytest.mark.parametrize("seed", range(20))
def test_a_second_encoder_written_from_the_format_page_writes_the_same_bytes(seed: int, tables: Tables) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.choice([1, 2, 5, 400]))
    levels = rng.integers(0, 128, count)
    means, radii = np.zeros(count, np.int64), tables.radii[levels]
    symbols = rng.integers(-radii, radii, endpoint=True).astype(np.int32)
    encoder, second = SymbolEncoder(tables), RangeEncoder()
    encoder.write(symbols, means, levels)
    for symbol, level, radius in zip(symbols.tolist(), levels.tolist(), radii.tolist(), strict=True):
        start, stop = tables.starts[32 * level : 32 * level + 2]
        second.entry(tables.counts[start:stop].tolist(), symbol + radius)
    assert second.finish() == encoder.finish()


def test_carries_run_through_the_words_of_a_second_encoder_as_through_the_first() -> None:
    import constriction

    for last in range(40):
        encoder, second = constriction.stream.queue.RangeEncoder(), RangeEncoder()
        model = constriction.stream.model.Categorical(np.array([2.0**24 - 3, 0, 0]), perfect=False)
        half = constriction.stream.model.Uniform(2)
        for place in range(60):
            bit = int(place != last)
            encoder.encode(bit, half)
            second.entry([2**23, 2**23], bit)
            encoder.encode(2, model)
            second.entry([2**24 - 2, 1, 1], 2)
        assert second.finish() == encoder.get_compressed().astype("<u4").tobytes()


def test_a_file_that_declares_too_many_pixels_is_refused_before_the_network_runs(codec: Codec) -> None:
    bomb = pack(header(2**15, 2**15, bytes(4)))
    for read in (codec.symbols, codec.decode, codec.decode_picture, parse):
        with pytest.raises(BitstreamError, match="32768 x 32768 pixels, more than the limit of 100000000"):
            read(bomb)
    data = codec.encode(Picture(synthetic(70, 90))).data
    for read in (codec.symbols, codec.decode, codec.decode_picture, parse):
        with pytest.raises(BitstreamError, match="90 x 70 pixels, more than the limit of 6299"):
            read(data, max_pixels=6299)
        read(data, max_pixels=6300)
    assert parse(bomb, max_pixels=2**30).width == 2**15


def test_all_that_the_picture_reader_admits_is_decoded_by_default() -> None:
    assert DEFAULT_MAX_PIXELS >= MAX_PIXELS


@pytest.mark.parametrize("length", [4, 40, 400])
def test_a_stream_that_runs_out_is_refused_in_the_part_where_it_runs_out(
    length: int, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(length)
    hostile = header(2000, 2000, rng.bytes(length))
    reads = []
    read = SymbolDecoder.read

    def counted(self: SymbolDecoder, *arguments: np.ndarray) -> np.ndarray:
        reads.append(len(arguments[0]))
        return read(self, *arguments)

    monkeypatch.setattr(SymbolDecoder, "read", counted)
    with pytest.raises(BitstreamError, match="stream is"):
        codec.symbols(pack(FdcFile(**{**vars(hostile), "bundle_id": codec.bundle.id[:16]})))
    assert sum(reads) < 4 * 250**2 / 4


def test_a_stream_without_its_end_or_without_anything_is_refused(tables: Tables) -> None:
    means, levels = np.zeros(900, np.int64), np.full(900, 70, np.int64)
    encoder = SymbolEncoder(tables)
    encoder.write(np.random.default_rng(0).integers(-9, 9, 900).astype(np.int32), means, levels)
    data = encoder.finish()
    for words in (2, 3, len(data) // 8):
        with pytest.raises(BitstreamError, match="shorter than its symbols"):
            SymbolDecoder(tables, data[: -4 * words]).read(means, levels)
    with pytest.raises(BitstreamError, match="empty"):
        SymbolDecoder(tables, b"")


def test_the_information_of_symbols_never_exceeds_a_true_stream(tables: Tables) -> None:
    rng = np.random.default_rng(8)
    for count in (1, 2, 7, 3000):
        for level in (0, 40, 127):
            means, levels = rng.integers(-64, 64, count), np.full(count, level)
            symbols = np.round(means / 32 + rng.normal(0, tables.radii[level] / 3, count)).astype(np.int32)
            encoder = SymbolEncoder(tables)
            encoder.write(symbols, means, levels)
            assert np.array_equal(SymbolDecoder(tables, encoder.finish()).read(means, levels), symbols)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_behind_a_right_start_and_checksum_are_a_file_or_an_error(tail: bytes) -> None:
    try:
        file = parse(sealed(b"FDC\x01" + tail), max_pixels=2**16)
    except BitstreamError:
        return
    assert parse(pack(file)) == file


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stream=st.binary(max_size=60).map(lambda data: data[: len(data) // 4 * 4]), size=st.integers(1, 40))
def test_any_stream_gives_symbols_within_limits_or_an_error(codec: Codec, stream: bytes, size: int) -> None:
    file = FdcFile(**{**vars(header(size, 17, stream)), "bundle_id": codec.bundle.id[:16]})
    try:
        symbols = codec.symbols(pack(file))
    except BitstreamError:
        return
    assert symbols.shape == (4, 3, -(-size // 8))
    assert np.abs(symbols).max() <= SYMBOL_LIMIT


def test_mutated_files_are_refused_or_decode_within_limits(tmp_path: Path) -> None:
    outcomes = fuzz.run(2000, seed=1, folder=tmp_path)
    assert sum(outcomes.values()) == 2000
    assert outcomes["built, decoded"] > 0 and outcomes["sealed again, decoded"] > 0, "too few get past the header"
    assert any("shorter than its symbols" in name for name in outcomes)
    assert not any("FAULT" in name for name in outcomes), outcomes


@pytest.mark.parametrize("fault", [MemoryError(), BaseException("pyo3_runtime.PanicException")])
def test_the_fuzzer_reports_what_is_no_bitstream_error(
    fault: BaseException, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = codec.encode(Picture(synthetic(9, 9))).data
    assert fuzz.outcome(codec, data) == "decoded"

    def broken(*_: object) -> None:
        raise fault

    monkeypatch.setattr(SymbolDecoder, "close", broken)
    assert fuzz.outcome(codec, data).startswith("FAULT")
