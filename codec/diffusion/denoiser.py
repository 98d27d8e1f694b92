"""Removes quantization error by diffusion: the one-step clean latent, and a short DDIM from t to 0."""

import torch
from torch import Tensor

from codec.diffusion.backbone import Backbone


def noisy_latent(backbone: Backbone, y_hat: Tensor, t: Tensor) -> Tensor:
    """x_t = sqrt(alpha_bar_t) y_hat: the dequantized latent as a noised latent; y_hat (B, 4, h, w), t (B,) float32."""
    return backbone.alpha_bar(t).sqrt()[:, None, None, None] * y_hat


def split_noise(backbone: Backbone, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Predicted (clean latent, noise) of x_t: x0 = (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar)."""
    noise = backbone.predict_noise(x_t, t)
    alpha_bar = backbone.alpha_bar(t.double())[:, None, None, None]  # 1 - alpha_bar would lose digits in float32
    clean = (x_t - (1 - alpha_bar).sqrt().float() * noise) / alpha_bar.sqrt().float()
    return clean, noise


def clean_latent(backbone: Backbone, y_hat: Tensor, t: Tensor) -> Tensor:
    """The clean latent predicted in one step, as in training (supplement B); differentiable in y_hat and t."""
    return split_noise(backbone, noisy_latent(backbone, y_hat, t), t)[0]


def denoise(backbone: Backbone, y_hat: Tensor, t: Tensor, steps: int) -> Tensor:
    """DDIM (Song et al., 2021), equal steps t_i = t (1 - i / steps), the last to alpha_bar = 1; t (B,) float32 > 0."""
    x = noisy_latent(backbone, y_hat, t)
    for i in range(steps):
        clean, noise = split_noise(backbone, x, t * ((steps - i) / steps))
        if i + 1 == steps:
            return clean
        alpha_bar = backbone.alpha_bar((t * ((steps - i - 1) / steps)).double())[:, None, None, None]
        x = alpha_bar.sqrt().float() * clean + (1 - alpha_bar).sqrt().float() * noise
    return torch.clone(y_hat)
