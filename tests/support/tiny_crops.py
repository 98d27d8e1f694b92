"""A small training set, and crops of it."""

from pathlib import Path

from codec.training.data import CropSampler, ShardedImages


def sampler(tars: Path, **changes: int) -> CropSampler:
    """Batches of four 32-pixel crops, but for what is changed."""
    values = {"seed": 3, "batch_size": 4, "crop_size": 32} | changes
    return CropSampler(ShardedImages([tars]), **values)
