"""The exact arithmetic on each kind of grids: what it rounds to, which keys it keeps, and what keeps it exact."""

import dataclasses

import numpy as np
import pytest
import torch

from codec import Codec, Picture
from codec.entropy import integer, stream
from codec.entropy.arithmetic import Exact, Simulated, exponential_table
from codec.entropy.entroformer import Entroformer, EntroformerSettings
from codec.entropy.export import export, prove_bounds
from codec.entropy.grids import GRIDS, Grids
from codec.entropy.rate import hyper_latent
from codec.entropy.windows import anchor_mask
from codec.errors import BundleError, SettingsError
from codec.format.bitstream import parse
from tests.conftest import synthetic
from tests.support.tiny_bundles import tiny_entropy

CODES = torch.tensor([[140, 140, 140, 140]])


def in_float64(exact: integer.ExactEntropyModel) -> integer.ExactEntropyModel:
    """The same model in the other data type, as on a GPU."""
    exact.math.dtype = torch.float64
    exact.math.table = exact.math.table.double()
    exact.network.double()
    return exact


@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_exact_and_simulated_arithmetic_agree_within_a_grid_step(grids: Grids) -> None:
    torch.manual_seed(0)
    exact, simulated = Exact(exponential_table(grids), grids), Simulated(grids)
    x = simulated.snap(4 * torch.randn(64, 32, dtype=torch.float64), grids.hidden)
    step = 1 / grids.hidden.units
    assert torch.equal(exact.snap(x, grids.hidden), x.to(exact.dtype))
    x = x.to(exact.dtype)
    assert (exact.normalize(x) - simulated.normalize(x)).abs().max() <= 2 * step
    assert (exact.leaky(x) - simulated.leaky(x)).abs().max() <= step
    weights = exact.exponentials(x) / exact.exponentials(x).sum(-1, keepdim=True)
    assert (weights - torch.softmax(x, -1)).abs().max() < 0.02


@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_equal_scores_are_ordered_by_position(grids: Grids) -> None:
    exact = Exact(exponential_table(grids), grids)
    scores = torch.full((1, 10), grids.masked, dtype=exact.dtype)
    scores[0, :4] = -(2.0**-grids.score_fraction)
    kept, logits = exact.best(scores, 6)
    assert sorted(kept[0].tolist()) == [0, 1, 2, 3, 8, 9]
    assert sorted(logits[0].tolist()) == [grids.masked] * 2 + [-(2.0**-grids.score_fraction)] * 4


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_scores_of_narrow_grids_fit_their_sort_keys(sign: int) -> None:
    grids = GRIDS["narrow"]
    exact = Exact(exponential_table(grids), grids)
    largest = sign * 4 * 32 * grids.heads.limit**2 * 2.0**-grids.score_fraction
    scores = torch.full((1, grids.most_keys), largest, dtype=exact.dtype)
    kept, logits = exact.best(scores, 2)
    assert sorted(kept[0].tolist()) == [grids.most_keys - 2, grids.most_keys - 1]
    assert logits[0].tolist() == [largest] * 2
    assert sign > 0 or largest > grids.masked


@pytest.mark.parametrize("count", [1, 32, 50])
def test_the_best_keys_and_their_mixture_are_those_of_a_plain_computation(count: int) -> None:
    torch.manual_seed(0)
    exact, simulated = Exact(exponential_table()), Simulated()
    own = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    scores = torch.randn(2, 4, 9, 50, dtype=torch.float64).mul_(2**18).round_().mul_(2.0**-18)
    values = torch.randint(-(2**15), 2**15, (2, 4, 49, 8)).double()
    best, kept = scores.topk(count, -1)
    found, logits = exact.best(scores.clone(), count)
    assert torch.equal(found.sort(-1).values, kept.sort(-1).values)
    assert torch.equal(logits.sort(-1, descending=True).values, best)
    weights, own = exact.exponentials(logits), own.mul_(2**9).round_()
    spread = torch.zeros_like(scores).scatter_(-1, found, weights)
    plain = (spread[..., :49, None] * values[..., None, :, :]).sum(-2) + spread[..., 49:] * own
    assert torch.equal(exact.mix(weights, found, values, own), plain)
    assert torch.equal(simulated.mix(weights, found, values, own), plain)


@pytest.mark.parametrize("model", [tiny_entropy().with_grids(grids) for grids in GRIDS], ids=GRIDS)
def test_a_model_that_could_leave_the_exact_range_is_refused(model: Entroformer) -> None:
    settings = model.settings
    integers = export(model)
    bounds = prove_bounds(integers, settings)
    assert max(bounds.values()) < 2**53
    sums = [bound for name, bound in bounds.items() if name.endswith((".weight", ".table", "score", "ator"))]
    assert 0 < max(sums) < settings.arithmetic.largest_sum
    with pytest.raises(BundleError, match="cannot be exact: softmax"):
        prove_bounds(integers, dataclasses.replace(settings, top_k=2**20))

    if settings.grids == "narrow":
        integers["context.embed.bias"] += 2**24
        with pytest.raises(BundleError, match=r"context\.embed\.weight may reach \d+, beyond 2\*\*24"):
            prove_bounds(integers, settings)


def test_rows_of_large_weights_get_coarser_fractions_until_their_sums_fit() -> None:
    model = tiny_entropy().with_grids("narrow")
    contract = model.get_submodule("context.blocks.0.contract")
    assert isinstance(contract, torch.nn.Linear)
    contract.weight[0] = 1.0
    contract.bias[0] = 900.0
    integers = export(model)
    fraction = integers["context.blocks.0.contract.fraction"]
    assert fraction[0] < fraction[1:].min()
    assert prove_bounds(integers, model.settings)["context.blocks.0.contract.weight"] < 2**24
    contract.bias[0] = 1e9
    with pytest.raises(BundleError, match="train with smaller weights"):
        export(model)


def test_heads_too_wide_for_narrow_grids_are_refused_before_training() -> None:
    with pytest.raises(ValueError, match="too wide for narrow grids"):
        EntroformerSettings(dim=128, heads=2, grids="narrow")


@torch.no_grad()
def test_narrow_grids_give_the_same_numbers_in_float32_and_float64() -> None:
    model = tiny_entropy().with_grids("narrow")
    integers = export(model)
    single, double = (integer.ExactEntropyModel(integers, model.settings) for _ in range(2))
    in_float64(double)
    shape = (37, 41)
    draws = torch.Generator().manual_seed(2)
    z = torch.randint(-63, 64, (1, *single.hyper_shape(*shape)), generator=draws)
    symbols = torch.randint(-400, 400, (1, shape[0] * shape[1], 4), generator=draws)
    assert single.known_answer() == double.known_answer()
    for codes in (torch.zeros(1, 4, dtype=torch.long), CODES, torch.full((1, 4), 255)):
        features = [each.hyper(z, codes, shape) for each in (single, double)]
        assert torch.equal(features[0].double(), features[1])
        contexts = [each.context(symbols, codes, shape, anchor_mask(*shape)) for each in (single, double)]
        assert torch.equal(contexts[0].double(), contexts[1])
        found = [
            each.parameters(hyper, context, codes).of_all(symbols)
            for each, hyper, context in zip((single, double), features, contexts, strict=True)
        ]
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_products_of_reduced_precision_are_refused_where_float32_must_be_exact() -> None:
    model = tiny_entropy().with_grids("narrow")
    exact = integer.ExactEntropyModel(export(model), model.settings)
    matmul = torch.backends.mkldnn.matmul
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with pytest.raises(SettingsError, match="set_float32_matmul_precision"):
            exact.prior(CODES)
        in_float64(exact).prior(CODES)
    finally:
        torch.set_float32_matmul_precision(before)
    exact = integer.ExactEntropyModel(export(model), model.settings)
    was = matmul.fp32_precision
    try:
        matmul.fp32_precision = "bf16"  # the new way to set it
        with pytest.raises(SettingsError, match="reduced precision"):
            exact.prior(CODES)
    finally:
        matmul.fp32_precision = was
    exact.prior(CODES)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(SettingsError, match="autocast"):
        exact.prior(CODES)


@torch.no_grad()
def test_narrow_grids_cost_the_shipped_model_less_than_a_thousandth_of_its_bits() -> None:
    codec = Codec.load()
    picture = Picture(synthetic(384, 512, seed=4))
    wide = codec.bundle.trainable_entropy()
    narrow = wide.with_grids("narrow")
    narrow_exact = integer.ExactEntropyModel(export(narrow), narrow.settings)
    for quality in (32.0, 256.0):
        file = parse(codec.encode(picture, quality=quality).data)
        parameters = file.parameters
        scaled = parameters.alpha * codec.backbone.encode_pixels(picture.pixels)
        symbols = codec.symbols(codec.encode(picture, quality=quality).data)
        hyper = hyper_latent(codec.encoder, scaled, parameters.channel_codes, codec.constants)[0]
        side = [hyper.round().numpy().astype(np.int32)]
        lengths = [
            len(stream.compress(exact, codec.tables, symbols, side, parameters.channel_codes).data)
            for exact in (codec.entropy, narrow_exact)
        ]
        assert lengths[0] > 1000
        assert lengths[1] <= lengths[0] * 1.001 + 4  # and the stream's last word


@pytest.mark.parametrize("fraction", [-9, 21, 2**31 - 1])
def test_fractions_that_no_export_writes_are_refused(fraction: int) -> None:
    model = tiny_entropy().with_grids("narrow")
    integers = export(model)
    integers["parameter_net.outer.fraction"][3] = fraction
    with pytest.raises(BundleError, match=r"parameter_net\.outer\.fraction is not within -8 to 20"):
        integer.ExactEntropyModel(integers, model.settings)
