"""A term of the loss against drifting colors: errors of the means of 8x8 pixels, in CIELAB."""

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 8
"""Side of a mean's square in pixels: texture averages out and a wrong shade stays."""
TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
"""Linear sRGB to CIE XYZ (IEC 61966-2-1)."""
THRESHOLD = 6 / 29
"""CIELAB is linear in light below the cube of this (CIE 15)."""


def color_error(original: Tensor, decoded: Tensor) -> Tensor:
    """Mean absolute error (B,) of L*, a* and b* over blocks, in hundredths: pictures (B, 3, H, W) in [-1, 1].

    Means are of linear light, as the eye sees a pattern from afar. What is left at right and bottom is cut.
    """
    difference = _lab(_block_means(decoded)) - _lab(_block_means(original))
    return difference.abs().flatten(1).mean(1)


def _block_means(pixels: Tensor) -> Tensor:
    """Means of linear light (B, 3, H // 8, W // 8), of values clamped to what a pixel can have."""
    stored = ((pixels + 1) / 2).clamp(0, 1)
    # the larger of both pieces' arguments in the power keeps its gradient finite at zero
    curve = ((stored.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    linear = torch.where(stored <= 0.04045, stored / 12.92, curve)
    return F.avg_pool2d(linear, BLOCK)


def _lab(linear: Tensor) -> Tensor:
    """L*, a* and b* in hundredths of linear sRGB (B, 3, h, w), for the white point D65."""
    matrix = linear.new_tensor(TO_XYZ)
    white = matrix.sum(1)[:, None, None]
    xyz = torch.einsum("ij,bjhw->bihw", matrix, linear) / white
    root = xyz.clamp(min=THRESHOLD**3) ** (1 / 3)
    x, y, z = torch.where(xyz > THRESHOLD**3, root, xyz / (3 * THRESHOLD**2) + 4 / 29).unbind(1)
    return torch.stack([1.16 * y - 0.16, 5 * (x - y), 2 * (y - z)], 1)
