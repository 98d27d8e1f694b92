"""A flow as a command: its own parameter names as options, a progress bar in a terminal, a short table at the end."""

import functools
import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from prefect import Flow
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.runtime import deployment
from prefect.utilities.callables import parameter_docstrings
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from codec.errors import FdcError, SettingsError

FATAL = 1
FAILED_ROWS = 2


def run(flow: Flow[Any, Any], show: Callable[[Any], int], *, logs: bool = False) -> None:
    """Run a flow from the command line, show its result, and exit with the status that `show` returns.

    A parameter without default is an argument, the others are options; their help is the `Args` of the docstring.
    An FdcError is one line and exit status 1. Prefect's log lines appear in the terminal only with `logs`.
    """
    if not logs:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, PrefectConsoleHandler):
                handler.setLevel(logging.CRITICAL)

    def command(**parameters: Any) -> None:
        try:
            result = flow(**parameters)
        except FdcError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(FATAL) from None
        raise typer.Exit(show(result))

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=inspect.cleandoc(flow.fn.__doc__ or "").partition("\n\nArgs:")[0])(_with_options(command, flow.fn))
    app()


def _with_options(command: Callable[..., None], function: Callable[..., Any]) -> Callable[..., None]:
    """The command with the signature of the function, each parameter carrying its help."""
    hints, helps = get_type_hints(function), parameter_docstrings(inspect.getdoc(function))
    parameters = []
    for name, parameter in inspect.signature(function).parameters.items():
        kind = typer.Argument if parameter.default is inspect.Parameter.empty else typer.Option
        annotation = Annotated[hints[name], kind(help=helps.get(name), show_default=parameter.default is not None)]
        parameters.append(parameter.replace(annotation=annotation))
    wrapped = functools.partial(command)
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}  # type: ignore[attr-defined]
    wrapped.__name__ = function.__name__  # type: ignore[attr-defined]
    return wrapped


def place(location: str) -> str:
    """A path or URL; a relative path counts from here on a command line, and is refused in a deployment.

    Raises SettingsError.
    """
    if "://" in location or Path(location).is_absolute():
        return location
    if deployment.id:
        raise SettingsError(f"{location!r} is relative, and a deployment runs anywhere: give a full path or a URL")
    return str(Path(location).absolute())


class Bar:
    """How far a run is, as a bar; several runs add up."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task
        self._total = 0

    def begin(self, images: int) -> None:
        """There are so many more pictures to do."""
        self._total += images
        self._progress.update(self._task, total=self._total)

    def advance(self, images: int) -> None:
        """So many more are done."""
        self._progress.advance(self._task, images)


@contextmanager
def bar(what: str) -> Iterator[Bar]:
    """A progress bar on the error stream, invisible unless that is a terminal."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(elapsed_when_finished=True))
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:
        yield Bar(progress, progress.add_task(what, total=None))


def show_table(title: str, row: Mapping[str, Any]) -> None:
    """Print one record as a table of two columns; None shows as a dash."""
    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in row.items():
        shown = "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
        table.add_row(name.replace("_", " "), shown)
    Console().print(table)
