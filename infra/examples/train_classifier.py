"""Trains a small classifier on the pictures of an archive: python train_classifier.py FOLDER

It makes its own photos, stripes and checks, in FOLDER/photos/CLASS, and compresses them to FOLDER/archive.
It learns from latents, which are decoded once and then read from FOLDER/latents; leave out kind and cache for pixels.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from tasks.archive.manifest import RunSettings
from tasks.compress.runs import compress
from tasks.learning import ArchivePictures

CLASSES = ("checks", "stripes")
SIDE = 64


def make_photos(folder: Path, count: int = 12) -> None:
    """Squares or stripes of random size, place, color and noise."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            width = random.integers(6, 12)
            down, right = (rows + random.integers(SIDE)) // width % 2, (columns + random.integers(SIDE)) // width % 2
            pattern = down ^ right if name == "checks" else right
            pixels = random.integers(40, 200, 3) + 55 * pattern[..., None] + random.normal(0, 4, (SIDE, SIDE, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")


def classifier() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, len(CLASSES)),
    )  # fmt: skip


def main(folder: str) -> None:
    torch.manual_seed(0)
    photos, archive = Path(folder, "photos"), Path(folder, "archive")
    make_photos(photos)
    compress(str(photos), str(archive), RunSettings(quality=8.0, metrics=()))

    latents = ArchivePictures(archive, kind="latents", columns=("key",), where="bpp < 2", cache=Path(folder, "latents"))
    loader = DataLoader(latents, batch_size=8, shuffle=True)  # num_workers=4 for more than a few pictures
    model = classifier()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for epoch in range(15):
        right = 0
        for batch, columns in loader:
            label = torch.tensor([CLASSES.index(key.split("/")[0]) for key in columns["key"]])
            scores = model(batch)
            loss = nn.functional.cross_entropy(scores, label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            right += int((scores.argmax(1) == label).sum())
        print(f"epoch {epoch + 1}: {right} of {len(latents)} right")


if __name__ == "__main__":
    main(*sys.argv[1:])
