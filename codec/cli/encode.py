"""fdc encode: a picture to a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codec.cli import files, loading, options
from codec.errors import ImageError

if TYPE_CHECKING:
    from codec.images import Picture


def encode(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Any picture.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.fdc", help="The file to write.")],
    quality: Annotated[
        float | None, typer.Option(help=f"{options.QUALITY_HELP} [default: 8]", callback=options.positive)
    ] = None,
    target_bpp: Annotated[
        float | None, typer.Option(help="Upper bound on bits per pixel of the whole file.", callback=options.positive)
    ] = None,
    min_psnr: Annotated[
        float | None,
        typer.Option(
            help="Lower bound on PSNR in dB; writes the smallest file that meets it.", callback=options.positive
        ),
    ] = None,
    max_lpips: Annotated[
        float | None,
        typer.Option(
            help="Upper bound on LPIPS (AlexNet); writes the smallest file that meets it.", callback=options.positive
        ),
    ] = None,
    effort: Annotated[
        int,
        typer.Option(
            min=0,
            max=2,
            help="Refine the picture's latent by gradient: 1 takes about 15 times the time, 2 about 150 times, for "
            "fewer bytes at equal quality.",
        ),
    ] = 0,
    metadata: Annotated[str, typer.Option(help="Metadata to keep: all, no-location or none.")] = "all",
    discard: Annotated[
        list[str] | None,
        typer.Option(
            help="Part that may be left out: preview, gain-map, motion, ... May be repeated. [default: preview]"
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail if any part of the picture would be left out.")
    ] = False,
    bundle: options.BundleFolder = None,
    backbone: options.BackbonePlace = None,
    device: options.Device = "cpu",
    force: options.Force = False,
) -> None:
    """Compress a picture. Transparency is kept without loss."""
    has_constraint = min_psnr is not None or max_lpips is not None
    goals = [quality is not None, target_bpp is not None, has_constraint]
    if goals.count(True) > 1:
        raise typer.BadParameter(
            "choose one of --quality, --target-bpp, or quality constraints (--min-psnr, --max-lpips)"
        )
    files.check_output(output, force)
    picture = _source(source, metadata, discard, strict=strict)
    from codec.codec import DEFAULT_QUALITY

    codec = loading.codec(bundle, backbone, device)
    if target_bpp is not None:
        encoded = codec.encode_to_bpp(picture, target_bpp, effort=effort)
    elif has_constraint:
        encoded = codec.encode_to_quality(picture, min_psnr_db=min_psnr, max_lpips=max_lpips, effort=effort)
    else:
        encoded = codec.encode(picture, quality=quality or DEFAULT_QUALITY, effort=effort)
    with files.written(output) as temporary:
        temporary.write_bytes(encoded.data)
    bits_per_pixel = 8 * len(encoded.data) / (picture.width * picture.height)
    typer.echo(
        f"{output}: {picture.width} x {picture.height}, {len(encoded.data)} bytes, {bits_per_pixel:.4f} bpp, "
        f"lambda {encoded.quality:.4g}, timestep {encoded.timestep:g}, U-Net steps {encoded.steps}"
    )
    if target_bpp is not None and bits_per_pixel > target_bpp:
        typer.echo(f"warning: {target_bpp:g} bpp cannot be reached for this picture; wrote the smallest file", err=True)


def _source(path: Path, metadata: str, discard: list[str] | None, *, strict: bool) -> "Picture":
    """Reads a picture to encode, and prints one line to stderr about parts that are left out."""
    from codec.containers.judgement import DISCARDS, POLICIES, Policy
    from codec.containers.reading import read_leniently

    if metadata not in POLICIES:
        raise typer.BadParameter(f"--metadata knows {', '.join(POLICIES)}, not {metadata!r}")
    unknown = sorted(set(discard or ()) - set(DISCARDS))
    if unknown:
        raise typer.BadParameter(f"--discard knows {', '.join(DISCARDS)}, not {unknown[0]!r}")
    discarded = Policy().discard if discard is None else frozenset(discard)
    policy = Policy(metadata, discarded)  # type: ignore[arg-type]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror}") from None
    try:
        picture, left_out = read_leniently(data, policy)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None
    if left_out and strict:
        raise ImageError(f"{path}: would leave out {left_out}; remove --strict to encode it anyway")
    if left_out:
        typer.echo(f"warning: {path}: leaves out {left_out}", err=True)
    return picture
