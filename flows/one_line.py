"""The end of a command that is no flow: an error is one line."""

import typer

from codec.errors import FdcError
from codec.support.terminal import say


def run(app: typer.Typer) -> None:
    """Runs a command; an FdcError is printed in one line with exit status 1."""
    try:
        app()
    except FdcError as error:
        say(f"error: {error}", err=True)
        raise SystemExit(1) from None
