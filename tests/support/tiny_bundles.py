"""Tiny codecs with random weights, exported through the same code as real ones."""

from pathlib import Path

import torch

from codec.bundle import Bundle, BundleConfig, write_bundle
from codec.diffusion.backbone import Backbone
from codec.diffusion.mini import MiniAutoencoder, MiniUNet
from codec.diffusion.schedule import NoiseSchedule
from codec.entropy.entroformer import Entroformer, EntroformerSettings
from codec.quantization.estimator import AdapterSettings, ParameterEstimator

TINY = EntroformerSettings(dim=32, depth=2, heads=2, mlp_ratio=2, top_k=8, hyper_channels=4)


def tiny_backbone(seed: int = 1) -> Backbone:
    """A mini backbone of a few thousand weights whose linear path is the mean and three gradients of a patch."""
    torch.manual_seed(seed)
    autoencoder = MiniAutoencoder(
        (8, 8, 8), (8, 8, 8), (1, 1, 1), (1, 1, 1), latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4
    )
    # Of smooth patches the first components are the mean and the gradients; of noise they would be noise.
    smooth = torch.nn.functional.interpolate(torch.randn(4096, 3, 3, 3), size=8, mode="bilinear")
    autoencoder.start_from_patches(smooth)
    unet = MiniUNet(channels=(8, 8, 8), blocks=1, embedding=16)
    torch.nn.init.normal_(unet.leave[-1].weight, std=0.05)
    schedule = NoiseSchedule.from_config({"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"})
    return Backbone(autoencoder, unet, schedule, name="tiny")


def tiny_entropy(settings: EntroformerSettings = TINY, seed: int = 1) -> Entroformer:
    """An entropy model whose every weight is random, so that all its parts matter."""
    torch.manual_seed(seed)
    model = Entroformer(settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def tiny_bundle(folder: Path, *, entropy: EntroformerSettings = TINY, **changes: object) -> Bundle:
    """A whole bundle in a new folder."""
    values: dict[str, object] = {"name": "tiny", "backbone_source": "embedded", "steps": 2}
    values |= {"adapter": AdapterSettings(channels=(4, 4, 4)), **changes}
    config = BundleConfig(backbone_hash="", entropy=entropy, **values)  # type: ignore[arg-type]
    torch.manual_seed(2)  # the golden files were made by these weights
    estimator = ParameterEstimator(config.adapter, config.alpha_at_one)
    return write_bundle(folder, config, tiny_entropy(entropy), backbone=tiny_backbone(), estimator=estimator)
