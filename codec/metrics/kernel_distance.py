"""The kernel distance (KID) between two sets of pictures, on features of their 256-pixel patches.

The features come from the VGG16 with ImageNet weights that LPIPS uses, not from Inception as in published figures, so
values are comparable only with each other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import codec.support.torchvision_shim  # noqa: F401

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from codec.images import to_tensor
from codec.metrics.perceptual import lpips_network

PATCH = 256
NETWORK = "VGG16 relu5_3"
STRIDE = 16
"""Pixels per cell of the network's last feature map."""

Features = NDArray[np.float32]


@contextmanager
def patch_features(device: str) -> Iterator[list[Features]]:
    """Collects features (pictures, patches, 512) of each batch of reconstructions while LPIPS (VGG) is measured.

    The mean of the network's last features over each patch, in the grid of whole patches from the top left corner;
    none for a picture smaller than a patch. LPIPS computes these features anyway.
    """
    seen: list[Features] = []
    network = lpips_network("vgg", device)

    def collect(_module: object, _inputs: object, output: Tensor) -> None:
        seen.append(_patches(output))

    handle = network.deepest.register_forward_hook(collect)
    try:
        yield seen
    finally:
        handle.remove()  # the network is shared, and would go on collecting


@torch.no_grad()
def original_features(original: NDArray[np.uint8], device: str) -> Features:
    """The features (patches, 512) of an original (H, W, 3); free right after measuring LPIPS (VGG) with it."""
    network = lpips_network("vgg", device)
    stages = network.original_stages(to_tensor(original)[None].to(device))
    features: Features = _patches(stages[-1])[0]
    return features


def kernel_distance(first: Features, second: Features) -> float | None:
    """KID (Binkowski et al., 2018) between the features (n, d) of originals and of reconstructions.

    The squared maximum mean discrepancy under (x.y / d + 1)^3, unbiased: pairs (i, i) are left out everywhere, so
    the distance of a set to itself is exactly 0. None for fewer than two patches.
    """
    count, width = first.shape
    if count < 2:
        return None
    x = first.astype(np.float64)
    y = second.astype(np.float64)
    among_originals = (x @ x.T / width + 1) ** 3
    among_decoded = (y @ y.T / width + 1) ** 3
    across = (x @ y.T / width + 1) ** 3
    # Pairs (i, i) of `across` are left out too: an original and its own reconstruction are no independent draw.
    others = ~np.eye(count, dtype=bool)
    return float((among_originals + among_decoded - 2 * across)[others].mean())


def _patches(features: Tensor) -> Features:
    """(B, C, h, w) -> means over the cells of each patch (B, patches, C)."""
    side = PATCH // STRIDE
    if min(features.shape[-2:]) < side:
        return np.zeros((len(features), 0, features.shape[1]), np.float32)
    means = F.avg_pool2d(features, side)  # whole patches only: what is left at right and bottom is dropped
    return cast(Features, means.flatten(2).transpose(1, 2).cpu().numpy())
