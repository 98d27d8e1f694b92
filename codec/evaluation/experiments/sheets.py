"""Figs. 5 to 16: full pictures and crops of all codecs, labeled Method@bpp (% of ours)."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from codec.codec import DEFAULT_QUALITY, Codec
from codec.errors import SettingsError
from codec.evaluation.baselines.ours import NAME, UPPER_BOUND
from codec.evaluation.experiments import spread
from codec.evaluation.runner import Evaluation, EvaluationRow
from codec.evaluation.tables import plain
from codec.images import read_image

Pixels = NDArray[np.uint8]

SUPPLEMENT = ("kodim01", "kodim02", "kodim05", "kodim07", "kodim13", "kodim17", "kodim19", "kodim23", "kodim24")
"""The photos that the supplement shows."""
PICTURES = 9
TILE = 480
"""Larger side of a tile in pixels."""
CROP = 160
COLUMNS = 3
LABEL = 32
"""Height of a label in pixels."""
GAP = 8
"""Space between tiles in pixels."""


def run(codec: Codec, pictures: Sequence[Path], folder: Path) -> str:
    """Draws sheets/PICTURE-full.png and -crop.png from the reconstructions of the folder's evaluation."""
    output = folder.parents[1]  # OUTPUT/experiments/BUNDLE
    rows = Evaluation(output).rows()
    ours = f"{NAME}-{codec.bundle.id[:8]}"
    sources = [picture for picture in pictures if picture.stem in SUPPLEMENT]
    if not sources:
        sources = spread(pictures, PICTURES)
    names = []
    (folder / "sheets").mkdir(exist_ok=True)
    for source in sources:
        chosen = beside([row for row in rows if Path(row["image"]).name == source.name], ours)
        if not chosen:
            continue
        original = read_image(source).pixels
        tiles = [("original", original)]
        tiles += [(label, read_image(output / row["picture"]).pixels) for label, row in chosen]
        top, left = busiest(original)
        crops = [(label, pixels[top : top + CROP, left : left + CROP]) for label, pixels in tiles]
        sheet(tiles).save(folder / "sheets" / f"{source.stem}-full.png")
        sheet(crops).save(folder / "sheets" / f"{source.stem}-crop.png")
        names.append(source.stem)
    if not names:
        raise SettingsError(f"{output} has no reconstructions of {ours}: measure it first")
    lines = [
        "## Side by side (Figs. 5 to 16)",
        "",
        "Each codec by its smallest measured file of at least our size, at lambda",
        f"near {DEFAULT_QUALITY:g}, or by its largest; the crop is the busiest {CROP} x {CROP} pixels, enlarged.",
    ]
    for name in names:
        title = _title(name)
        full = quote(f"sheets/{name}-full.png")
        crop = quote(f"sheets/{name}-crop.png")
        lines.append(f"\n### {title}\n\n![{title}]({full})\n\n![{title}, crop]({crop})")
    return "\n".join(lines) + "\n"


def _title(name: str) -> str:
    """A name without link syntax, since the report prefixes links with the folder."""
    return plain(name).replace("(", "\\(")


def beside(rows: Sequence[EvaluationRow], ours: str) -> list[tuple[str, EvaluationRow]]:
    """One picture's row of ours, then the matching row of every other codec, with labels; empty if ours is missing."""
    files: dict[str, list[EvaluationRow]] = {}
    for row in rows:
        if row["bpp"] is not None and row["picture"]:
            files.setdefault(row["codec"], []).append(row)
    if ours not in files:
        return []
    mine = min(files[ours], key=lambda row: abs(np.log(row["setting"] / DEFAULT_QUALITY)))
    others = []
    for codec, found in files.items():
        if codec.startswith((f"{NAME}-", UPPER_BOUND)):
            continue  # other bundles of this codec
        by_size = sorted(found, key=lambda row: row["bytes"])
        # At least our size, so that no comparison flatters us.
        at_least_ours = [row for row in by_size if row["bytes"] >= mine["bytes"]]
        row = by_size[-1]
        if at_least_ours:
            row = at_least_ours[0]
        others.append((codec, row))
    others.sort(key=lambda item: item[1]["bytes"])
    labeled = []
    for name, row in [(NAME, mine), *others]:
        percent = 100 * row["bytes"] / mine["bytes"]
        labeled.append((f"{name}@{row['bpp']:.3f} ({percent:.0f} %)", row))
    return labeled


def busiest(pixels: Pixels) -> tuple[int, int]:
    """Top and left of the square of CROP pixels with the largest mean gradient, on a grid of half squares."""
    gray = pixels.astype(np.float64).mean(2)
    gradient = np.zeros_like(gray)
    gradient[:, 1:] += np.abs(np.diff(gray, axis=1))
    gradient[1:] += np.abs(np.diff(gray, axis=0))
    height, width = gray.shape
    found = (0, 0)
    largest = -1.0
    for top in range(0, max(1, height - CROP + 1), CROP // 2):
        for left in range(0, max(1, width - CROP + 1), CROP // 2):
            mean = float(gradient[top : top + CROP, left : left + CROP].mean())
            if mean > largest:
                found = (top, left)
                largest = mean
    return found


def sheet(tiles: Sequence[tuple[str, Pixels]], columns: int = COLUMNS) -> Image.Image:
    """Labeled pictures of one size in a grid on white: large ones reduced, small ones enlarged by integer factors."""
    height, width, _ = tiles[0][1].shape
    larger = max(height, width)
    if larger <= TILE:
        factor: float = TILE // larger
        resampling = Image.Resampling.NEAREST  # shows each pixel as it is
    else:
        factor = TILE / larger
        resampling = Image.Resampling.LANCZOS
    tile_width = round(width * factor)
    tile_height = round(height * factor)
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    size = (columns * (tile_width + GAP) + GAP, rows * (tile_height + LABEL) + GAP)
    whole = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(whole)
    font = ImageFont.load_default(18)
    for number, (label, pixels) in enumerate(tiles):
        row, column = divmod(number, columns)
        x = GAP + column * (tile_width + GAP)
        y = row * (tile_height + LABEL)
        draw.text((x + tile_width / 2, y + LABEL / 2), label, fill="black", font=font, anchor="mm")
        whole.paste(Image.fromarray(pixels).resize((tile_width, tile_height), resampling), (x, y + LABEL))
    return whole
