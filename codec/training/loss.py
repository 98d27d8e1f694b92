"""Distortion terms of training on pixels in [-1, 1]."""

from torch import Tensor
from torch.nn import functional as F

from codec.metrics.perceptual import dists_network, lpips_network
from codec.training.settings import StageSettings


def distortion(
    original: Tensor, decoded: Tensor, settings: StageSettings, step: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Per-sample weighted L1 + MSE + LPIPS + DISTS of (B, 3, H, W) pictures: ((B,), the terms' batch means by name).

    LPIPS is computed at every perceptual_every-th step only and then weighs that many times as much.
    """
    l1 = F.l1_loss(decoded, original, reduction="none").flatten(1).mean(1)
    mse = F.mse_loss(decoded, original, reduction="none").flatten(1).mean(1)
    loss = settings.pixel_l1 * l1 + settings.pixel_mse * mse
    terms = {"l1": l1.mean(), "mse": mse.mean()}
    if settings.perceptual and step % settings.perceptual_every == 0:
        lpips: Tensor = lpips_network(settings.perceptual_network, original.device)(original, decoded)
        loss = loss + settings.perceptual * settings.perceptual_every * lpips
        terms["lpips"] = lpips.mean()
    if settings.structural:
        dists: Tensor = dists_network(original.device)(original, decoded)
        loss = loss + settings.structural * dists
        terms["dists"] = dists.mean()
    return loss, terms
