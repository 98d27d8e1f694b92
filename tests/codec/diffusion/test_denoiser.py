"""Denoising: the one-step prediction and the DDIM path."""

import pytest
import torch

from codec.diffusion.denoiser import clean_latent, denoise, noisy_latent
from tests.support.tiny_bundles import tiny_backbone


def test_one_ddim_step_is_the_clean_latent_of_training() -> None:
    backbone, y_hat, t = tiny_backbone(), torch.randn(2, 4, 8, 8), torch.tensor([20.5, 90.0])
    with torch.no_grad():
        assert torch.equal(denoise(backbone, y_hat, t, 1), clean_latent(backbone, y_hat, t))


def test_perfect_noise_prediction_returns_the_clean_latent_in_any_number_of_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone, t = tiny_backbone(), torch.tensor([120.0])
    torch.manual_seed(0)
    clean, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    alpha_bar = backbone.alpha_bar(t)
    y_hat = clean + ((1 - alpha_bar) / alpha_bar).sqrt() * noise
    monkeypatch.setattr(backbone, "predict_noise", lambda _x, _t: noise)
    for steps in (1, 2, 5):
        torch.testing.assert_close(denoise(backbone, y_hat, t, steps), clean, rtol=1e-4, atol=1e-5)


def test_input_is_scaled_to_the_schedule() -> None:
    backbone, y_hat, t = tiny_backbone(), torch.ones(1, 4, 2, 2), torch.tensor([100.0])
    assert float(noisy_latent(backbone, y_hat, t)[0, 0, 0, 0]) == pytest.approx(float(backbone.alpha_bar(t)) ** 0.5)


def test_gradient_reaches_latent_and_timestep() -> None:
    backbone = tiny_backbone()
    y_hat, t = torch.randn(1, 4, 8, 8, requires_grad=True), torch.tensor([50.0], requires_grad=True)
    clean_latent(backbone, y_hat, t).square().sum().backward()
    assert y_hat.grad is not None and float(y_hat.grad.abs().sum()) > 0
    assert t.grad is not None and float(t.grad.abs().sum()) > 0
