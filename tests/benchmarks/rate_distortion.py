"""python -m tests.benchmarks.rate_distortion FOLDER --output DIR: rate and quality beside other codecs.

Step `measure` makes real files of every photo with every codec at the rates of RATES and keeps their rows in
DIR/rows/<codec>.parquet, going on where it stopped; codecs may be measured by several processes. Step `report` prints
the table of all rows there and writes it to DIR/report.md, and draws DIR/curves.png and DIR/curves.svg.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
import pyarrow.parquet
import torch
import typer

from codec.baselines import NAMES, Baseline, Pixels, available, largest_within
from codec.codec import Codec
from codec.comparison import METRICS, Comparison, Row, draw, markdown
from codec.errors import FdcError, SettingsError
from codec.images import Picture, encode_png, read_image, to_pixels
from codec.metrics import Metrics
from codec.quantizer import QUALITY_CODES, quality_of_code

OURS = "fdcodec"
TABLE = (0.05, 0.10, 0.15, 0.20, 0.25, 0.30)
RATES = (0.048, 0.075, 0.11, 0.16, 0.24, 0.36)
"""Bits per pixel that each codec is asked for on each photo: the largest file within, or its smallest."""
SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("codec", pa.string()),
        ("version", pa.string()),
        ("asked_bpp", pa.float64()),  # 0 for the autoencoder without quantisation, which has no file
        ("setting", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bytes", pa.int64()),
        ("bpp", pa.float64()),
        *((metric.name, pa.float64()) for metric in METRICS),
        ("error", pa.string()),
    ]
)


def measure(photos: Sequence[Path], output: Path, baseline: Baseline, rates: Iterable[float] = RATES) -> None:
    """Add the rows of one codec that are not there yet; failed ones are tried again."""
    place = output / "rows" / f"{baseline.name}.parquet"
    place.parent.mkdir(parents=True, exist_ok=True)
    rows = [row for row in read_rows([place] if place.exists() else []) if row["error"] is None]
    done = {(row["image"], row["asked_bpp"]) for row in rows}
    meters = Metrics("alex", dists=False), Metrics("vgg")
    for number, photo in enumerate(photos, 1):
        missing = [rate for rate in rates if (photo.name, rate) not in done]
        if missing:
            rows += measure_photo(photo, baseline, missing, meters)
            temporary = place.with_suffix(".partial")
            pyarrow.parquet.write_table(pa.Table.from_pylist(rows, SCHEMA), temporary)
            temporary.replace(place)
            print(f"{baseline.name}: {photo.name}, {number} of {len(photos)}", file=sys.stderr, flush=True)


def measure_photo(
    photo: Path, baseline: Baseline, rates: Sequence[float], meters: tuple[Metrics, Metrics]
) -> list[Row]:
    """A row for each rate; one that says why where the photo or the codec failed."""
    common = {"image": photo.name, "codec": baseline.name, "version": baseline.version}
    try:
        pixels = read_image(photo).pixels
        height, width, _ = pixels.shape
        tried: dict[float, bytes] = {}
        chosen = [largest_within(baseline, pixels, rate * width * height / 8, tried) for rate in rates]
        settings = sorted(set(chosen))
        values = dict(
            zip(settings, qualities(pixels, [baseline.decode(tried[s]) for s in settings], meters), strict=True)
        )
    except Exception as error:  # whatever a codec raises costs its rows and nothing else
        text = " ".join(str(error).split()) or type(error).__name__
        return [{**common, "asked_bpp": rate, "error": text} for rate in rates]
    size = {"width": width, "height": height}
    return [
        {**common, **size, "asked_bpp": rate, "setting": setting, **values[setting]}
        | {"bytes": len(tried[setting]), "bpp": 8 * len(tried[setting]) / (width * height)}
        for rate, setting in zip(rates, chosen, strict=True)
    ]


def qualities(original: Pixels, decoded: Sequence[Pixels], meters: tuple[Metrics, Metrics]) -> Iterator[Row]:
    """All metrics of each reconstruction."""
    alex, vgg = (meter.measure_all(original, decoded) for meter in meters)
    for first, second in zip(alex, vgg, strict=True):
        yield {
            "psnr_db": first.psnr_db,
            "ms_ssim": first.ms_ssim,
            "lpips_alex": first.lpips,
            "lpips_vgg": second.lpips,
            "dists": second.dists,
        }


def read_rows(places: Iterable[Path]) -> list[Row]:
    """The rows of files of rows."""
    return [row for place in places for row in pyarrow.parquet.read_table(place).to_pylist()]


def ours(codec: Codec) -> Baseline:
    """This codec, whose setting is lambda. Its bundle is part of its name, so that other bundles have other rows."""

    def encode(pixels: Pixels, setting: float) -> bytes:
        return codec.encode(Picture(pixels), quality=setting).data

    name = f"{OURS}-{codec.bundle.id[:8]}"
    settings = tuple(map(quality_of_code, range(QUALITY_CODES)))
    return Baseline(name, f"bundle {codec.bundle.id}, {codec.bundle.config.name}", settings, encode, codec.decode)


def ceiling(codec: Codec) -> Baseline:
    """The autoencoder of this codec without quantisation; a PNG stands for what has no file."""

    def encode(pixels: Pixels, _: float) -> bytes:
        with torch.no_grad():
            y = codec.backbone.encode_pixels(pixels)
            return encode_png(to_pixels(codec.backbone.decode(y, pixels.shape[:2])[0]))

    name = f"autoencoder-{codec.bundle.id[:8]}"
    return Baseline(
        name, "encoded and decoded without quantisation", (0,), encode, lambda data: read_image(data).pixels
    )


def report(output: Path, rates: Sequence[float], mine: str | None) -> str:
    """The table; it and the curves are written. `mine` is compared with all others (default: this codec, if it is one).

    Raises SettingsError where nothing was measured, or several bundles were and none is chosen.
    """
    compared = Comparison(read_rows(sorted((output / "rows").glob("*.parquet"))))
    candidates = [name for name in compared.codecs if name.startswith(OURS)]
    if not compared.codecs or (mine is not None and mine not in compared.codecs):
        raise SettingsError(f"{output} has no rows of {mine or 'any codec'}; run step measure first")
    if mine is None and len(candidates) > 1:
        raise SettingsError(f"several bundles were measured; choose one with --ours: {', '.join(candidates)}")
    mine = mine or next(iter(candidates), None)
    text = markdown(compared, rates, mine)
    (output / "report.md").write_text(text)
    draw(compared, [output / "curves.png", output / "curves.svg"], mine, (TABLE[0], 0.32))
    return text


def main(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Photos.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of rows, table and curves.")],
    codecs: Annotated[
        list[str] | None, typer.Option(help=f"{OURS} or one of {', '.join(NAMES)}. May be repeated. [default: all]")
    ] = None,
    bundle: Annotated[str | None, typer.Option(help="Folder of a trained codec. [default: the embedded one]")] = None,
    bpp: Annotated[list[float] | None, typer.Option(help="Rates of the table. [default: 0.05 to 0.30]")] = None,
    mine: Annotated[str | None, typer.Option("--ours", help="The codec that is compared with all others.")] = None,
    step: Annotated[Literal["all", "measure", "report"], typer.Option(help="What to do.")] = "all",
) -> None:
    """Measure codecs on photos, print the table and draw the curves."""
    try:
        if step != "report":
            measure_all(folder, output, codecs or [OURS, *NAMES], bundle)
        if step != "measure":
            print(report(output, bpp or TABLE, mine))
    except FdcError as error:
        sys.exit(f"error: {error}")


def measure_all(folder: Path, output: Path, codecs: Sequence[str], bundle: str | None) -> None:
    """All codecs of these names, one after the other; those that cannot run are named on standard error."""
    photos = sorted(path for path in folder.glob("*") if path.is_file())
    if not photos:
        raise SettingsError(f"{folder} is no folder with photos in it")
    found, missing = available(name for name in codecs if name != OURS)
    for name, reason in missing.items():
        print(f"{name} is unavailable: {reason}", file=sys.stderr)
    if OURS in codecs:
        codec = Codec.load(bundle)
        measure(photos, output, ceiling(codec), [0])
        measure(photos, output, ours(codec))
    for baseline in found:
        measure(photos, output, baseline)


if __name__ == "__main__":
    typer.run(main)
