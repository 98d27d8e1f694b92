"""Evaluation folders of small synthetic pictures."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

from tests.conftest import synthetic

METHODS = {"fine": 8, "middling": 32, "coarse": 96}
"""The distance of the levels to which each method rounds pixels."""


def evaluation(folder: Path, images: int = 3, width: int = 620, height: int = 560) -> Path:
    """Originals, three methods of known quality, and rows whose bits per pixel tell image and method apart."""
    rows = []
    for number in range(images):
        image = f"set/photo{number}.png"
        pixels = synthetic(height, width, number)
        save(folder / "originals" / image, pixels)
        for place, (method, step) in enumerate(METHODS.items()):
            path = f"pictures/{method}/setting-1/{image}"
            save(folder / path, (pixels // step * step + step // 2).astype(np.uint8))
            row = {
                "image": image,
                "codec": method,
                "asked_bpp": None,
                "setting": 1.0,
                "bpp": 1.0 / (place + 1) + number / 100,
                "psnr_db": 40.0 - 5 * place,
                "error": None,
                "picture": path,
            }
            rows.append(row)
    # A codec that failed has a row too, without a picture; pages must leave it out.
    broken = {**rows[0], "codec": "broken", "error": "hung", "picture": None}
    write_rows(folder, [*rows, broken])
    return folder


def save(path: Path, pixels: np.ndarray) -> None:  # type: ignore[type-arg]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)


def write_rows(folder: Path, rows: list[dict[str, object]]) -> None:
    """One file for each codec and picture, as an evaluation leaves them."""
    for number, row in enumerate(rows):
        file = folder / "rows" / str(row["codec"]) / f"{number}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pa.Table.from_pylist([row]), file)
