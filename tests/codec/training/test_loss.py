"""The loss shows the perceptual networks every phase of the decoder's grid, in full precision."""

import pytest
import torch

from codec.metrics.perceptual import dists_network, lpips_network
from codec.training import loss
from codec.training.draws import Draws
from codec.training.loss import distortion, lattice_error, remember
from codec.training.settings import StageSettings

PICTURES = torch.linspace(-1, 1, 2 * 3 * 40 * 40).reshape(2, 3, 40, 40)


class Watching:
    """A perceptual network that remembers what it was shown."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []
        self.kinds: set[torch.dtype] = set()

    def __call__(self, original: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
        self.sizes.append((original.shape[2], original.shape[3]))
        assert original.shape == decoded.shape
        self.kinds.add((original @ decoded.mT).dtype)
        return decoded.flatten(1).mean(1) * 0 + 1


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> tuple[Watching, Watching]:
    lpips, dists = Watching(), Watching()
    monkeypatch.setattr(loss, "lpips_network", lambda *_: lpips)
    monkeypatch.setattr(loss, "dists_network", lambda *_: dists)
    return lpips, dists


def test_both_networks_see_both_pictures_from_every_offset_of_0_to_7(networks: tuple[Watching, Watching]) -> None:
    settings = StageSettings(steps=1, structural=1.0, structural_every=1)
    for step in range(300):
        loss.distortion(PICTURES, PICTURES, settings, Draws(1, step))
    lpips, dists = networks
    assert lpips.sizes == dists.sizes
    assert {40 - height for height, _ in lpips.sizes} == set(range(8))
    assert {40 - width for _, width in lpips.sizes} == set(range(8))


def test_the_offset_is_a_function_of_seed_and_step(networks: tuple[Watching, Watching]) -> None:
    settings = StageSettings(steps=1)
    for world in (1, 2):
        loss.distortion(PICTURES, PICTURES, settings, Draws(1, 5, rank=0, world=world))
    assert networks[0].sizes[0] == networks[0].sizes[1]


def test_the_networks_compute_in_float32_under_mixed_precision(networks: tuple[Watching, Watching]) -> None:
    settings = StageSettings(steps=1, structural=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        loss.distortion(PICTURES, PICTURES.bfloat16(), settings, Draws(1, 0))
    assert networks[0].kinds == networks[1].kinds == {torch.float32}


def test_dists_at_every_fourth_step_weighs_four_times_as_much(networks: tuple[Watching, Watching]) -> None:
    settings = StageSettings(steps=1, perceptual=0.0, structural=1.5, pixel_l1=0.0, pixel_mse=0.0)
    losses = [float(loss.distortion(PICTURES, PICTURES, settings, Draws(1, step))[0][0]) for step in range(8)]
    assert losses == [6.0, 0.0, 0.0, 0.0, 6.0, 0.0, 0.0, 0.0]


def test_what_the_networks_see_of_an_original_is_kept_for_several_comparisons() -> None:
    settings = StageSettings(steps=1, perceptual_network="alex", structural=0.3, structural_every=1)
    generator = torch.Generator().manual_seed(1)
    original, decoded = torch.rand(2, 1, 3, 48, 56, generator=generator) * 2 - 1

    def gradient() -> torch.Tensor:
        shown = decoded.clone().requires_grad_(True)
        loss, _ = distortion(original, shown, settings, Draws(1, 0))
        return torch.autograd.grad(loss.sum(), shown)[0]

    fresh = gradient()
    calls: list[int] = []
    networks = (lpips_network("alex").network.net, dists_network().stage5)
    hooks = [network.register_forward_hook(lambda *_: calls.append(1)) for network in networks]
    gradient()
    assert len(calls) == 4, "both pictures through both networks"
    remember(original, settings, Draws(1, 0))
    calls.clear()
    kept = gradient()
    for hook in hooks:
        hook.remove()
    assert len(calls) == 2, "the decoded picture alone"
    assert torch.allclose(kept, fresh, atol=1e-7)


@pytest.mark.parametrize(("down", "right"), [(0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("period", [2, 4, 8])
def test_a_grid_of_the_decoder_s_stride_is_an_error_sixteen_times_its_power_and_others_are_not(
    period: int, down: int, right: int
) -> None:
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")

    def wave(frequency: float) -> torch.Tensor:
        return torch.cos(2 * torch.pi * (down * rows + right * columns) * frequency).expand(2, 3, 64, 64)

    grid = wave(1 / period)
    power = grid.square().mean((1, 2, 3))
    assert torch.allclose(lattice_error(grid), 16 * power, rtol=1e-4)
    assert (lattice_error(wave(1 / period - 1 / 16)) < 0.01).all(), "between two frequencies of the stride"
    assert torch.allclose(lattice_error(grid + 0.7), 16 * power, rtol=1e-4), "a wrong shade is no grid"


@pytest.mark.parametrize("shape", [(256, 256), (8, 8192), (16, 4096)])
def test_noise_counts_in_the_grid_term_as_in_its_mean_square(shape: tuple[int, int]) -> None:
    noise = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(lattice_error(noise), noise.square().mean((1, 2, 3)), rtol=0.05)


def test_the_grid_term_sees_pictures_from_their_first_pixel_at_its_weight(networks: tuple[Watching, Watching]) -> None:
    settings = StageSettings(steps=1, perceptual=0.0, pixel_l1=0.0, pixel_mse=0.0, lattice=0.5)
    stripes = torch.arange(40) % 4 / 10  # of the decoder's stride
    for step in range(3):  # at any offset of the networks
        found, terms = loss.distortion(PICTURES, PICTURES + stripes, settings, Draws(1, step))
        assert torch.allclose(found, 0.5 * lattice_error(stripes.expand_as(PICTURES)))
        assert terms["lattice"] > 0
