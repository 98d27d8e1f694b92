"""The command fdc. Each command imports the heavy modules it needs."""

import signal
import sys
from typing import Annotated

import typer

from codec.cli import compare, decode, encode, evaluate, export_onnx, info, self_test, view
from codec.cli.group import Commands
from codec.support.waiting import wait_passively

app = typer.Typer(
    cls=Commands,
    help="Lossy image compression with a foundation diffusion model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        from codec.cli import version

        typer.echo(version.text())
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show package, file format and bundle.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Lossy image compression with a foundation diffusion model."""


app.command("encode")(encode.encode)
app.command("decode")(decode.decode)
app.command("info")(info.info)
app.command("compare")(compare.compare)
app.command("evaluate")(evaluate.evaluate)
app.command("view")(view.view)
app.command("export-onnx")(export_onnx.export_onnx)
app.command("self-test")(self_test.self_test)


def main() -> None:
    """Entry point of the fdc command."""
    wait_passively()
    # An exception, so that a file half written is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    app(prog_name="fdc")
