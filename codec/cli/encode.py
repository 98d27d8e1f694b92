"""fdc encode: pictures to files."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codec.cli import conversion, files, loading, options
from codec.cli.conversion import Stopwatch
from codec.cli.plan import Planned, plan
from codec.cli.rows import WRITTEN, Row
from codec.errors import FdcError, ImageError
from codec.goal import Goal

if TYPE_CHECKING:
    from codec.codec import Codec
    from codec.containers.judgement import Policy
    from codec.images import Picture

SUFFIX = ".fdc"
_NAMES = """
jpg jpeg jpe jfif png webp avif jxl heic heif hif tif tiff gif bmp dib ppm pgm pbm pnm jp2 j2k tga pcx
"""
PICTURES = frozenset(f".{name}" for name in _NAMES.split())
"""Suffixes of the files that are taken from folders and patterns."""


@dataclass(frozen=True)
class Encoding:
    """How pictures are encoded."""

    goal: Goal
    policy: "Policy"
    strict: bool
    overwrite: bool
    bundle: str | None
    backbone: str | None
    device: str
    verb: str = "encode"

    def open(self) -> "Encoder":
        """The encoder with these settings."""
        return Encoder(self)

    def line(self, row: Row) -> str:
        """Size, bytes and what the quantizer chose."""
        size = f"{row.width} x {row.height}, {row.output_bytes} bytes, {row.bits_per_pixel:.4f} bpp"
        return (
            f"{files.target(row.output)}: {size}, "
            f"lambda {row.quality:.4g}, timestep {row.timestep:g}, U-Net steps {row.steps}"
        )


class Encoder:
    """Encodes one picture after the other; the models are loaded with the first that can be read."""

    def __init__(self, settings: Encoding) -> None:
        self._settings = settings
        self._codec: Codec | None = None

    def __call__(self, own: Planned) -> Row:
        watch = Stopwatch()
        try:
            return self._encoded(own, watch)
        except FdcError as error:
            return conversion.failed(own, error)

    def _encoded(self, own: Planned, watch: Stopwatch) -> Row:
        settings = self._settings
        data = files.content(own.source, ImageError)
        picture, warnings = self._read(own.source, data)
        if self._codec is None:
            self._codec = loading.codec(settings.bundle, settings.backbone, settings.device)
        try:
            encoded = settings.goal.encode(self._codec, picture)
        except ImageError as error:
            raise ImageError(f"{files.shown(own.source)}: {error}") from None
        conversion.deliver(encoded.data, own, overwrite=settings.overwrite)
        rate = 8 * len(encoded.data) / (picture.width * picture.height)
        target = settings.goal.target_bpp
        if target is not None and rate > target:
            why = f"{target:g} bpp cannot be reached for this picture; wrote the smallest file"
            warnings = (*warnings, f"{files.shown(own.source)}: {why}")
        return Row(
            own.source,
            own.output,
            WRITTEN,
            warnings=warnings,
            width=picture.width,
            height=picture.height,
            source_bytes=len(data),
            output_bytes=len(encoded.data),
            bits_per_pixel=rate,
            quality=encoded.quality,
            timestep=encoded.timestep,
            steps=encoded.steps,
            seconds=watch.seconds(),
        )

    def _read(self, source: str, data: bytes) -> "tuple[Picture, tuple[str, ...]]":
        """A picture, and a warning about parts of it that are left out."""
        from codec.containers.reading import read_leniently

        name = files.shown(source)
        try:
            picture, left_out = read_leniently(data, self._settings.policy)
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from None
        if left_out and self._settings.strict:
            raise ImageError(f"{name}: would leave out {left_out}; remove --strict to encode it anyway")
        return picture, (f"{name}: leaves out {left_out}",) if left_out else ()


def encode(
    sources: Annotated[
        list[str], typer.Argument(metavar="PHOTOS...", help="Pictures, folders or patterns; - for standard input.")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="OUT.fdc", help="The file to write for one picture; - for standard output."
        ),
    ] = None,
    output_folder: options.OutputFolder = None,
    keep_suffix: Annotated[
        bool, typer.Option("--keep-suffix", help="Name outputs photo.jpg.fdc instead of photo.fdc.")
    ] = False,
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
    jobs: options.Jobs = 0,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Compress pictures. Transparency is kept without loss.

    Each becomes a .fdc file beside it, or in --output-folder. One that is there already is left alone. Exit status 1 if
    an output is missing at the end, or older than its picture.
    """
    has_constraint = min_psnr is not None or max_lpips is not None
    if [quality is not None, target_bpp is not None, has_constraint].count(True) > 1:
        raise typer.BadParameter(
            "choose one of --quality, --target-bpp, or quality constraints (--min-psnr, --max-lpips)"
        )
    goal = Goal(quality, target_bpp, min_psnr, max_lpips, effort)

    def renamed(name: str) -> str:
        return f"{name if keep_suffix else Path(name).stem}{SUFFIX}"

    todo = plan(sources, PICTURES, renamed, output=output, folder=output_folder, hint="--keep-suffix tells them apart")
    settings = Encoding(goal, _policy(metadata, discard), strict, overwrite, bundle, backbone, device)
    conversion.run(todo, settings, jobs=jobs, named=output is not None, as_json=as_json)


def _policy(metadata: str, discard: list[str] | None) -> "Policy":
    """Which metadata is kept, and which parts may be left out. Raises typer.BadParameter."""
    from codec.containers.judgement import DISCARDS, POLICIES, Policy

    if metadata not in POLICIES:
        raise typer.BadParameter(f"--metadata knows {', '.join(POLICIES)}, not {metadata!r}")
    unknown = sorted(set(discard or ()) - set(DISCARDS))
    if unknown:
        raise typer.BadParameter(f"--discard knows {', '.join(DISCARDS)}, not {unknown[0]!r}")
    discarded = Policy().discard if discard is None else frozenset(discard)
    return Policy(metadata, discarded)  # type: ignore[arg-type]
