"""A group of commands that answers a user's mistake with one line."""

from typing import Any

import typer
import typer.core

from codec.errors import FdcError


class Commands(typer.core.TyperGroup):
    """A command group that turns FdcError into one line and exit status 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FdcError as error:
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(1) from None
