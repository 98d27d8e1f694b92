"""The compiled range coder writes what constriction writes, reads what it reads, and refuses what it refuses."""

import numpy as np
import pytest
from numpy.typing import NDArray

from codec.entropy import many
from codec.entropy.coder import SYMBOL_LIMIT, SymbolDecoder, SymbolEncoder
from codec.entropy.compiled import CompiledDecoder, CompiledEncoder
from codec.entropy.tables import Tables, build_counts
from codec.errors import BitstreamError
from tests.codec.entropy.test_many import model, pictures
from tests.support.tiny_bundles import TINY

Numbers = NDArray[np.int64]


@pytest.fixture(scope="module")
def tables() -> Tables:
    return Tables(build_counts())


def drawn(seed: int, count: int, tail: float) -> tuple[NDArray[np.int32], Numbers, Numbers]:
    """Symbols with their means in 1/32 and levels; `tail` in deviations beyond their own makes some need escapes."""
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 128, count)
    sigma = 0.06 * np.exp(levels * np.log(64 / 0.06) / 127)
    means = rng.integers(-3000, 3000, count)
    far = rng.standard_t(1, count) * tail
    symbols = np.round(means / 32 + rng.normal(0, 1, count) * sigma + far)
    return symbols.clip(-SYMBOL_LIMIT, SYMBOL_LIMIT).astype(np.int32), means, levels


def likely(count: int) -> tuple[NDArray[np.int32], Numbers, Numbers]:
    """Symbols that cost next to nothing, after which carries run through many words."""
    zeros = np.zeros(count, np.int64)
    return zeros.astype(np.int32), zeros, zeros


def written(tables: Tables, kind: type[SymbolEncoder], seed: int) -> tuple[list[int], bytes]:
    """Bits after each of a few arrays, then the stream."""
    encoder, bits = kind(tables), []
    for part in parts(seed):
        encoder.write(*part)
        bits.append(encoder.bits)
    return bits, encoder.finish()


def parts(seed: int) -> list[tuple[NDArray[np.int32], Numbers, Numbers]]:
    rng = np.random.default_rng(seed)
    return [
        drawn(seed, int(rng.integers(1, 60)), 0.0),
        likely(int(rng.integers(1, 4000))),
        drawn(seed + 1, int(rng.integers(1, 60)), 30.0),
    ]


@pytest.mark.parametrize("first", range(0, 600, 100))
def test_streams_are_those_of_constriction_and_come_back(first: int, tables: Tables) -> None:
    for seed in range(first, first + 25):
        bits, data = written(tables, SymbolEncoder, seed)
        assert written(tables, CompiledEncoder, seed) == (bits, data)
        decoder = CompiledDecoder(tables, data)
        for symbols, means, levels in parts(seed):
            assert np.array_equal(decoder.read(means, levels), symbols)
        decoder.close()


def test_a_carry_runs_through_words_of_ones(tables: Tables) -> None:
    encoder = CompiledEncoder(tables)
    encoder.write(*likely(1))
    encoder._words[:3] = [5, 2**32 - 1, 2**32 - 1]
    encoder._state[:] = [2**63, 2**64 - 2**20, 3]
    encoder.write(np.array([1], np.int32), np.array([0]), np.array([60]))
    assert encoder._words[:3].tolist() == [6, 0, 0]
    encoder._words[:3] = [5, 2**32 - 1, 2**32 - 1]
    encoder._state[:] = [2**40, 2**64 - 2**20, 3]
    assert encoder.finish()[:12] == b"".join(word.to_bytes(4, "little") for word in (6, 0, 0))


def outcome(kind: object, tables: Tables, data: bytes, seed: int) -> str:
    """The symbols, or the error of reading a stream."""
    try:
        decoder = (
            SymbolDecoder(tables, data, canonical=True) if kind is SymbolDecoder else CompiledDecoder(tables, data)
        )
        found = [decoder.read(means, levels) for _, means, levels in parts(seed)]
        decoder.close()
    except BitstreamError as error:
        return str(error)
    return str([part.tobytes() for part in found])


def test_damaged_streams_are_refused_as_by_constriction(tables: Tables) -> None:
    rng, errors = np.random.default_rng(0), set()
    for seed in range(60):
        data = bytearray(written(tables, SymbolEncoder, seed)[1])
        for change in ("flip", "cut", "longer", "noise", "ones", "empty", "odd"):
            broken = bytearray(data)
            if change == "flip":
                broken[int(rng.integers(len(broken)))] ^= 1 << int(rng.integers(8))
            broken = {
                "cut": broken[: 4 * int(rng.integers(1, len(broken) // 4))],
                "longer": broken + bytes(4),
                "noise": bytearray(rng.bytes(len(broken))),
                "ones": bytearray(b"\xff" * len(broken)),
                "empty": bytearray(),
                "odd": broken[:-1],
            }.get(change, broken)
            own = outcome(SymbolDecoder, tables, bytes(broken), seed)
            found = outcome(CompiledDecoder, tables, bytes(broken), seed)
            ends = ("longer than its symbols", "not the canonical one of its symbols")
            if any(end in own for end in ends):
                assert any(end in found for end in ends)
            else:
                assert found == own, change
            errors.add(own if own.startswith("the coded") else "")
    assert len(errors) >= 6
    with pytest.raises(ValueError, match="magnitude"):
        CompiledEncoder(tables).write(np.array([2**15], np.int32), np.array([0]), np.array([0]))


def test_many_pictures_are_coded_by_it_where_a_card_computes(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    network, shape = model(TINY), (9, 7)
    symbols, hyper, codes = pictures(network, 3, shape)
    expected = many.compress_many(network, tables, symbols, hyper, codes)
    monkeypatch.setattr(many, "COMPILED_ON", ("cuda", "cpu"))
    monkeypatch.setattr("codec.entropy.many.SymbolEncoder", None)
    assert many.compress_many(network, tables, symbols, hyper, codes) == expected
    monkeypatch.setattr("codec.entropy.many.SymbolDecoder", None)
    found = many.decompress_many(network, tables, [one.data for one in expected], shape, codes)
    assert all(np.array_equal(own, back) for own, back in zip(symbols, found, strict=True))
