"""A flow as a command: its own parameter names as options, a progress bar in a terminal, a short table at the end."""

import functools
import inspect
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, cast, get_type_hints

import rich.progress
import typer
from prefect import Flow
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.runtime import deployment
from prefect.utilities.callables import parameter_docstrings
from rich.console import Console
from rich.table import Table

from codec.errors import FdcError, SettingsError
from flows import credentials, outcome
from tasks.progress import Progress

DONE, FATAL, FAILED_ROWS, INTERRUPTED = 0, 1, 2, 130
SECONDS_TO_STOP = 5.0
PASSWORD = re.compile(r"[\w+.-]+://[^/@]*:[^/@]*@")


def run(flow: Flow[Any, Any], show: Callable[[Any], int], *, logs: bool = False) -> None:
    """Run a flow from the command line, show its result, and exit with the status that `show` returns.

    A parameter without default is an argument, the others are options; their help is the `Args` of the docstring.
    An FdcError is one line and exit status 1. Prefect's log lines appear in the terminal only with `logs`.
    """
    if not logs:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, PrefectConsoleHandler):
                handler.setLevel(logging.CRITICAL)

    signal.signal(signal.SIGINT, _interrupted)

    def command(**parameters: Any) -> None:
        try:
            _refuse_passwords(parameters)
            result = flow(**parameters)
        except outcome.DamageError as damage:
            result = damage.row
        except FdcError as error:
            typer.echo(f"error: {error}", err=True)
            _let_go(error)
            raise typer.Exit(FATAL) from None
        raise typer.Exit(show(result))

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=inspect.cleandoc(flow.fn.__doc__ or "").partition("\n\nArgs:")[0])(_with_options(command, flow.fn))
    app()


def _let_go(error: BaseException | None) -> None:
    """Free what the frames of an error and of its causes hold: Prefect keeps it until exit, where DuckDB complains."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__, error = None, error.__context__


def _interrupted(_signal: int, _frame: FrameType | None) -> None:
    """Stop soon: the temporary server got the interrupt as well, and Prefect would wait minutes for its answers."""
    typer.echo("interrupted: the same command goes on from here", err=True)
    logging.disable(logging.CRITICAL)
    patience = threading.Timer(SECONDS_TO_STOP, os._exit, [INTERRUPTED])
    patience.daemon = True
    patience.start()
    raise KeyboardInterrupt


def _refuse_passwords(parameters: Mapping[str, Any]) -> None:
    """Raise SettingsError for a URL with a password in it, before Prefect stores the parameters of the run."""
    for name, value in parameters.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and PASSWORD.match(text):
                raise SettingsError(f"{name}: a URL with a password would be stored by Prefect: use the environment")


def _with_options(command: Callable[..., None], function: Callable[..., Any]) -> Callable[..., None]:
    """The command with the signature of the function, each parameter carrying its help."""
    hints, helps = get_type_hints(function), parameter_docstrings(inspect.getdoc(function))
    parameters = []
    for name, parameter in inspect.signature(function).parameters.items():
        kind: Any = typer.Argument if parameter.default is inspect.Parameter.empty else typer.Option
        named = [f"--{name.rstrip('_')}"] if name.endswith("_") else []  # a word that Python keeps for itself
        hint: Any = Annotated[(hints[name], kind(*named, help=helps.get(name)))]
        parameters.append(parameter.replace(annotation=hint))
    wrapped: Any = functools.partial(command)
    wrapped.__signature__ = inspect.Signature(parameters)
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    wrapped.__name__ = function.__name__
    return cast(Callable[..., None], wrapped)


def place(location: str) -> str:
    """A path or URL; a relative path counts from here on a command line, and is refused in a deployment.

    What opens object storage is put into the environment, if a block has it. Raises SettingsError, also for a URL with
    a password.
    """
    _refuse_passwords({"a place": location})
    if location.startswith("s3://"):
        credentials.from_block()
    if "://" in location or Path(location).is_absolute():
        return location
    if deployment.id:
        raise SettingsError(f"{location!r} is relative, and a deployment runs anywhere: give a full path or a URL")
    return str(Path(location).absolute())


class _Bar(Progress):
    """A progress shown by rich; several runs add up. What another process gets of it is silent."""

    def __init__(self, shown: rich.progress.Progress, what: str) -> None:
        self._shown, self._task, self._total = shown, shown.add_task(what, total=None), 0

    def begin(self, images: int) -> None:
        self._total += images
        self._shown.update(self._task, total=self._total)

    def advance(self, images: int) -> None:
        self._shown.advance(self._task, images)

    def __reduce__(self) -> tuple[type[Progress], tuple[()]]:
        return Progress, ()


@contextmanager
def bar(what: str) -> Iterator[Progress]:
    """A progress bar on the error stream, invisible unless that is a terminal."""
    columns = (*rich.progress.Progress.get_default_columns(), rich.progress.MofNCompleteColumn())
    with rich.progress.Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as shown:
        yield _Bar(shown, what)


def show_table(title: str, row: Mapping[str, Any]) -> None:
    """Print one record as a table of two columns; None shows as a dash."""
    table = Table("", title, header_style="bold")
    for name, value in row.items():
        shown = "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
        table.add_row(name.replace("_", " "), shown)
    Console().print(table)
