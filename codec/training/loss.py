"""Distortion terms of training on pixels in [-1, 1]."""

import torch
from torch import Tensor
from torch.nn import functional as F

from codec.metrics.perceptual import dists_network, lpips_network
from codec.training.color import color_error
from codec.training.draws import Draws
from codec.training.settings import StageSettings

LARGEST_OFFSET = 7
"""The networks' strides are multiples of 8 pixels, so offsets of 0 to 7 cover every phase."""
CELL = 8
"""The decoder's stride: a grid's period divides it."""
CELLS = 4
"""Cells a side of the windows in which a grid is looked for."""


def distortion(
    original: Tensor, decoded: Tensor, settings: StageSettings, draws: Draws, *, every_term: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """Per-sample weighted L1 + MSE + lattice + color + LPIPS + DISTS of (B, 3, H, W) pictures: ((B,), the terms' batch
    means by name).

    LPIPS and DISTS are computed only every perceptual_every-th and structural_every-th step, with proportionally larger
    weight. They and the color term see the pictures from a common random offset of 0 to 7 pixels. Crops start at
    multiples of the decoder's stride; without the offset, patterns of that period look the same at every step and can
    grow.
    `every_term` computes all terms with their plain weights, the mean over steps.
    """
    l1 = F.l1_loss(decoded, original, reduction="none").flatten(1).mean(1)
    mse = F.mse_loss(decoded, original, reduction="none").flatten(1).mean(1)
    loss = settings.pixel_l1 * l1 + settings.pixel_mse * mse
    terms = {"l1": l1.mean(), "mse": mse.mean()}
    if settings.lattice:
        lattice = lattice_error((decoded - original).float())
        loss = loss + settings.lattice * lattice
        terms["lattice"] = lattice.mean()
    down, right = _offset(draws)
    seen = original[..., down:, right:].float()
    shown = decoded[..., down:, right:].float()
    if settings.color:
        color = color_error(seen, shown)
        loss = loss + settings.color * color
        terms["color"] = color.mean()
    with torch.autocast(original.device.type, enabled=False):  # half precision distorts their gradients
        for_lpips = 1 if every_term else settings.perceptual_every
        for_dists = 1 if every_term else settings.structural_every
        if settings.perceptual and draws.step % for_lpips == 0:
            lpips: Tensor = lpips_network(settings.perceptual_network, original.device)(seen, shown)
            loss = loss + settings.perceptual * for_lpips * lpips
            terms["lpips"] = lpips.mean()
        if settings.structural and draws.step % for_dists == 0:
            dists: Tensor = dists_network(original.device)(seen, shown)
            loss = loss + settings.structural * for_dists * dists
            terms["dists"] = dists.mean()
    return loss, terms


def lattice_error(error: Tensor) -> Tensor:
    """Power of the part of an error (B, 3, H, W) that repeats every 8 pixels, per sample: (B,).

    H and W are multiples of 8 and pixel (0, 0) is at one in the picture. Averaging the error over the 4 x 4 cells of
    8 x 8 pixels in a window, or all cells of a smaller crop, keeps what is locked to the decoder's stride, a grid, and
    averages out texture. The factor makes white noise count as much as in its mean square.
    """
    phases = F.pixel_unshuffle(error, CELL).unflatten(1, (3, CELL**2))  # (B, 3, 64, H/8, W/8)
    side = min(CELLS, *phases.shape[-2:])
    cells = F.avg_pool2d(phases.flatten(1, 2), side, stride=max(1, side // 2)).unflatten(1, (3, CELL**2))
    pattern = cells - cells.mean(2, keepdim=True)  # the mean of a window is color, not a grid
    power: Tensor = side**2 * pattern.square().flatten(1).mean(1)
    return power


@torch.no_grad()
def remember(original: Tensor, settings: StageSettings, draws: Draws) -> None:
    """Has the networks keep what they see of an original, for several calls of `distortion` with equal draws."""
    down, right = _offset(draws)
    seen = original[..., down:, right:].float()
    if settings.perceptual:
        lpips_network(settings.perceptual_network, original.device).original_stages(seen)
    if settings.structural:
        dists_network(original.device).original_features(seen)


def _offset(draws: Draws) -> tuple[int, int]:
    """Rows and columns of pixels to leave out at the top and the left."""
    down = int(draws.number(0, LARGEST_OFFSET + 1))
    right = int(draws.number(0, LARGEST_OFFSET + 1))
    return down, right
