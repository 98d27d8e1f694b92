"""The dequantized latent of a picture's file, to be denoised with other parameters than the file's."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.codec import Codec, Encoded
from codec.diffusion.denoiser import denoise
from codec.format.bitstream import parse
from codec.images import Picture, read_image, to_pixels
from codec.quantization.quantizer import dequantize


@dataclass(frozen=True)
class Coded:
    """A picture, its file, and the dequantized latent y_hat (1, 4, h, w) with its alpha (1, 4, 1, 1)."""

    picture: Picture
    encoded: Encoded
    alpha: Tensor
    y_hat: Tensor

    @property
    def bpp(self) -> float:
        """Bits per pixel of the whole file."""
        return 8 * len(self.encoded.data) / (self.picture.width * self.picture.height)


def coded(codec: Codec, source: Path, quality: float) -> Coded:
    """Encodes a picture at lambda."""
    picture = read_image(source)
    encoded = codec.encode(picture, quality=quality)
    # As the decoder does: alpha in the quantized form that the file has.
    alpha = parse(encoded.data).parameters.alpha.to(codec.backbone.device)
    symbols = torch.from_numpy(encoded.symbols)[None].to(codec.backbone.device, torch.float32)
    return Coded(picture, encoded, alpha, dequantize(symbols, alpha, codec.dither(symbols)))


@torch.no_grad()
def restored(codec: Codec, file: Coded, timestep: float, steps: int) -> NDArray[np.uint8]:
    """The pixels (H, W, 3) after this number of DDIM steps from this timestep; timestep 0 skips denoising."""
    latent = file.y_hat
    if timestep:
        t = torch.tensor([timestep], dtype=torch.float32, device=latent.device)
        latent = denoise(codec.backbone, latent, t, steps)
    return to_pixels(codec.backbone.decode(latent, (file.picture.height, file.picture.width))[0])
