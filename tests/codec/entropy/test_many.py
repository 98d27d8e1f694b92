"""Many pictures at once: the streams and symbols of each alone, whatever it is coded beside."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from codec.entropy.entroformer import EntroformerSettings
from codec.entropy.export import export
from codec.entropy.integer import ExactEntropyModel
from codec.entropy.many import compress_many, decompress_many
from codec.entropy.stream import Symbols, compress, decompress, tiles
from codec.entropy.tables import Tables, build_counts
from codec.errors import BitstreamError
from codec.support.graphs import Graphs, Indices
from tests.support.tiny_bundles import TINY, tiny_entropy

KINDS = {
    "parallel": TINY,
    "dithered": dataclasses.replace(TINY, dither=True),
    "conditioned": dataclasses.replace(TINY, channel_conditioning=True),
    "serial": dataclasses.replace(TINY, order="serial"),
}
"""A network of each kind; the last two are coded one picture after the other."""


@pytest.fixture(scope="module")
def tables() -> Tables:
    return Tables(build_counts())


def model(settings: EntroformerSettings, device: str = "cpu") -> ExactEntropyModel:
    return ExactEntropyModel(export(tiny_entropy(settings)), settings, device)


def pictures(
    network: ExactEntropyModel, count: int, shape: tuple[int, int]
) -> tuple[list[Symbols], list[list[Symbols]], torch.Tensor]:
    """Symbols, hyper-latents and alpha codes, different in each picture; some symbols need an escape."""
    rng = np.random.default_rng(3)
    symbols = [(rng.standard_t(2, (4, *shape)) * 3).round().clip(-999, 999).astype(np.int32) for _ in range(count)]
    sizes = [(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in tiles(*shape)]
    hyper = [[rng.integers(-3, 4, network.hyper_shape(*size)).astype(np.int32) for size in sizes] for _ in symbols]
    return symbols, hyper, torch.from_numpy(rng.integers(90, 160, (count, 4)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(9, 7), (5, 131)], ids=["one tile", "two tiles"])
def test_a_picture_has_the_stream_and_the_symbols_that_it_has_alone(
    kind: str, shape: tuple[int, int], tables: Tables
) -> None:
    if kind == "serial":
        shape = (5, 4)
    network = model(KINDS[kind])
    symbols, hyper, codes = pictures(network, 3, shape)
    together = compress_many(network, tables, symbols, hyper, codes)
    alone = [
        compress(network, tables, own, z, code) for own, z, code in zip(symbols, hyper, codes.split(1), strict=True)
    ]
    assert together == alone
    streams = [one.data for one in alone]
    for own, found in zip(symbols, decompress_many(network, tables, streams, shape, codes), strict=True):
        assert np.array_equal(found, own)


def test_a_batch_that_is_filled_up_for_a_graph_gives_the_same_streams(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, shape = model(TINY), (9, 7)
    symbols, hyper, codes = pictures(network, 3, shape)
    expected = compress_many(network, tables, symbols, hyper, codes)
    context, batches = network.context, []

    def watched(seen: torch.Tensor, *rest: Any) -> torch.Tensor:
        batches.append(len(seen))
        return context(seen, *rest)

    monkeypatch.setattr(network, "context", watched)
    monkeypatch.setattr("codec.entropy.many.GRAPHED_ON", ("cpu",))
    assert compress_many(network, tables, symbols, hyper, codes) == expected
    found = decompress_many(network, tables, [one.data for one in expected], shape, codes)
    assert all(np.array_equal(own, back) for own, back in zip(symbols, found, strict=True))
    assert batches == [4, 4]


@pytest.mark.parametrize("kind", ["parallel", "conditioned"])
def test_a_damaged_stream_is_told_in_its_place_and_costs_the_others_nothing(kind: str, tables: Tables) -> None:
    network, shape = model(KINDS[kind]), (9, 7)
    symbols, hyper, codes = pictures(network, 4, shape)
    streams = [one.data for one in compress_many(network, tables, symbols, hyper, codes)]
    damaged = [streams[0][:-8], streams[1], streams[2] + bytes(4), b""]
    found = decompress_many(network, tables, damaged, shape, codes)
    assert isinstance(found[1], np.ndarray) and np.array_equal(found[1], symbols[1])
    for data, place in zip(damaged, range(4), strict=True):
        if place == 1:
            continue
        with pytest.raises(BitstreamError) as alone:
            decompress(network, tables, data, shape, codes[place : place + 1])
        assert str(found[place]) == str(alone.value)


def passes(network: ExactEntropyModel, codes: torch.Tensor, shape: tuple[int, int]) -> Iterator[Any]:
    """What the network computes for made-up symbols, by the functions that a GPU captures."""
    from codec.entropy.many import _Network

    symbols, hyper, _ = pictures(network, len(codes), shape)
    both = _Network(network, codes.to(network.device))
    z = torch.from_numpy(np.stack([own[0] for own in hyper])).to(network.device)
    seen = torch.from_numpy(np.stack(symbols)).double().flatten(2).transpose(1, 2).to(network.device)
    device_codes = codes.to(network.device)
    features = both._first(shape)(z, device_codes)[0]
    yield both._first(shape), (z, device_codes)
    yield both._second(shape), (features, seen, device_codes)


@torch.no_grad()
def test_indices_found_once_serve_other_pictures_of_the_shape() -> None:
    network, shape = model(TINY), (35, 33)
    codes = torch.tensor([[100, 110, 120, 130], [128] * 4])
    for function, inputs in passes(network, codes, shape):
        indices = Indices()
        with indices:
            first = function(*inputs)
        changed = tuple(given + 1 if given.is_floating_point() else given for given in inputs)
        expected = function(*changed)
        asked = len(indices.found)
        with indices.again():
            found = function(*changed)
            repeated = indices._next
        assert repeated == asked
        assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
        assert first[0].shape == found[0].shape


def test_with_indices_given_a_masks_values_are_not_looked_at() -> None:
    mask, indices, x = torch.tensor([True, False, True]), Indices(), torch.arange(3.0)
    with indices:
        assert x[mask].tolist() == [0, 2] and mask.nonzero().flatten().tolist() == [0, 2]
    other = torch.tensor([False, True, False])
    with indices.again():
        assert x[other].tolist() == [0, 2] and other.nonzero().flatten().tolist() == [0, 2]


@pytest.mark.gpu
@torch.no_grad()
def test_a_captured_network_gives_the_processors_numbers(tables: Tables) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here: graphs are captured on a GPU alone")
    shape = (35, 33)
    on_card, here = model(TINY, "cuda"), model(TINY)
    symbols, hyper, codes = pictures(here, 3, shape)
    expected = [
        compress(here, tables, own, z, code).data for own, z, code in zip(symbols, hyper, codes.split(1), strict=True)
    ]
    for _ in range(2):  # captured, then replayed
        assert [one.data for one in compress_many(on_card, tables, symbols, hyper, codes)] == expected
        for own, found in zip(symbols, decompress_many(on_card, tables, expected, shape, codes), strict=True):
            assert np.array_equal(found, own)
    assert isinstance(on_card.graphs, Graphs) and on_card.graphs._graphs  # type: ignore[attr-defined]
