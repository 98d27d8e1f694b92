"""Exports a study: answers and images as Parquet, bit rates as a table, and the answers as Elo games."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from codec.errors import SettingsError
from codec.evaluation.elo import Games
from tasks.study.study import DATABASE, Study

ANSWERS = "answers.parquet"
IMAGES = "images.parquet"
TABLE = "images.md"

_ANSWERS = """
    SELECT participant, position, image, "left", "right", choice,
           CASE choice WHEN 'left' THEN "left" ELSE "right" END AS closer, answered_at, seconds
    FROM answers JOIN comparisons ON comparison = id ORDER BY participant, position
"""
_IMAGES = """
    SELECT image, nullif(method, '') AS method, bpp, width, height, crop_left, crop_top, pixels_sha256, crop
    FROM images ORDER BY image, method
"""

ANSWER_SCHEMA = pa.schema(
    [
        pa.field("participant", pa.string(), False, {"description": "name or code"}),
        pa.field("position", pa.int32(), False, {"description": "place in the participant's order, from 0"}),
        pa.field("image", pa.string(), False, {"description": "name of the image"}),
        pa.field("left", pa.string(), False, {"description": "method shown on the left"}),
        pa.field("right", pa.string(), False, {"description": "method shown on the right"}),
        pa.field("choice", pa.string(), False, {"description": "left or right: closer to the original"}),
        pa.field("closer", pa.string(), False, {"description": "the method chosen"}),
        pa.field("answered_at", pa.string(), False, {"description": "when, UTC, ISO 8601"}),
        pa.field("seconds", pa.float64(), False, {"description": "time from showing to choosing", "unit": "s"}),
    ]
)
IMAGE_SCHEMA = pa.schema(
    [
        pa.field("image", pa.string(), False, {"description": "name of the image"}),
        pa.field("method", pa.string(), True, {"description": "null: the original"}),
        pa.field("bpp", pa.float64(), True, {"description": "of the whole image's file", "unit": "bit/pixel"}),
        pa.field("width", pa.int32(), False, {"description": "of the whole image", "unit": "pixel"}),
        pa.field("height", pa.int32(), False, {"description": "of the whole image", "unit": "pixel"}),
        pa.field("crop_left", pa.int32(), False, {"description": "first column shown", "unit": "pixel"}),
        pa.field("crop_top", pa.int32(), False, {"description": "first row shown", "unit": "pixel"}),
        pa.field("pixels_sha256", pa.string(), False, {"description": "hash of all pixels, 8-bit RGB, row by row"}),
        pa.field("crop", pa.string(), False, {"description": "SHA-256, and name in crops/, of the PNG shown"}),
    ]
)


def export(study: Study) -> list[Path]:
    """Writes answers, images and the table of bit rates into the study's folder. Returns their paths."""
    answers_path = study.folder / ANSWERS
    images_path = study.folder / IMAGES
    table_path = study.folder / TABLE
    images = _table(study, _IMAGES, IMAGE_SCHEMA)
    pyarrow.parquet.write_table(_table(study, _ANSWERS, ANSWER_SCHEMA), answers_path)
    pyarrow.parquet.write_table(images, images_path)
    table_path.write_text(bitrates(images), encoding="utf-8")
    return [answers_path, images_path, table_path]


def bitrates(images: pa.Table) -> str:
    """Formats the bits per pixel of every method on every image, as in the supplement's Table 1."""
    found = {}
    for row in images.to_pylist():
        if row["method"]:  # not an original
            found[row["method"], row["image"]] = row["bpp"]
    methods = sorted({method for method, _ in found})
    names = sorted({image for _, image in found})
    lines = [f"| bpp | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for method in methods:
        cells = []
        for image in names:
            bpp = found.get((method, image))
            cells.append("-" if bpp is None else f"{bpp:.3g}")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def games(path: Path) -> Games:
    """Reads the games from a study's folder or its exported answers. Raises SettingsError for anything else."""
    if (path / DATABASE).is_file():
        rows = _table(Study(path), _ANSWERS, ANSWER_SCHEMA)
    else:
        try:
            rows = pyarrow.parquet.read_table(path, columns=["left", "right", "choice", "participant", "image"])
        except (OSError, pa.ArrowInvalid) as error:
            first_line = str(error).splitlines()[0]
            raise SettingsError(f"{path}: neither a study nor its answers: {first_line}") from None
    # an Elo game: the score of the left side is 1 if it was chosen, else 0
    scores = [float(choice == "left") for choice in rows.column("choice").to_pylist()]
    return Games.of(
        rows.column("left").to_pylist(),
        rows.column("right").to_pylist(),
        scores,
        rows.column("participant").to_pylist(),
        rows.column("image").to_pylist(),
    )


def _table(study: Study, sql: str, schema: pa.Schema) -> pa.Table:
    with study.database() as database:
        found = database.execute(sql).fetchall()
    rows = [dict(zip(schema.names, values, strict=True)) for values in found]
    return pa.Table.from_pylist(rows, schema)
