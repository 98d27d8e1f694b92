"""fdc decode: files back to pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codec.cli import conversion, files, loading, options
from codec.cli.conversion import Stopwatch
from codec.cli.encode import SUFFIX
from codec.cli.plan import Planned, plan
from codec.cli.rows import WRITTEN, Row
from codec.errors import FdcError, SettingsError

if TYPE_CHECKING:
    from codec.codec import Codec
    from codec.format.bitstream import FdcFile


@dataclass(frozen=True)
class Decoding:
    """How files are decoded: `kind` and `number` are a kind of picture and its quality."""

    kind: str
    number: int
    overwrite: bool
    bundle: str | None
    backbone: str | None
    device: str
    verb: str = "decode"

    def open(self) -> "Decoder":
        """The decoder with these settings."""
        return Decoder(self)

    def line(self, row: Row) -> str:
        """The size as it is seen."""
        return f"{files.target(row.output)}: {row.width} x {row.height}"


class Decoder:
    """Decodes one file after the other; each bundle is loaded once."""

    def __init__(self, settings: Decoding) -> None:
        self._settings = settings
        self._codecs: dict[str, Codec] = {}

    def __call__(self, own: Planned) -> Row:
        watch = Stopwatch()
        try:
            return self._decoded(own, watch)
        except FdcError as error:
            return conversion.failed(own, error)

    def _decoded(self, own: Planned, watch: Stopwatch) -> Row:
        data, file = files.parsed(own.source)
        from codec.containers import writing

        settings = self._settings
        with files.naming(own.source):
            picture = self._codec_of(file).decode_picture(data)
        made = writing.write(picture, settings.kind, settings.number)  # type: ignore[arg-type]
        conversion.deliver(made, own, overwrite=settings.overwrite)
        lost = writing.left_behind(picture, settings.kind)  # type: ignore[arg-type]
        name = files.shown(own.source)
        width, height = file.upright_size
        return Row(
            own.source,
            own.output,
            WRITTEN,
            warnings=(f"{name}: {settings.kind} cannot hold its {', '.join(lost)}",) if lost else (),
            width=width,
            height=height,
            source_bytes=len(data),
            output_bytes=len(made),
            bits_per_pixel=8 * len(data) / (width * height),
            quality=file.quality,
            timestep=file.timestep,
            seconds=watch.seconds(),
        )

    def _codec_of(self, file: "FdcFile") -> "Codec":
        if file.bundle_id not in self._codecs:
            settings = self._settings
            self._codecs[file.bundle_id] = loading.codec(settings.bundle, settings.backbone, settings.device, file)
        return self._codecs[file.bundle_id]


def decode(
    sources: Annotated[
        list[str], typer.Argument(metavar="FILES...", help=".fdc files, folders or patterns; - for standard input.")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="OUT.png", help="The picture to write for one file; - for standard output."
        ),
    ] = None,
    output_folder: options.OutputFolder = None,
    as_: Annotated[
        str | None,
        typer.Option(
            "--as", metavar="KIND", help="png, jpg, webp, avif or jxl, with a quality as in jpg:90. [default: png]"
        ),
    ] = None,
    bundle: options.BundleFolder = None,
    backbone: options.BackbonePlace = None,
    device: options.Device = "cpu",
    jobs: options.Jobs = 0,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Decode files to pictures, with their transparency and metadata.

    Each becomes a picture beside it, or in --output-folder, of the kind that its name or --as says. One that is there
    already is left alone. Finds the bundle by the id in the file, in the package or under --bundle. Exit status 1 if
    an output is missing at the end, or older than its file.
    """
    from codec.containers.writing import EXTENSIONS

    kind, number = _kind(output, as_)

    def renamed(name: str) -> str:
        stem = name[: -len(SUFFIX)] if name.lower().endswith(SUFFIX) else name
        return f"{stem}.{EXTENSIONS[kind]}"

    todo = plan(sources, {SUFFIX}, renamed, output=output, folder=output_folder, hint="give the folder above them")
    settings = Decoding(kind, number, overwrite, bundle, backbone, device)
    conversion.run(todo, settings, jobs=jobs, named=output is not None, as_json=as_json)


def _kind(output: str | None, as_: str | None) -> tuple[str, int]:
    """Kind and quality of the pictures, by --as or the suffix of --output. Raises typer.BadParameter."""
    from codec.containers.writing import parse_kind

    suffix = Path(output or "").suffix[1:]
    try:
        by_name = parse_kind(suffix) if suffix else None
        chosen = parse_kind(as_) if as_ else None
    except SettingsError as error:
        raise typer.BadParameter(str(error)) from None
    if output not in (None, files.PIPE) and by_name is None and chosen is None:
        raise typer.BadParameter(f"{output} has no suffix; name a kind of picture with --as")
    if by_name and chosen and by_name[0] != chosen[0]:
        raise typer.BadParameter(f"--as {as_} does not fit the name {output}")
    return chosen or by_name or parse_kind("png")
