"""This codec in a comparison, and its autoencoder alone, the upper bound at any bit rate."""

from typing import TYPE_CHECKING

from codec.evaluation.baselines.baseline import Baseline, Pixels

if TYPE_CHECKING:
    from codec.codec import Codec

NAME = "fdcodec"
UPPER_BOUND = "autoencoder"
QUALITIES = (1.0, 2.0, 4.0, 8.0, 32.0, 256.0)
"""Lambdas at which this codec is measured."""


def ours(codec: "Codec", qualities: tuple[float, ...] = QUALITIES) -> Baseline:
    """This codec; its setting is lambda. The bundle is part of its version, so other bundles have other rows."""
    from codec.images import Picture
    from codec.quantization.parameters import quality_of_code
    from codec.quantization.quantizer import QUALITY_CODES

    def encode(pixels: Pixels, setting: float) -> bytes:
        return codec.encode(Picture(pixels), quality=setting).data

    settings = tuple(map(quality_of_code, range(QUALITY_CODES)))  # a file states lambda by its code
    version = f"bundle {codec.bundle.id}, {codec.bundle.config.name}, setting = lambda"
    return Baseline(f"{NAME}-{codec.bundle.id[:8]}", version, settings, encode, codec.decode, qualities)


def upper_bound(codec: "Codec") -> Baseline:
    """The autoencoder of this codec without quantization; a PNG replaces the missing file."""
    import torch

    from codec.containers.writing import encode_png
    from codec.images import read_image, to_pixels

    def encode(pixels: Pixels, _: float) -> bytes:
        with torch.no_grad():
            y = codec.backbone.encode_pixels(pixels)
            return encode_png(to_pixels(codec.backbone.decode(y, pixels.shape[:2])[0]))

    def decode(data: bytes) -> Pixels:
        return read_image(data).pixels

    version = f"autoencoder of bundle {codec.bundle.id}, without quantization"
    name = f"{UPPER_BOUND}-{codec.bundle.id[:8]}"
    return Baseline(name, version, (0.0,), encode, decode, (0.0,), lossless_latent=True)
