"""Cached latents, for backbones that are far slower than the network trained on them."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from codec.diffusion.backbone import Backbone
from codec.training.data import CropSampler


class CachedLatents:
    """The latents of a sampler's first batches, (batch, 4, crop / 8, crop / 8) each, repeated endlessly.

    They are stored in one file, named by what they depend on: the backbone's content and the sampler's settings.
    """

    def __init__(
        self, sampler: CropSampler, backbone: Backbone, batches: int, folder: Path, accelerator: Accelerator
    ) -> None:
        self.batches = batches
        depends_on = (
            backbone.content_hash[:16],
            batches,
            sampler.seed,
            sampler.crop_size,
            sampler.batch_size,
            sampler.crops_per_image,
            len(sampler.images),
        )
        name = "-".join(str(value) for value in depends_on)
        self.file = folder / f"{name}.safetensors"
        # one process encodes; the others wait below and read its file
        if accelerator.is_main_process and not self.file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            spool = self.file.with_suffix(".spool")
            encoded = {str(step): _encoded(backbone, sampler.batch(step)) for step in range(batches)}
            save_file(encoded, spool)
            os.replace(spool, self.file)  # noqa: PTH105
        accelerator.wait_for_everyone()

    def batch(self, step: int, *, rank: int = 0, world: int = 1) -> Tensor:
        """The rank's slice of the step's latents."""
        latents = _opened(self.file).get_slice(str(step % self.batches))
        share = latents.get_shape()[0] // world
        chosen: Tensor = latents[rank * share : (rank + 1) * share]
        return chosen


@lru_cache(maxsize=2)
def _opened(file: Path) -> Any:
    """Opens a file once per process; its tensors are mapped, not read."""
    return safe_open(file, "pt")


@torch.no_grad()
def _encoded(backbone: Backbone, pixels: Tensor) -> Tensor:
    return backbone.encode(pixels.to(backbone.device)).cpu().contiguous()
