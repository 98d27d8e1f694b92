"""The entropy model: the same symbols from the same bytes, however they are computed."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from codec.entropy import integer, stream
from codec.entropy.arithmetic import Exact, exponential_table
from codec.entropy.coder import SYMBOL_LIMIT, SymbolDecoder, SymbolEncoder
from codec.entropy.distribution import RateConstants, alpha_of_code, bits, code_of_alpha, sigma
from codec.entropy.entroformer import MINI, Entroformer, EntroformerSettings
from codec.entropy.export import export
from codec.entropy.grids import GRIDS
from codec.entropy.rate import coded_bits, hyper_latent
from codec.entropy.tables import TOTAL, Tables, build_counts, layout
from codec.entropy.windows import WINDOW, anchor_mask, cells_of, near_tokens, window_groups
from codec.errors import BitstreamError, BundleError
from tests.support.tiny_bundles import tiny_entropy

CODES = torch.tensor([[140, 140, 140, 140]])


@pytest.fixture(scope="module")
def counts() -> NDArray[np.int32]:
    return build_counts()


@pytest.fixture(scope="module")
def tables(counts: NDArray[np.int32]) -> Tables:
    return Tables(counts)


@pytest.fixture(scope="module", params=GRIDS)
def model(request: pytest.FixtureRequest) -> Entroformer:
    return tiny_entropy().with_grids(request.param)


@pytest.fixture(scope="module")
def exact(model: Entroformer) -> integer.ExactEntropyModel:
    return integer.ExactEntropyModel(export(model), model.settings)


def latent(height: int, width: int, seed: int = 3) -> torch.Tensor:
    """A smooth random latent scaled by the alpha of CODES, (1, 4, h, w)."""
    torch.manual_seed(seed)
    smooth = torch.nn.functional.avg_pool2d(torch.randn(1, 4, height + 2, width + 2) * 2, 3, 1)
    return smooth * alpha_of_code(140)


def coded(
    exact: integer.ExactEntropyModel, tables: Tables, model: Entroformer, scaled: torch.Tensor
) -> tuple[NDArray[np.int32], stream.CodedStream]:
    symbols = torch.round(scaled)[0].numpy().astype(np.int32)
    hyper = [
        hyper_latent(model, scaled[..., rows, columns], CODES, RateConstants.computed())[0].numpy().astype(np.int32)
        for rows, columns in stream.tiles(*symbols.shape[1:])
    ]
    return symbols, stream.compress(exact, tables, symbols, hyper, CODES)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (7, 3), (33, 47), (40, 130)])
def test_every_size_decodes_to_its_symbols(
    shape: tuple[int, int], exact: integer.ExactEntropyModel, tables: Tables, model: Entroformer
) -> None:
    symbols, written = coded(exact, tables, model, latent(*shape))
    assert np.array_equal(stream.decompress(exact, tables, written.data, shape, CODES), symbols)
    assert written.hyper_bits + written.latent_bits == 8 * len(written.data)


def test_symbols_beyond_every_table_are_escaped(
    exact: integer.ExactEntropyModel, tables: Tables, model: Entroformer
) -> None:
    scaled = latent(9, 9)
    scaled[0, 0, 4, 4], scaled[0, 3, 0, 0] = SYMBOL_LIMIT, -SYMBOL_LIMIT
    symbols, written = coded(exact, tables, model, scaled)
    assert np.array_equal(stream.decompress(exact, tables, written.data, (9, 9), CODES), symbols)


def test_coded_length_is_the_models_cross_entropy(
    exact: integer.ExactEntropyModel, tables: Tables, model: Entroformer
) -> None:
    scaled = latent(64, 64)
    _, written = coded(exact, tables, model, scaled)
    latent_bits, hyper_bits = coded_bits(model, scaled, CODES, RateConstants.computed())
    predicted = float(latent_bits + hyper_bits)
    assert 8 * len(written.data) == pytest.approx(predicted, rel=0.005, abs=64)


def test_threads_batches_and_repetition_leave_every_output_unchanged(exact: integer.ExactEntropyModel) -> None:
    torch.manual_seed(5)
    shape, codes = (37, 29), CODES.repeat(3, 1)
    z = torch.randint(-5, 6, (3, *exact.hyper_shape(*shape)))
    symbols = torch.randint(-4, 5, (3, shape[0] * shape[1], 4))

    def distributions(part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        hyper = exact.hyper(z[part], codes[part], shape)
        context = exact.context(symbols[part], codes[part], shape, anchor_mask(*shape))
        return exact.parameters(hyper, context, codes[part]).of_all(symbols[part])

    with torch.no_grad():
        together = distributions(slice(None))
        threads = torch.get_num_threads()
        try:
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                for i in range(3):
                    alone = distributions(slice(i, i + 1))
                    assert all(torch.equal(a[0], b[i]) for a, b in zip(alone, together, strict=True))
        finally:
            torch.set_num_threads(threads)


def test_every_value_on_the_exact_path_is_on_its_grid(exact: integer.ExactEntropyModel) -> None:
    z = torch.randint(-5, 6, (1, *exact.hyper_shape(16, 16)))
    with torch.no_grad():
        features = exact.hyper(z, CODES, (16, 16))
    assert features.dtype == {"wide": torch.float64, "narrow": torch.float32}[exact.settings.grids]
    assert torch.equal(features * 2**9, torch.round(features * 2**9))


def test_a_trained_model_comes_back_from_its_integers(model: Entroformer) -> None:
    exported = export(model)
    again = integer.trainable(exported, model.settings)
    step = {"wide": 1e-3, "narrow": 0.04}[model.settings.grids]
    for name, value in again.named_parameters():
        if "hyper_encoder" not in name and "knots" not in name:
            assert (value - model.get_parameter(name)).abs().max() < step, name
    restored = export(again)
    assert all(torch.equal(exported[name], restored[name]) for name in exported if name.endswith("weight"))


def test_mini_model_computes_its_known_answer_in_any_process() -> None:
    torch.manual_seed(11)
    first = integer.ExactEntropyModel(export(Entroformer(MINI)), MINI).known_answer()
    torch.manual_seed(11)
    assert integer.ExactEntropyModel(export(Entroformer(MINI)), MINI).known_answer() == first


def test_every_table_sums_and_orders_as_documented(counts: NDArray[np.int32]) -> None:
    radii, starts = layout()
    sums = np.add.reduceat(counts.astype(np.int64), starts[:-1])
    assert (sums == TOTAL).all()
    assert counts.min() >= 1
    assert len(starts) == 128 * 32 + 1
    assert radii[0] == 3
    assert radii[-1] == 386
    middle = counts[starts[60 * 32] : starts[60 * 32 + 1]]
    assert np.argmax(middle) == radii[60]


def test_tables_that_do_not_sum_are_refused(counts: NDArray[np.int32]) -> None:
    wrong = counts.copy()
    wrong[0] += 1
    with pytest.raises(BundleError, match="sum"):
        Tables(wrong)


@pytest.mark.parametrize("index", [0, 31, 32 * 60 + 7, 32 * 127 + 31])
def test_coder_uses_exactly_the_documented_edges(index: int, tables: Tables) -> None:
    import constriction

    counts = tables.counts[tables.starts[index] : tables.starts[index + 1]].astype(np.int64)
    for entry, edge in enumerate(np.cumsum(counts)[:-1].tolist()):
        for quantile, expected in ((edge - 1, entry), (edge, entry + 1)):
            words = np.array([quantile << 8, 0], np.uint32)
            decoder = constriction.stream.queue.RangeDecoder(words)
            assert decoder.decode(tables.model(index)) == expected


def test_a_damaged_stream_is_refused_or_gives_bounded_symbols(tables: Tables) -> None:
    rng = np.random.default_rng(1)
    means, levels = rng.integers(-200, 200, 500), rng.integers(0, 128, 500)
    symbols = (means // 32).astype(np.int32)
    encoder = SymbolEncoder(tables)
    encoder.write(symbols, means, levels)
    data = encoder.finish()
    assert np.array_equal(SymbolDecoder(tables, data).read(means, levels), symbols)
    refused = 0
    for _ in range(200):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        try:
            decoder = SymbolDecoder(tables, bytes(damaged))
            assert np.abs(decoder.read(means, levels)).max() <= SYMBOL_LIMIT
            decoder.close()
        except BitstreamError:
            refused += 1
    assert refused > 0
    with pytest.raises(BitstreamError, match="multiple of 4"):
        SymbolDecoder(tables, data[:-1])
    longer = SymbolDecoder(tables, data + b"\x01\x02\x03\x04" * 8)
    longer.read(means, levels)
    with pytest.raises(BitstreamError, match="longer than its symbols"):
        longer.close()


def test_a_symbol_too_large_is_refused_before_coding(tables: Tables) -> None:
    with pytest.raises(ValueError, match="magnitude"):
        SymbolEncoder(tables).write(np.array([2**15], np.int32), np.array([0]), np.array([5]))


def test_a_hyper_latent_that_no_encoder_writes_is_refused(exact: integer.ExactEntropyModel, tables: Tables) -> None:
    symbols, codes = np.zeros((4, 8, 8), np.int32), torch.full((1, 4), 128)
    z = np.zeros(exact.hyper_shape(8, 8), np.int32)
    z[0, 0, 0] = 63
    largest = stream.compress(exact, tables, symbols, [z], codes).data
    assert np.array_equal(stream.decompress(exact, tables, largest, (8, 8), codes), symbols)
    z[0, 0, 0] = 64
    with pytest.raises(BitstreamError, match="exceeds 63"):
        stream.decompress(exact, tables, stream.compress(exact, tables, symbols, [z], codes).data, (8, 8), codes)


def test_windows_cover_each_token_once_and_are_cut_at_borders() -> None:
    for shifted in (False, True):
        groups = window_groups(70, 33, 32, shifted)
        tokens = torch.cat([group.tokens.flatten() for group in groups])
        assert sorted(tokens.tolist()) == list(range(70 * 33))
        assert all(group.height <= 32 and group.width <= 32 for group in groups)
    assert {(g.height, g.width) for g in window_groups(64, 32, 32, True)} == {(16, 16), (32, 16)}


def test_relative_cells_tell_near_offsets_apart_and_pool_the_far() -> None:
    down, right = torch.tensor([0, -3, 0, 0, 3, 2, 7]), torch.tensor([0, 0, -1, 1, 0, 2, 0])
    assert cells_of(down, right, 7).tolist() == [12, 0, 11, 13, 24, 25, 25]
    near, inside = near_tokens(8, 8, 7)
    assert near[27, 12] == 27
    assert near[27, 13] == 28
    assert inside[27].all()
    assert inside[0].sum() == 10


def test_both_passes_of_the_checkerboard_cover_the_grid() -> None:
    first = anchor_mask(5, 7)
    assert first.tolist() == [(i // 7 + i % 7) % 2 == 1 for i in range(35)]
    assert not first[0]


def test_the_second_pass_looks_at_the_anchors_and_at_nothing_else(exact: integer.ExactEntropyModel) -> None:
    shape = (12, 12)
    first = anchor_mask(*shape)
    with torch.no_grad():
        quiet = exact.context(torch.zeros(1, 144, 4, dtype=torch.long), CODES, shape, first)
        loud = exact.context(7 * first.long()[None, :, None].expand(1, 144, 4), CODES, shape, first)
        hidden = exact.context(7 * (~first).long()[None, :, None].expand(1, 144, 4), CODES, shape, first)
    assert not torch.equal(quiet[:, ~first], loud[:, ~first])
    assert torch.equal(quiet, hidden)


def test_positions_that_nobody_asks_for_change_no_other(exact: integer.ExactEntropyModel) -> None:
    shape, codes = (37, 41), torch.full((1, 4), 140)
    symbols = torch.randint(-9, 9, (1, shape[0] * shape[1], 4), generator=torch.Generator().manual_seed(1))
    anchors = anchor_mask(*shape)
    everywhere = exact.context(symbols, codes, shape, anchors)
    assert torch.equal(exact.context(symbols, codes, shape, anchors, ~anchors), everywhere[:, ~anchors])


def test_bits_are_those_of_the_discretized_gaussian() -> None:
    mean, level = torch.tensor([0.25], dtype=torch.float64), torch.tensor([60.0], dtype=torch.float64)
    normal = torch.distributions.Normal(mean, sigma(level))
    for symbol in (-3.0, 0.0, 1.0):
        mass = normal.cdf(torch.tensor(symbol + 0.5)) - normal.cdf(torch.tensor(symbol - 0.5))
        assert float(bits(torch.tensor([symbol], dtype=torch.float64), mean, level)) == pytest.approx(
            -float(mass.log2()), rel=1e-6
        )


def test_alpha_codes_are_a_32nd_of_an_octave() -> None:
    assert alpha_of_code(128) == 1
    assert alpha_of_code(160) == 2
    assert [code_of_alpha(alpha_of_code(code)) for code in range(256)] == list(range(256))
    assert code_of_alpha(1e9) == 255


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (5, 3), (7, 16), (33, 40)])
def test_queries_that_are_alike_attend_as_each_would_by_itself(shape: tuple[int, int]) -> None:
    torch.manual_seed(7)
    exact, settings = Exact(exponential_table()), EntroformerSettings(dim=32, heads=2)
    block = settings.block(WINDOW, shifted=True).double()
    for part in block.parameters():
        part.copy_(torch.round(part * 4 * 2**12) * 2.0**-12)
    relative = torch.round(torch.randn(26, 16, dtype=torch.float64) * 2**9) * 2.0**-9
    seen = anchor_mask(*shape)
    x = torch.round(torch.randn(1, len(seen), 32, dtype=torch.float64) * 2).where(seen[:, None], torch.ones(32))
    for wanted in (None, ~seen):
        single = block(x, relative, shape, exact, seen, wanted)
        assert torch.equal(block(x, relative, shape, exact, seen, wanted, alike=True), single)
