"""fdc evaluate: this codec and others on a folder of pictures."""

from pathlib import Path
from typing import Annotated

import typer

from codec.cli import loading, options
from codec.errors import SettingsError


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
        typer.Option(
            help=f"{options.QUALITY_HELP} May be repeated. [default: 1, 2, 4 to 32]", callback=options.positive
        ),
    ] = None,
    bpp: Annotated[
        list[float] | None,
        typer.Option(
            help="Rate in bits per pixel for the other codecs. May be repeated. [default: 0.06 to 0.26]",
            callback=options.positive,
        ),
    ] = None,
    commands: Annotated[
        Path | None, typer.Option(metavar="TOML", help="External codecs: [NAME] with encode, decode, settings each.")
    ] = None,
    bundle: options.BundleFolder = None,
    backbone: options.BackbonePlace = None,
    device: options.Device = "cpu",
) -> None:
    """Measure bits per pixel and quality of this codec and others on a folder of pictures.

    Running it again resumes. Pictures that cannot be read or coded become rows that state the reason. The exit status
    is 1 only if all pictures fail.
    """
    loading.check_device(device)
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
