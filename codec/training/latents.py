"""Latents cached on disk, for backbones that are far slower than the network trained on them."""

import hashlib
import json
import os
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from codec.diffusion.backbone import Backbone
from codec.errors import SettingsError
from codec.training.data import CropSampler

FORMAT = 1
"""Counts changes of how crops are drawn, encoded or stored: a cache of another number is not used."""
BYTES_PER_FILE = 64 * 2**20
"""Bytes of one file, at least one batch: an interrupted run encodes so much again at most."""
BYTES_PER_PIXEL = 4 * 4 / 64
"""A latent has four float32 channels for 8 x 8 pixels."""
CROPS_AT_ONCE = 8
"""Crops encoded together, which bounds the memory."""


class CachedLatents:
    """The latents of a sampler's first batches, (batch, 4, crop / 8, crop / 8) float32 each, repeated endlessly.

    They lie in folder/<key>/<first batch>.safetensors. The key is a hash of all that they depend on: the backbone, the
    bytes of every photo, and the sampler's settings. Caches of other keys are deleted, so the folder holds one. The
    processes divide the files; each file appears whole, so an interrupted run encodes only what is missing.
    Raises SettingsError if the latents would take more than `limit_gib`.
    """

    def __init__(
        self,
        sampler: CropSampler,
        backbone: Backbone,
        batches: int,
        folder: Path,
        accelerator: Accelerator,
        *,
        limit_gib: float = float("inf"),
    ) -> None:
        self.batches = batches
        batch_bytes = sampler.batch_size * sampler.crop_size**2 * BYTES_PER_PIXEL
        needed = batches * batch_bytes / 2**30
        if needed > limit_gib:
            raise SettingsError(
                f"cached_batches = {batches} would take {needed:.2f} GiB, cache_gib is {limit_gib:g}: lower one or "
                "raise the other"
            )
        self.batches_per_file = max(1, int(BYTES_PER_FILE / batch_bytes))
        self.folder = folder / _key(sampler, backbone)
        if accelerator.is_main_process:
            _delete_others(folder, self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
        accelerator.wait_for_everyone()
        files = range(0, batches, self.batches_per_file)
        # shared out, since processes that wait for one too long are taken for dead
        for first in files[accelerator.process_index :: accelerator.num_processes]:
            self._encode(first, sampler, backbone)
        accelerator.wait_for_everyone()

    def batch(self, step: int, *, rank: int = 0, world: int = 1) -> Tensor:
        """The rank's slice of the step's latents."""
        number = step % self.batches
        first = number - number % self.batches_per_file
        latents = _opened(self._file(first)).get_slice(str(number))
        share = latents.get_shape()[0] // world
        chosen: Tensor = latents[rank * share : (rank + 1) * share]
        return chosen

    def _file(self, first: int) -> Path:
        return self.folder / f"{first:08d}.safetensors"

    def _encode(self, first: int, sampler: CropSampler, backbone: Backbone) -> None:
        """Writes the file that begins with this batch, unless it is there with all its batches."""
        numbers = range(first, min(first + self.batches_per_file, self.batches))
        file = self._file(first)
        if file.exists() and _names(file) >= {str(number) for number in numbers}:
            return
        encoded = {str(number): _encoded(backbone, sampler.batch(number)) for number in numbers}
        spool = file.with_suffix(".spool")
        save_file(encoded, spool)
        os.replace(spool, file)  # noqa: PTH105


def _names(file: Path) -> set[str]:
    """The tensors of a file; none if it is damaged, as after a power cut."""
    try:
        with safe_open(file, "pt") as stored:
            return set(stored.keys())
    except SafetensorError:
        return set()


def _key(sampler: CropSampler, backbone: Backbone) -> str:
    """32 hex digits of a hash of everything that a batch's latents depend on."""
    depends_on = {
        "format": FORMAT,
        "backbone": backbone.content_hash,
        "photos": sampler.images.content_hash,
        "seed": sampler.seed,
        "crop_size": sampler.crop_size,
        "batch_size": sampler.batch_size,
        "crops_per_image": sampler.crops_per_image,
        "rescale": sampler.rescale,
        "flip": sampler.flip,
        "device": backbone.device.type,  # in bfloat16 on a GPU
    }
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:32]


def _delete_others(folder: Path, kept: Path) -> None:
    """Deletes every cache but one, and what a killed process left half written."""
    if not folder.exists():
        return
    for path in folder.iterdir():
        if path.is_dir() and path != kept:
            shutil.rmtree(path)
    for spool in kept.glob("*.spool"):
        spool.unlink()


@lru_cache(maxsize=2)
def _opened(file: Path) -> Any:
    """Opens a file once per process; its tensors are mapped, not read."""
    return safe_open(file, "pt")


@torch.no_grad()
def _encoded(backbone: Backbone, pixels: Tensor) -> Tensor:
    parts = [backbone.encode(part.to(backbone.device)).cpu() for part in pixels.split(CROPS_AT_ONCE)]
    return torch.cat(parts).contiguous()
