"""Whether exported networks compute what PyTorch computes."""

from dataclasses import dataclass

import numpy as np
import torch

from codec.browser.networks import MiniNetworks, decoder_model, unet_model
from codec.bundle import Bundle
from codec.errors import BundleError

SIDES = (12, 20)
"""Rows and columns of the latent that is tried: multiples of 4, not square, so that no axis passes for another."""
TIMESTEPS = (0.125, 53.875, 350.0, 999.0)
TOLERANCE = 1e-4
"""Largest difference from PyTorch: a fortieth of a level in pixels of -1 to 1."""


@dataclass(frozen=True)
class CheckedNetworks:
    """The ONNX files of a bundle's networks, and how far they are from PyTorch."""

    unet: bytes
    decoder: bytes
    unet_difference: float
    """Largest difference in the prediction for a latent of unit variance."""
    decoder_difference: float
    """Largest difference in pixels of about -1 to 1."""


def checked_networks(bundle: Bundle) -> CheckedNetworks:
    """Exports a bundle's networks and runs them, by ONNX's own reference, beside PyTorch.

    Raises BundleError if its backbone is not the embedded kind, or if a result differs.
    """
    import onnx
    from onnx.reference import ReferenceEvaluator

    networks = MiniNetworks.of(bundle.path)
    models = unet_model(networks), decoder_model(networks)
    unet, decoder = (ReferenceEvaluator(onnx.load_from_string(model)) for model in models)
    backbone = bundle.load_backbone()
    latent = torch.randn(1, 4, *SIDES, generator=torch.Generator().manual_seed(0))
    unet_difference = 0.0
    with torch.no_grad():
        for t in TIMESTEPS:
            expected = backbone.unet(latent, torch.tensor([t])).sample.numpy()
            got = unet.run(None, {"sample": latent.numpy(), "timestep": np.array([[t]], np.float32)})[0]
            unet_difference = max(unet_difference, _difference(got, expected))
        expected = backbone.decode(latent, (8 * SIDES[0], 8 * SIDES[1])).numpy()
    decoder_difference = _difference(decoder.run(None, {"latent": latent.numpy()})[0], expected)
    for part, difference in (("U-Net", unet_difference), ("decoder", decoder_difference)):
        if not difference <= TOLERANCE:
            raise BundleError(f"the exported {part} of {bundle.path} differs from PyTorch's by {difference:.2g}")
    return CheckedNetworks(*models, unet_difference, decoder_difference)


def _difference(got: object, expected: object) -> float:
    return float(np.abs(np.asarray(got) - np.asarray(expected)).max())
