"""Tiles: exact for the embedded networks, blended for others, one at a time, and never seen in a picture."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage import data
from torch import Tensor
from torch.nn import functional as F

from codec import Backbone, Codec, Picture
from codec.bundle import Bundle
from codec.bundle_id import DEFAULT_BUNDLE
from codec.diffusion.mini import MiniAutoencoder, MiniUNet
from codec.diffusion.tiling import Tiling, Tilings, bands, whole
from codec.images import to_pixels, to_tensor
from codec.metrics.quality import psnr
from tests.benchmarks.any_size import large_photo, seam_figures
from tests.conftest import synthetic
from tests.support.tiny_backbones import tiny_mini, write_folder

T = torch.tensor([60.0])


@st.composite
def tilings(draw: st.DrawFn) -> Tiling:
    multiple = draw(st.sampled_from([1, 4, 8]))
    margin, feather = draw(st.integers(0, 12)), draw(st.integers(0, 12))
    shortest = 2 * margin + feather + 2 * feather + 4 * multiple
    side = -(-shortest // multiple) * multiple + multiple * draw(st.integers(0, 6))
    return Tiling(side, margin, feather, multiple)


@pytest.fixture
def mini() -> Backbone:
    """The embedded backbone, with tiles so small that little pictures have several."""
    backbone = Bundle.open(DEFAULT_BUNDLE).load_backbone()
    usual = backbone.tilings
    backbone.tilings = Tilings(
        replace(usual.encoder, side=32), replace(usual.decoder, side=40), replace(usual.unet, side=120)
    )
    return backbone


@pytest.fixture(scope="module")
def usual() -> Backbone:
    """The embedded backbone as it comes."""
    return Bundle.open(DEFAULT_BUNDLE).load_backbone()


@pytest.fixture(scope="module")
def attentive(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """Networks of Stable Diffusion's kind, with group normalization and attention."""
    return Backbone.load(write_folder(tmp_path_factory.mktemp("backbones") / "tiny"))


def photo() -> NDArray[np.uint8]:
    """A photo of 512 x 512 pixels."""
    pixels: NDArray[np.uint8] = data.astronaut()
    return pixels


def seams(tiling: Tiling, length: int) -> list[int]:
    """The places between latents in whose middle tiles meet."""
    return [(before.stop + after.start) // 2 for before, after in itertools.pairwise(tiling.cut(length))]


@settings(deadline=None)
@given(tilings(), st.integers(1, 2000))
def test_tiles_cover_a_side_on_the_grid_with_their_overlap(tiling: Tiling, length: int) -> None:
    spans = tiling.cut(length)
    assert spans[0].start == 0 and spans[-1].stop == length
    assert all(span.start % tiling.multiple == 0 and 0 < span.stop - span.start <= tiling.side for span in spans)
    for before, after in itertools.pairwise(spans):
        assert after.start > before.start
        assert before.stop - after.start >= tiling.overlap
    for first, second in itertools.pairwise(seams(tiling, length)):
        assert second - first >= tiling.feather


@settings(deadline=None)
@given(tilings(), st.integers(1, 100_000))
def test_the_work_is_linear_in_the_length(tiling: Tiling, length: int) -> None:
    computed = sum(span.stop - span.start for span in tiling.cut(length))
    assert computed <= length * tiling.side / (tiling.side - tiling.overlap) + tiling.side


@settings(deadline=None)
@given(tilings(), st.integers(1, 150), st.integers(1, 150), st.sampled_from([1, 2]))
def test_tiles_are_put_back_where_they_came_from(tiling: Tiling, height: int, width: int, scale: int) -> None:
    x = torch.arange(float(height * width)).view(1, 1, height, width)
    got = whole(
        lambda rows, columns: F.interpolate(x[..., rows, columns], scale_factor=scale),
        (height, width),
        tiling,
        scale=scale,
    )
    torch.testing.assert_close(got, F.interpolate(x, scale_factor=scale))


def test_a_blend_goes_from_one_tile_to_the_next_in_a_straight_line() -> None:
    tiling = Tiling(side=24, margin=2, feather=4)
    values = iter((0.0, 8.0))
    row = whole(
        lambda rows, columns: torch.full((1, 1, 1, columns.stop - columns.start), next(values)), (1, 40), tiling
    )
    assert row.flatten().tolist() == [0.0] * 18 + [1.0, 3.0, 5.0, 7.0] + [8.0] * 18


def test_tiles_are_run_only_when_their_band_is_asked_for() -> None:
    run = []

    def network(rows: slice, columns: slice) -> Tensor:
        run.append((rows.start, columns.start))
        return torch.zeros(1, 1, rows.stop - rows.start, columns.stop - columns.start)

    iterator = bands(network, (100, 50), Tiling(side=30, margin=2))
    assert run == []
    assert next(iterator).shape[-1] == 50
    assert len(run) == 2 and {row for row, _ in run} == {0}


@pytest.mark.parametrize("values", [(16, 8, 0, 1), (16, 2, 6, 1), (15, 1, 0, 4)])
def test_tiles_too_short_for_their_overlap_are_refused(values: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Tiling(*values)


@torch.no_grad()
def test_what_fits_one_tile_runs_whole_to_the_bit(usual: Backbone) -> None:
    pixels = to_tensor(photo()[:64, :96])[None]
    mean, std = (torch.tensor(usual.autoencoder.config[f"latents_{name}"]).view(1, 4, 1, 1) for name in ("mean", "std"))
    latent = usual.encode(pixels)
    assert torch.equal(latent, usual.encode_pixels(photo()[:64, :96]))
    assert torch.equal(latent, (usual.autoencoder.encode(pixels).latent_dist.mean - mean) / std)
    assert torch.equal(usual.decode(latent, (64, 96)), usual.autoencoder.decode(latent * std + mean).sample)
    seen: list[Tensor] = []
    hook = usual.unet.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    usual.predict_noise(latent, T)
    hook.remove()
    assert len(seen) == 1 and torch.equal(seen[0], latent)


@torch.no_grad()
def test_tiles_of_the_embedded_networks_equal_the_whole(mini: Backbone, usual: Backbone) -> None:
    strip = photo()[:61, :509]
    latent = usual.encode_pixels(strip)
    assert min(len(mini.tilings.encoder.cut(64)), len(mini.tilings.decoder.cut(64))) > 1
    torch.testing.assert_close(mini.encode_pixels(strip), latent, rtol=0, atol=2e-5)
    torch.testing.assert_close(mini.decode(latent, (61, 509)), usual.decode(latent, (61, 509)), rtol=0, atol=2e-5)
    wide = torch.randn(1, 4, 9, 181, generator=torch.Generator().manual_seed(0))
    assert len(mini.tilings.unet.cut(181)) > 1
    torch.testing.assert_close(mini.predict_noise(wide, T), usual.predict_noise(wide, T), rtol=0, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("part", ["encoder", "decoder", "unet"])
def test_a_margin_below_the_reach_is_seen(part: str, mini: Backbone, usual: Backbone) -> None:
    mini.tilings = replace(mini.tilings, **{part: replace(getattr(mini.tilings, part), margin=0)})
    latent = torch.randn(1, 4, 150, 4, generator=torch.Generator().manual_seed(0))
    pixels = to_tensor(photo()[:, :32])[None]
    run = {
        "encoder": lambda backbone: backbone.encode(pixels),
        "decoder": lambda backbone: backbone.decode(latent, (1200, 32)),
        "unet": lambda backbone: backbone.predict_noise(latent, T),
    }[part]
    assert (run(mini) - run(usual)).abs().max() > 1e-3


@torch.no_grad()
def test_tiles_in_rows_and_columns_equal_the_whole() -> None:
    single, tiled = tiny_mini(), tiny_mini()
    for backbone in (single, tiled):
        randomized(backbone.autoencoder)
        randomized(backbone.unet)
    usual = tiled.tilings
    tiled.tilings = Tilings(
        replace(usual.encoder, side=20), replace(usual.decoder, side=24), replace(usual.unet, side=80)
    )
    pixels = to_tensor(synthetic(403, 325))[None]
    latent = single.encode(pixels)
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(tiled.encode(pixels), latent, **close)
    torch.testing.assert_close(tiled.decode(latent, (403, 325)), single.decode(latent, (403, 325)), **close)
    large = torch.randn(2, 4, 110, 97, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([60.0, 9.5])
    torch.testing.assert_close(tiled.predict_noise(large, t), single.predict_noise(large, t), **close)


@pytest.mark.parametrize("blocks", [(1, 1, 1), (1, 2, 3), (2, 0, 1)])
def test_the_autoencoder_knows_how_far_it_reaches(blocks: tuple[int, int, int]) -> None:
    autoencoder = randomized(MiniAutoencoder((2, 2, 2), (2, 2, 2), blocks, blocks)).double()
    pixels = torch.randn(1, 3, 512, 8, dtype=torch.float64, requires_grad=True)
    assert reach(autoencoder.encode(pixels).latent_dist.mean, pixels, 1, 8) == autoencoder.encoder_reach
    latent = torch.randn(1, 4, 64, 1, dtype=torch.float64, requires_grad=True)
    assert reach(autoencoder.decode(latent).sample, latent, 8, 1) == autoencoder.decoder_reach


@pytest.mark.parametrize("blocks", [1, 2])
def test_the_unet_knows_how_far_it_reaches(blocks: int) -> None:
    unet = randomized(MiniUNet((2, 2, 2), blocks, 4)).double()
    unet.embed.float()
    for block in unet.modules():
        if getattr(block, "modulation", None) is not None:
            block.modulation = None
    latent = torch.randn(1, 4, 160, 4, dtype=torch.float64, requires_grad=True)
    assert reach(unet(latent, T).sample, latent, 1, 1) == unet.reach


def randomized(network: Any) -> Any:
    """The network with weights none of which is zero."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def reach(output: Tensor, source: Tensor, output_scale: int, source_scale: int) -> int:
    """The largest distance, in latents, from which any of four latents' outputs in the middle depend on the source."""
    middle, farthest = source.shape[-2] // source_scale // 2, 0
    for place in range(middle * output_scale, (middle + 4) * output_scale):
        (gradient,) = torch.autograd.grad(output[0, :, place].sum(), source, retain_graph=True)
        seen = gradient.abs().sum((0, 1, 3)).nonzero().flatten() // source_scale
        farthest = max(farthest, int((seen - place // output_scale).abs().max()))
    return farthest


def test_gradients_through_tiles_equal_those_through_the_whole() -> None:
    gradients = []
    for decoder in (Tiling(256, 8), Tiling(24, 8)):
        backbone = tiny_mini()
        backbone.tilings = replace(backbone.tilings, decoder=decoder)
        latent = torch.randn(2, 4, 40, 33, generator=torch.Generator().manual_seed(0)).requires_grad_()
        backbone.decode(latent, (320, 264)).square().sum().backward()
        gradients.append(latent.grad)
    torch.testing.assert_close(gradients[1], gradients[0])


@torch.no_grad()
def test_seams_are_invisible_in_a_photo(mini: Backbone, usual: Backbone) -> None:
    pixels = photo()[128:384]
    places = seams(mini.tilings.decoder, 64)
    assert places
    tiled, single = (
        to_pixels(backbone.decode(backbone.encode_pixels(pixels), (256, 512))[0]) for backbone in (mini, usual)
    )
    assert np.abs(tiled.astype(int) - single).max() <= 1
    near = np.zeros(512, bool)
    for place in places:
        near[8 * place - 4 : 8 * place + 4] = True
        steps = [image[:, 8 * place].mean(0) - image[:, 8 * place - 1].mean(0) for image in (tiled, single)]
        assert np.abs(steps[0] - steps[1]).max() < 0.05
    gaps = [quality(image, pixels, near) - quality(image, pixels, ~near) for image in (tiled, single)]
    assert abs(gaps[0] - gaps[1]) < 0.3


def quality(image: NDArray[np.uint8], original: NDArray[np.uint8], columns: NDArray[np.bool_]) -> float:
    return psnr(image[:, columns], original[:, columns]) or 99.0


def test_the_benchmark_sees_a_color_step_and_a_bad_seam() -> None:
    original = large_photo(4096)[:256]
    noise = np.random.default_rng(0).integers(-3, 4, original.shape)
    stepped, smeared = noise.copy(), noise.copy()
    stepped[:, 1368:] += 4
    smeared[:, 1362:1374] += 4
    good, with_step, with_smear = (
        seam_figures(original, (original + error).clip(0, 255).astype(np.uint8), [1368, 2728])
        for error in (noise, stepped, smeared)
    )
    assert abs(good[1] - good[2]) < 0.3 and good[3] < good[4] + 0.5
    assert with_step[3] > with_step[4] + 3
    assert with_smear[1] < with_smear[2] - 0.3


@pytest.mark.parametrize("part", ["encoder", "decoder", "unet"])
def test_blending_removes_the_step_that_hard_cuts_leave(part: str, attentive: Backbone) -> None:
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(1, 4, 16, 80, generator=generator) + torch.linspace(-3, 3, 80)
    pixels = F.interpolate(latent[:, :3], scale_factor=8, mode="bilinear").tanh()
    run = {
        "encoder": lambda: attentive.encode(pixels),
        "decoder": lambda: attentive.decode(latent, (128, 640)),
        "unet": lambda: attentive.predict_noise(latent, T),
    }[part]
    usual, multiple = attentive.tilings, 8 if part == "unet" else 1
    scale = 8 if part == "decoder" else 1
    with torch.no_grad():
        single, error = run(), {}
        for name, tiling in {"hard": Tiling(48, 0, 0, multiple), "blended": Tiling(48, 4, 8, multiple)}.items():
            attentive.tilings = replace(usual, **{part: tiling})
            tiled = run()
            assert tiled.shape == single.shape
            (seam,) = seams(tiling, 80)
            added = (tiled - single)[..., scale * seam] - (tiled - single)[..., scale * seam - 1]
            error[name] = float(added.square().mean().sqrt())
    attentive.tilings = usual
    assert error["blended"] < 0.7 * error["hard"]


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (511, 767), (10000, 64)])
def test_pictures_of_any_size_keep_their_size(shape: tuple[int, int], bundle: Bundle) -> None:
    codec = Codec.load(bundle)
    encoded = codec.encode(Picture(synthetic(*shape)))
    assert np.array_equal(codec.symbols(encoded.data), encoded.symbols)
    assert codec.decode(encoded.data).shape == (*shape, 3)


def test_a_picture_in_bands_is_gray_throughout(bundle: Bundle) -> None:
    codec = Codec.load(bundle)
    decoder = codec.backbone.tilings.decoder
    codec.backbone.tilings = replace(codec.backbone.tilings, decoder=replace(decoder, side=2 * decoder.margin + 8))
    gray = np.repeat(synthetic(500, 40)[..., :1], 3, axis=2)
    decoded = codec.decode(codec.encode(Picture(gray, gray=True)).data)
    assert decoded.shape == gray.shape
    assert (decoded == decoded[..., :1]).all() and (psnr(gray, decoded) or 99) > 15
