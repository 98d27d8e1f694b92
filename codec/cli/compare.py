"""fdc compare: how far a picture is from another."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codec.cli import files, loading, options
from codec.errors import ImageError
from codec.support.terminal import say

if TYPE_CHECKING:
    from codec.images import Picture

LABELS = {
    "psnr_db": "PSNR, dB",
    "ms_ssim": "MS-SSIM",
    "lpips": "LPIPS (AlexNet)",
    "lpips_vgg": "LPIPS (VGG)",
    "dists": "DISTS",
    "ssimulacra2": "SSIMULACRA 2",
}


def compare(
    original: Annotated[Path, typer.Argument(metavar="A", help="The original: a picture or an .fdc file.")],
    other: Annotated[Path, typer.Argument(metavar="B", help="What is compared with it.")],
    metrics: Annotated[
        list[str] | None,
        typer.Option(help="psnr, ms-ssim, lpips, lpips-vgg or dists. May be repeated. [default: all]"),
    ] = None,
    bundle: options.BundleFolder = None,
    device: options.Device = "cpu",
    as_json: options.AsJson = False,
) -> None:
    """Print the metrics of two pictures of one size, upright and in sRGB; transparency is not compared."""
    from codec.metrics.names import chosen

    names = chosen(metrics or ["all"])
    first = _picture(original, bundle, device)
    second = _picture(other, bundle, device)
    if first.pixels.shape != second.pixels.shape:
        sizes = f"{first.width} x {first.height} and {second.width} x {second.height}"
        raise ImageError(f"{original} and {other} have {sizes} pixels; metrics need one size")
    from codec.metrics.outside import ssimulacra2
    from codec.metrics.quality import Metrics

    measured = dataclasses.asdict(Metrics(*names, device=device).measure(first.pixels, second.pixels))
    reasons = measured.pop("reasons")
    if metrics is None:
        measured["ssimulacra2"] = ssimulacra2(first.pixels, second.pixels)
    row: dict[str, Any] = {
        "original": str(original),
        "other": str(other),
        "width": first.width,
        "height": first.height,
        "bytes": other.stat().st_size,
        "bits_per_pixel": 8 * other.stat().st_size / (first.width * first.height),
        **measured,
    }
    if as_json:
        typer.echo(json.dumps(row | {"reasons": reasons}, indent=1))
        return
    say(f"{other}: {first.width} x {first.height}, {row['bytes']} bytes, {row['bits_per_pixel']:.4f} bpp")
    for name, value in measured.items():
        if value is not None:
            typer.echo(f"{LABELS[name]:<16} {value:.4f}")
        elif reasons.get(name) != "not asked for":
            typer.echo(f"{LABELS[name]:<16} - ({reasons.get(name, 'a side below 8')})")


def _picture(path: Path, bundle: str | None, device: str) -> "Picture":
    """A picture upright in sRGB; an .fdc file is decoded first."""
    from codec.containers.writing import encode_png
    from codec.format import bitstream, version1
    from codec.images import read_image

    data = files.content(path, ImageError)
    if not data.startswith((bitstream.SIGNATURE, version1.MAGIC)):
        return read_image(path)
    with files.naming(path):
        file = bitstream.parse(data)
        decoded = loading.codec(bundle, None, device, file).decode_picture(data)
    return read_image(encode_png(decoded))
