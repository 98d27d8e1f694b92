"""Promises of the noise schedule."""

import codec.support.torchvision_shim  # noqa: F401

import pytest
import torch
from diffusers import DDIMScheduler

from codec.diffusion.backbone import Backbone
from codec.diffusion.schedule import NoiseSchedule
from tests.support import tiny_backbones as tiny

pytestmark = pytest.mark.usefixtures("no_network")


def test_alpha_bar_is_the_schedule_at_integer_steps_and_linear_in_log_snr_between(mini: Backbone) -> None:
    table = DDIMScheduler(**tiny.SCHEDULER).alphas_cumprod
    torch.testing.assert_close(mini.alpha_bar(torch.arange(1000.0)), table)
    assert mini.alpha_bar(torch.tensor(0)).item() == pytest.approx(1 - 0.00085)
    steps = torch.tensor([10.0, 10.25, 11.0], dtype=torch.float64)
    low, middle, high = torch.logit(mini.alpha_bar(steps))
    torch.testing.assert_close(middle, 0.75 * low + 0.25 * high)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("betas", [(0.0001, 0.02), (0.00085, 0.012)])
def test_the_table_is_that_of_diffusers_to_the_last_bit(schedule: str, betas: tuple[float, float]) -> None:
    settings = {"beta_start": betas[0], "beta_end": betas[1], "beta_schedule": schedule}
    expected = DDIMScheduler(**settings).alphas_cumprod.double().clamp(min=2.0**-24)
    assert torch.equal(NoiseSchedule.from_config(settings).log_snr, torch.logit(expected))


def test_alpha_bar_has_the_gradient_of_its_slope(mini: Backbone) -> None:
    t = torch.tensor([0.5, 20.3, 998.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mini.alpha_bar, (t,))


@pytest.mark.parametrize("t", [0.0, 0.125, 99.5, 998.875, 999.0])
def test_timestep_of_undoes_alpha_bar(mini: Backbone, t: float) -> None:
    alpha_bar = mini.alpha_bar(torch.tensor(t, dtype=torch.float64)).item()
    assert mini.timestep_of(alpha_bar) == pytest.approx(t, abs=1e-9)


@pytest.mark.parametrize("alpha_bar, t", [(1.0, 0.0), (0.0, 999.0)])
def test_timestep_of_ends_where_the_schedule_ends(mini: Backbone, alpha_bar: float, t: float) -> None:
    assert mini.timestep_of(alpha_bar) == t


def test_a_schedule_that_ends_in_pure_noise_stays_finite() -> None:
    schedule = NoiseSchedule.from_config({**tiny.SCHEDULER, "rescale_betas_zero_snr": True})
    assert schedule.alpha_bar(torch.tensor([998.5, 999.0])).gt(0).all()
