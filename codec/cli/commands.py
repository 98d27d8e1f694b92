"""The command fdc. Each command imports the heavy modules it needs."""

import typer

from codec.cli import decode, encode, evaluate, export_onnx, info, self_test, view
from codec.cli.group import Commands
from codec.support.waiting import wait_passively

app = typer.Typer(
    cls=Commands,
    help="Lossy image compression with a foundation diffusion model.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command("encode")(encode.encode)
app.command("decode")(decode.decode)
app.command("self-test")(self_test.self_test)
app.command("info")(info.info)
app.command("evaluate")(evaluate.evaluate)
app.command("view")(view.view)
app.command("export-onnx")(export_onnx.export_onnx)


def main() -> None:
    """Entry point of the fdc command."""
    wait_passively()
    app(prog_name="fdc")
