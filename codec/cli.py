"""The command fdc: encode, decode, info, self-test, evaluate. Each command imports the heavy modules it needs."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from codec.errors import BitstreamError, BundleError, FdcError, ImageError, SettingsError
from codec.support.waiting import wait_passively

if TYPE_CHECKING:
    from codec.codec import Codec
    from codec.entropy.integer import ExactEntropyModel
    from codec.entropy.stream import Symbols
    from codec.entropy.tables import Tables
    from codec.format.bitstream import FdcFile
    from codec.images import Picture


class _Commands(typer.core.TyperGroup):
    """A command group that turns FdcError into one line and exit status 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FdcError as error:
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Commands,
    help="Lossy image compression with a foundation diffusion model.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _positive(value: float | Sequence[float] | None) -> Any:
    numbers = [value] if isinstance(value, float) else value or []
    for number in numbers:
        if not 0 < number < math.inf:
            raise typer.BadParameter(f"{number} is not a positive number")
    return value


Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing output.")]
Device = Annotated[str, typer.Option(help="PyTorch device for the networks: cpu, cuda, ...")]
BundleFolder = Annotated[
    str | None, typer.Option("--bundle", help="Folder of a trained codec. [default: the embedded one]")
]
BackbonePlace = Annotated[
    str | None,
    typer.Option("--backbone", help="Folder, file or hub id of a backbone that is not embedded in the bundle."),
]
QUALITY_HELP = "Rate-distortion weight lambda: larger means more bits and less distortion."


@app.command()
def encode(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Any picture.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.fdc", help="The file to write.")],
    quality: Annotated[float | None, typer.Option(help=f"{QUALITY_HELP} [default: 8]", callback=_positive)] = None,
    target_bpp: Annotated[
        float | None, typer.Option(help="Upper bound on bits per pixel of the whole file.", callback=_positive)
    ] = None,
    min_psnr: Annotated[
        float | None,
        typer.Option(help="Lower bound on PSNR in dB; writes the smallest file that meets it.", callback=_positive),
    ] = None,
    max_lpips: Annotated[
        float | None,
        typer.Option(
            help="Upper bound on LPIPS (AlexNet); writes the smallest file that meets it.", callback=_positive
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
    bundle: BundleFolder = None,
    backbone: BackbonePlace = None,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Compress a picture. Transparency is kept without loss."""
    has_constraint = min_psnr is not None or max_lpips is not None
    goals = [quality is not None, target_bpp is not None, has_constraint]
    if goals.count(True) > 1:
        raise typer.BadParameter(
            "choose one of --quality, --target-bpp, or quality constraints (--min-psnr, --max-lpips)"
        )
    _check_output(output, force)
    picture = _source(source, metadata, discard, strict=strict)
    from codec.codec import DEFAULT_QUALITY

    codec = _codec(bundle, backbone, device)
    if target_bpp is not None:
        encoded = codec.encode_to_bpp(picture, target_bpp, effort=effort)
    elif has_constraint:
        encoded = codec.encode_to_quality(picture, min_psnr_db=min_psnr, max_lpips=max_lpips, effort=effort)
    else:
        encoded = codec.encode(picture, quality=quality or DEFAULT_QUALITY, effort=effort)
    with _written(output) as temporary:
        temporary.write_bytes(encoded.data)
    bits_per_pixel = 8 * len(encoded.data) / (picture.width * picture.height)
    typer.echo(
        f"{output}: {picture.width} x {picture.height}, {len(encoded.data)} bytes, {bits_per_pixel:.4f} bpp, "
        f"lambda {encoded.quality:.4g}, timestep {encoded.timestep:g}, U-Net steps {encoded.steps}"
    )
    if target_bpp is not None and bits_per_pixel > target_bpp:
        typer.echo(f"warning: {target_bpp:g} bpp cannot be reached for this picture; wrote the smallest file", err=True)


@app.command()
def decode(
    source: Annotated[Path, typer.Argument(metavar="IN.fdc", help="A compressed picture (.fdc).")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.png", help="The PNG file to write.")],
    bundle: BundleFolder = None,
    backbone: BackbonePlace = None,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Decode a file to PNG, with its transparency and metadata.

    Finds the bundle by the id in the file, in the package or under --bundle.
    """
    if output.suffix.lower() != ".png":
        raise typer.BadParameter(f"{output} must end in .png, the only supported output format")
    _check_output(output, force)
    data, file = _parsed(source)
    from codec.containers.writing import encode_png

    with _naming(source):
        codec = _codec(bundle, backbone, device, file)
        picture = codec.decode_picture(data)
    with _written(output) as temporary:
        temporary.write_bytes(encode_png(picture))
    width, height = file.upright_size
    typer.echo(f"{output}: {width} x {height}")


@app.command("self-test")
def self_test(
    bundle: BundleFolder = None,
    device: Device = "cpu",
) -> None:
    """Check that a bundle's entropy model computes exactly on this machine; encode and decode do so once a day."""
    _check_device(device)
    from codec.bundle import DEFAULT_BUNDLE, Bundle
    from codec.support import remembered

    opened = Bundle.open(bundle or DEFAULT_BUNDLE)
    opened.load_entropy(device)
    remembered.keep(opened.id, device)
    typer.echo(f"{opened.path}: the entropy model of bundle {opened.id[:16]} computes its known answer on {device}")


@app.command()
def info(
    source: Annotated[Path, typer.Argument(metavar="IN.fdc", help="A compressed picture (.fdc).")],
    symbols: Annotated[bool, typer.Option("--symbols", help="Decode the symbols and print their statistics.")] = False,
    bundle: BundleFolder = None,
) -> None:
    """Show every field of a file and its bit breakdown."""
    data, file = _parsed(source)
    from codec.format.breakdown import bit_breakdown

    # without its bundle a file still has a header and chunks to show
    entropy = None
    missing = None
    try:
        entropy = _entropy(bundle, file)
    except BundleError as error:
        missing = error
    with _naming(source):
        entries = bit_breakdown(file, entropy)
    bits_of: dict[str, int] = {}
    for entry in entries:
        bits_of[entry.part] = bits_of.get(entry.part, 0) + entry.bits
    lines = [(entry.name, entry.bits, entry.value) for entry in entries]
    lines += [(part, bits, f"{bits / (8 * len(data)):.2%} of the file") for part, bits in bits_of.items()]
    total = sum(bits_of.values())
    area = file.width * file.height
    lines.append(("whole file", total, f"{len(data)} bytes, {total / area:.4f} bits per pixel"))
    first_sum = len(entries)
    last = len(lines) - 1
    for number, (name, bits, text) in enumerate(lines):
        if number in (first_sum, last):
            typer.echo()
        typer.echo(f"{name:<20} {bits:>9} bits  {text}")
    if missing and symbols:
        raise missing
    if missing:
        typer.echo(f"the stream is shown as one entry: {missing}", err=True)
    if entropy and symbols:
        from codec.entropy.stream import decompress

        codes = file.parameters.channel_codes
        with _naming(source):
            decoded = decompress(*entropy, file.stream, file.latent_shape, codes, canonical=file.version > 1)
        _show_symbols(decoded)


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of pictures, searched recursively.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Output folder: rows, report, curves, pictures.")
    ],
    codecs: Annotated[
        list[str] | None,
        typer.Option("--codec", help="fdcodec, jpeg, webp, ..., or all. May be repeated. [default: fdcodec]"),
    ] = None,
    quality: Annotated[
        list[float] | None,
        typer.Option(help=f"{QUALITY_HELP} May be repeated. [default: 1, 2, 4 to 32]", callback=_positive),
    ] = None,
    bpp: Annotated[
        list[float] | None,
        typer.Option(
            help="Rate in bits per pixel for the other codecs. May be repeated. [default: 0.06 to 0.26]",
            callback=_positive,
        ),
    ] = None,
    commands: Annotated[
        Path | None, typer.Option(metavar="TOML", help="External codecs: [NAME] with encode, decode, settings each.")
    ] = None,
    bundle: BundleFolder = None,
    backbone: BackbonePlace = None,
    device: Device = "cpu",
) -> None:
    """Measure bits per pixel and quality of this codec and others on a folder of pictures.

    Running it again resumes. Pictures that cannot be read or coded become rows that state the reason. The exit status
    is 1 only if all pictures fail.
    """
    _check_device(device)
    import rich.progress
    from rich.console import Console

    from codec.evaluation.baselines.ours import NAME, QUALITIES
    from codec.evaluation.report import write_report
    from codec.evaluation.runner import RATES, evaluate
    from codec.evaluation.spec import EvaluationConfig

    config = EvaluationConfig(
        str(folder),
        str(output),
        tuple(codecs or [NAME]),
        tuple(bpp or RATES),
        tuple(quality or QUALITIES),
        str(commands or ""),
        bundle or "",
        backbone or "",
        device,
    )
    found, missing = config.open()
    jobs = config.jobs(found)
    terminal = Console(stderr=True)  # the report goes to stdout
    shown = rich.progress.track(jobs, "evaluate", console=terminal, disable=not terminal.is_terminal)
    rows = evaluate(shown, output, device)
    typer.echo(write_report(output, [codec.name for codec in found], missing), nl=False)
    if all(row["status"] == "failed" for row in rows):
        raise SettingsError(f"no file of {folder} could be compressed; the table says why")


def main() -> None:
    """Entry point of the fdc command."""
    wait_passively()
    app(prog_name="fdc")


def _codec(bundle: str | None, backbone: str | None, device: str, file: "FdcFile | None" = None) -> "Codec":
    """Loads a codec: of the bundle that wrote `file`, of the given bundle, or the embedded default."""
    from codec.bundle import find_bundle
    from codec.codec import Codec

    _check_device(device)
    if file is None:
        return Codec.load(bundle, device=device, backbone=backbone, remember=True)
    found = find_bundle(file.bundle_id, [bundle] if bundle else [])
    return Codec.load(found, device=device, backbone=backbone, remember=True)


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


def _entropy(bundle: str | None, file: "FdcFile") -> "tuple[ExactEntropyModel, Tables]":
    from codec.bundle import find_bundle

    return find_bundle(file.bundle_id, [bundle] if bundle else []).load_entropy()


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # torch asserts that it was built for the device
        raise SettingsError(f"device {device!r} is not available here; use cpu") from None


def _parsed(source: Path) -> "tuple[bytes, FdcFile]":
    try:
        data = source.read_bytes()
    except OSError as error:
        raise BitstreamError(f"cannot read {source}: {error.strerror}") from None
    from codec.format.bitstream import parse

    if not data:
        raise BitstreamError(f"{source}: is empty")
    with _naming(source):
        return data, parse(data)


@contextmanager
def _naming(source: Path) -> Iterator[None]:
    """Adds the file name to errors about a coded picture."""
    try:
        yield
    except (BitstreamError, BundleError) as error:
        raise type(error)(f"{source}: {error}") from None


def _check_output(output: Path, force: bool) -> None:
    """Raises FdcError before any work if the output could not be written."""
    if output.exists() and not force:
        raise SettingsError(f"{output} already exists; choose another name, or overwrite it with --force")
    if not os.access(output.parent, os.W_OK):
        raise SettingsError(f"cannot write {output}: {output.parent} is not a writable folder")


@contextmanager
def _written(output: Path) -> Iterator[Path]:
    """Yields a temporary file next to the output, which is renamed on success and removed on failure."""
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(output)
    except OSError as error:
        raise SettingsError(f"cannot write {output}: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _show_symbols(symbols: "Symbols") -> None:
    """Prints what must agree between machines, and the distribution of each channel's symbols."""
    import hashlib

    import numpy as np

    typer.echo(
        f"\nsymbols: SHA-256 {hashlib.sha256(symbols.astype('<i4').tobytes()).hexdigest()} (int32, little-endian)"
    )
    for channel, values in enumerate(symbols):
        typer.echo(
            f"channel {channel}: {values.min()} to {values.max()}, mean {np.mean(values):.3f}, "
            f"{np.mean(values == 0):.1%} zeros, {len(np.unique(values))} values"
        )
