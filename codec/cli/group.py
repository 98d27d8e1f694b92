"""Groups of commands: mistakes are answered with one line, and other packages add commands of their own."""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer
import typer.core
import typer.main

from codec.errors import FdcError, SettingsError
from codec.support.terminal import say

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINTS = "fdc.commands"
"""Entry points of this group are commands of fdc, each a typer.Typer. Only a command that is called is imported."""
KNOWN: Mapping[str, str] = {"archive": "Compress, restore, audit and maintain archives of pictures."}
"""Help of commands that the rest of fdcodec provides."""


class Commands(typer.core.TyperGroup):
    """The commands of fdc and of other packages. Turns FdcError into one line and exit status 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FdcError as error:
            say(f"error: {error}", err=True)
            raise typer.Exit(1) from None

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *provided()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = super().get_command(ctx, cmd_name)
        if found is not None:
            return found
        if cmd_name in provided():
            return Provided(provided()[cmd_name])
        if cmd_name in KNOWN and not ctx.resilient_parsing:
            raise SettingsError(f"fdc {cmd_name} belongs to the whole of fdcodec, which is not installed here")
        return None


class Provided(typer.core.TyperGroup):
    """A command of another package, which is imported when the command is called."""

    def __init__(self, entry: "EntryPoint") -> None:
        super().__init__(name=entry.name, help=KNOWN.get(entry.name, f"Commands of {entry.module}."))
        self._entry = entry

    def make_context(self, *arguments: Any, **named: Any) -> Any:
        try:
            command = typer.main.get_command(self._entry.load())
        except ImportError as error:
            raise SettingsError(f"fdc {self.name} cannot run: {error}; install fdcodec with its dependencies") from None
        return command.make_context(*arguments, **named)


@functools.cache
def provided() -> "dict[str, EntryPoint]":
    """Entry points of other packages' commands by name."""
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
