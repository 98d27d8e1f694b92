"""The command fdc: one module a command, `commands` names them all."""

from codec.cli.commands import app, main

__all__ = ["app", "main"]
