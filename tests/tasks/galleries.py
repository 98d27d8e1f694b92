"""Evaluation folders of small synthetic pictures."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

from tests.conftest import synthetic

METHODS = {"fine": 8, "middling": 32, "coarse": 96}
"""The step of the levels that a method leaves."""


def evaluation(folder: Path, images: int = 3, width: int = 620, height: int = 560) -> Path:
    """Originals, three methods of known quality, and rows whose bits per pixel tell image and method apart."""
    rows = []
    for number in range(images):
        image, pixels = f"set/photo{number}", synthetic(height, width, number)
        save(folder / "originals" / f"{image}.png", pixels)
        for place, (method, step) in enumerate(METHODS.items()):
            path = f"reconstructions/{method}/1/{image}.png"
            save(folder / path, (pixels // step * step + step // 2).astype(np.uint8))
            rows.append(
                {
                    "image": image,
                    "codec": method,
                    "setting": 1,
                    "bpp": 1.0 / (place + 1) + number / 100,
                    "psnr_db": 40.0 - 5 * place,
                    "error": None,
                    "reconstruction": path,
                }
            )
    write_rows(folder, [*rows, {**rows[0], "codec": "broken", "error": "hung", "reconstruction": None}])
    return folder


def save(path: Path, pixels: np.ndarray) -> None:  # type: ignore[type-arg]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)


def write_rows(folder: Path, rows: list[dict[str, object]]) -> None:
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
