"""Coding orders and channel conditioning: what each position may know, and that both sides compute the same from it."""

import dataclasses
from typing import Literal

import numpy as np
import pytest
import torch

from codec.entropy.arithmetic import Simulated
from codec.entropy.distribution import RateConstants
from codec.entropy.entroformer import Entroformer, EntroformerSettings
from codec.entropy.export import export
from codec.entropy.integer import ExactEntropyModel
from codec.entropy.rate import coded_bits, hyper_latent
from codec.entropy.stream import compress, decompress, tiles
from codec.entropy.tables import Tables, build_counts
from codec.entropy.windows import REACH, raster_keys, raster_rows
from tests.support.tiny_bundles import TINY, tiny_entropy

SERIAL = dataclasses.replace(TINY, order="serial", channel_conditioning=True)
CODES = torch.tensor([[140, 120, 150, 133]])


@pytest.fixture(scope="module")
def tables() -> Tables:
    return Tables(build_counts())


@pytest.fixture(scope="module")
def serial() -> ExactEntropyModel:
    return exact(tiny_entropy(SERIAL))


def exact(model: Entroformer) -> ExactEntropyModel:
    return ExactEntropyModel(export(model.requires_grad_(False)), model.settings)


def symbols_of(height: int, width: int, seed: int = 3) -> torch.Tensor:
    """Random symbols (1, h w, 4)."""
    return torch.randint(-6, 7, (1, height * width, 4), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("order", ["parallel", "serial"])
@pytest.mark.parametrize("conditioned", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (7, 3), (19, 37)])
def test_every_order_decodes_to_its_symbols(
    order: Literal["parallel", "serial"], conditioned: bool, shape: tuple[int, int], tables: Tables
) -> None:
    model = tiny_entropy(dataclasses.replace(TINY, order=order, channel_conditioning=conditioned)).requires_grad_(False)
    check_round_trip(model, tables, shape)


def test_serial_order_decodes_several_tiles_to_their_symbols(tables: Tables) -> None:
    settings = EntroformerSettings(dim=8, depth=1, heads=1, top_k=4, hyper_channels=1, order="serial")
    check_round_trip(tiny_entropy(settings).requires_grad_(False), tables, (2, 131))


def check_round_trip(model: Entroformer, tables: Tables, shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    scaled = 3 * torch.randn(1, 4, *shape)
    symbols = torch.round(scaled)[0].numpy().astype(np.int32)
    hyper = [
        hyper_latent(model, scaled[..., rows, columns], CODES, RateConstants.computed())[0].numpy().astype(np.int32)
        for rows, columns in tiles(*shape)
    ]
    written = compress(exact(model), tables, symbols, hyper, CODES)
    assert np.array_equal(decompress(exact(model), tables, written.data, shape, CODES), symbols)


def test_one_shot_and_cached_steps_give_the_same_features_bit_for_bit(serial: ExactEntropyModel) -> None:
    shape = (21, 39)  # more than REACH rows, and more than twice REACH columns
    symbols = symbols_of(*shape)
    with torch.no_grad():
        whole = serial.context(symbols, CODES, shape)
        step, so_far = serial.raster(CODES, shape), torch.zeros_like(symbols)
        for place in range(shape[0] * shape[1]):
            assert torch.equal(step(so_far)[:, 0], whole[:, place]), divmod(place, shape[1])
            so_far[:, place] = symbols[:, place]


@pytest.mark.parametrize("place", [(0, 0), (3, 0), (3, 7), (9, 15)])
def test_a_position_in_raster_order_knows_nothing_of_itself_and_what_follows(
    serial: ExactEntropyModel, place: tuple[int, int]
) -> None:
    shape = (10, 16)
    index = place[0] * shape[1] + place[1]
    one, other = symbols_of(*shape, seed=1), symbols_of(*shape, seed=2)
    other[:, :index] = one[:, :index]
    with torch.no_grad():
        features = [serial.context(symbols, CODES, shape)[:, index] for symbols in (one, other)]
    assert torch.equal(*features)


def test_a_row_start_has_no_left_neighbor(serial: ExactEntropyModel) -> None:
    """The end of the row above is not next to it: moving that symbol out of REACH changes nothing there."""
    shape, width = (2, REACH + 8), REACH + 8
    one = symbols_of(*shape)
    other = one.clone()
    other[:, width - 1] = 9  # the last of the first row
    with torch.no_grad():
        before, after = (serial.context(symbols, CODES, shape) for symbols in (one, other))
    assert torch.equal(before[:, width], after[:, width])
    assert not torch.equal(before[:, -1], after[:, -1])


def test_raster_keys_are_the_visible_ones_of_raster_rows() -> None:
    width, above, positions = 50, REACH, 7
    places, hidden = raster_rows(above, width, positions)
    for column in (0, 5, 25, 49):
        left, right = min(column, REACH), min(width - 1 - column, REACH)
        assert torch.equal(places[column][~hidden[column]], raster_keys(above, left, right, positions))


@pytest.mark.parametrize("channel", range(4))
def test_a_channel_knows_the_ones_before_it_and_no_other(serial: ExactEntropyModel, channel: int) -> None:
    torch.manual_seed(4)
    hyper = torch.randint(-900, 900, (1, 6, TINY.dim)).double() / 512
    one, other = symbols_of(2, 3, seed=5), symbols_of(2, 3, seed=6)
    with torch.no_grad():
        parameters = serial.parameters(hyper, None, CODES)
        other[..., :channel] = one[..., :channel]
        same = [parameters.of_channel(symbols, channel) for symbols in (one, other)]
        changed = one.clone()
        changed[..., :channel] += 40
        different = parameters.of_channel(changed, channel)
    assert all(torch.equal(a, b) for a, b in zip(*same, strict=True))
    assert channel == 0 or not torch.equal(different[0], same[0][0])


def test_masked_pretraining_hides_what_is_not_drawn_and_trains_every_weight() -> None:
    torch.manual_seed(7)
    model, constants = tiny_entropy(), RateConstants.computed()
    scaled = 2 * torch.randn(2, 4, 8, 8)
    seen = torch.rand(64) < 0.3
    bits = [
        coded_bits(model, scaled, CODES.expand(2, -1), constants, seen=mask, math=Simulated(breadth=part))[0]
        .sum()
        .item()
        for mask, part in ((seen, 1.0), (torch.zeros(64, dtype=torch.bool), 1.0), (seen, 0.5), (None, 1.0))
    ]
    assert len(set(bits)) == 4
    coded_bits(model, scaled, CODES.expand(2, -1), constants, seen=seen)[0].sum().backward()
    assert all(parameter.grad is not None for parameter in model.context.parameters())


@pytest.mark.parametrize("order", ["parallel", "serial"])
def test_training_sees_the_rate_that_coding_has(order: Literal["parallel", "serial"], tables: Tables) -> None:
    model = tiny_entropy(dataclasses.replace(TINY, order=order)).requires_grad_(False)
    torch.manual_seed(2)
    scaled = torch.randn(1, 4, 24, 40)
    constants = RateConstants.computed()
    z = hyper_latent(model, scaled, CODES, constants)[0].numpy().astype(np.int32)
    written = compress(exact(model), tables, torch.round(scaled)[0].numpy().astype(np.int32), [z], CODES)
    predicted = float(sum(coded_bits(model, scaled, CODES, constants)))
    assert 8 * len(written.data) == pytest.approx(predicted, rel=0.005, abs=64)
