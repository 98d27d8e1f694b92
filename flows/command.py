"""Runs a flow as a command: parameters as options, a progress bar in a terminal, a short table at the end."""

import functools
import inspect
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Annotated, Any, cast, get_type_hints

import httpx
import rich.progress
import typer
from prefect import Flow
from prefect.exceptions import ParameterTypeError, TerminationSignal
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.runtime import deployment
from prefect.settings import PREFECT_API_URL
from prefect.utilities.callables import parameter_docstrings
from rich.console import Console

from codec.errors import FdcError, SettingsError
from codec.support.terminal import print_table, say
from flows import LOGGERS, credentials, outcome
from flows.direct import directly
from tasks.archive import opening
from tasks.compress import process_pair
from tasks.progress import Progress

# Exit statuses. 130 is that of a shell for a command which SIGINT ended: 128 + 2.
DONE = 0
FATAL = 1
FAILED_ROWS = 2
INTERRUPTED = 130
SECONDS_TO_STOP = 5.0
PASSWORD = re.compile(r"[\w+.-]+://[^/@]*:[^/@]*@")
"""The start of a URL with a user and a password."""


def run(flow: Flow[Any, Any], show: Callable[[Any], int], *, logs: bool = False) -> None:
    """Runs a flow from the command line, shows its result, and exits with the status that `show` returns.

    Parameters without default are arguments, the others options; their help is the `Args` of the docstring. An FdcError
    is printed in one line with exit status 1. Log lines appear in the terminal only with `logs` or --verbose.
    """
    logging.raiseExceptions = False  # no error per line after the console or the server is lost, also after --help
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    add(app, flow, show, logs=logs)
    app()


def add(
    app: typer.Typer, flow: Flow[Any, Any], show: Callable[[Any], int], name: str | None = None, *, logs: bool = False
) -> None:
    """Adds a flow to the commands of `app`, as `run` describes.

    With a name it is the plain function under that name: it runs without a Prefect server, which has flows.
    """

    def command(verbose: bool = False, direct: bool = name is not None, **parameters: Any) -> None:
        if verbose:
            _set_console_level(logging.NOTSET)  # shows retries, restarted processes, lost races
        elif not logs:
            _set_console_level(logging.CRITICAL)
        show_warnings()
        logging.raiseExceptions = False  # no error per line after the console or the server is lost
        _watch_signals()
        try:
            _refuse_passwords(parameters)
            parameters = _checked(flow, parameters)
            with _server_there():
                result = _called_directly(flow, parameters) if direct else flow(**parameters)
        except (TerminationSignal, Terminated):  # whichever of the two handlers was first
            raise typer.Exit(128 + signal.SIGTERM) from None
        except outcome.DamageError as damage:  # the run failed, but its result is what `show` prints
            result = damage.row
        except FdcError as error:
            say(f"error: {error}", err=True)
            _let_go(error)
            if isinstance(error, ServerError):
                _leave(FATAL)
            raise typer.Exit(FATAL) from None
        raise typer.Exit(show(result))

    docstring = inspect.cleandoc(flow.fn.__doc__ or "")
    summary = docstring.partition("\n\nArgs:")[0]  # the arguments have their own help
    app.command(name, help=summary)(_with_options(command, flow.fn, is_plain=name is not None))


def _checked(flow: Flow[Any, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters within their ranges. Raises SettingsError, as Prefect refuses them in a run."""
    try:
        return flow.validate_parameters(parameters)
    except ParameterTypeError as error:
        # "Flow run received invalid parameters:\n - NAME: WHY"
        lines = [line.strip(" -") for line in str(error).splitlines()]
        raise SettingsError("; ".join(lines[1:] or lines)) from None


def _called_directly(flow: Flow[Any, Any], parameters: Mapping[str, Any]) -> Any:
    with directly():
        return flow.fn(**parameters)


def _set_console_level(level: int) -> None:
    """Sets the lowest level of log lines that the terminal shows; the server gets all of them."""
    for logger in (logging.getLogger(), *map(logging.getLogger, LOGGERS)):
        for handler in logger.handlers:
            if isinstance(handler, PrefectConsoleHandler):
                handler.setLevel(level)


class _Warnings(logging.Handler):
    """Prints log lines to what is stderr at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError, ValueError):  # the terminal may be gone
            say(f"warning: {record.getMessage()}", err=True)


_WARNINGS = _Warnings()


def show_warnings() -> None:
    """Shows warnings about the store in the terminal even if other log lines are hidden."""
    opening.LOGGER.addHandler(_WARNINGS)  # the same one again is not added


def _let_go(error: BaseException | None) -> None:
    """Clears the frames of an error and its causes: Prefect keeps them until exit, when DuckDB would fail."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        error = error.__context__


class ServerError(SettingsError):
    """Prefect's server does not answer."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which Prefect passes to the handler installed before its own."""


def _terminated(*_: object) -> None:
    raise Terminated


def _watch_signals() -> None:
    """Stops soon after SIGINT or SIGTERM, even while a flow runs with handlers of Prefect."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminated)
    _stop_soon(_say_interrupted)


def _say_interrupted() -> None:
    with suppress(OSError):  # the terminal may be what is gone
        typer.echo("interrupted; run the same command to resume", err=True)
    logging.disable(logging.CRITICAL)  # threads that are cut off would log errors after the last line


@contextmanager
def stopping_soon(tell: Callable[[], None]) -> Iterator[None]:
    """In a deployed run, ends this process soon after SIGINT or SIGTERM; calls `tell` first.

    Otherwise its threads would first finish their shards, which may take an hour. No effect without a deployment.
    """
    # Only the main thread may set a wakeup file descriptor.
    if not deployment.id or threading.current_thread() is not threading.main_thread():
        yield
        return
    before, wakeup = _stop_soon(tell)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(wakeup)


def _stop_soon(tell: Callable[[], None]) -> tuple[int, int]:
    """Watches for signals in a thread. Returns the previous and the new wakeup file descriptor."""
    # Python runs handlers only in the main thread, which may be waiting for a shard or a server; this byte comes at
    # once.
    arrivals, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    before = signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    threading.Thread(target=_wait_for_signals, args=(arrivals, tell), daemon=True).start()
    return before, wakeup


def _wait_for_signals(arrivals: int, tell: Callable[[], None]) -> None:
    """Ends the process: the temporary server was interrupted too, and Prefect would wait minutes for its answers."""
    while True:
        number = os.read(arrivals, 1)  # Python writes the number of each signal as a byte
        if not number:  # the other end was closed: the run is over
            os.close(arrivals)
            return
        if number[0] in (signal.SIGINT, signal.SIGTERM):
            break
    tell()
    time.sleep(SECONDS_TO_STOP)  # for a run that ends by itself, in order
    os._exit(128 + number[0])


@contextmanager
def _server_there() -> Iterator[None]:
    """Converts the error of an unreachable Prefect server to one line."""
    try:
        yield
    except (httpx.TransportError, RuntimeError) as error:
        # Prefect raises a bare RuntimeError if the server is missing from the beginning.
        if isinstance(error, RuntimeError) and not str(error).startswith("Failed to reach API"):
            raise
        url = PREFECT_API_URL.value() or "a temporary one"
        raise ServerError(f"Prefect's server does not answer ({url}): start it, or unset PREFECT_API_URL") from error


def _leave(status: int) -> None:
    """Ends the process at once: Prefect would retry each event for seconds."""
    process_pair.dismiss_all()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _refuse_passwords(parameters: Mapping[str, Any]) -> None:
    """Raises SettingsError for a URL with a password before Prefect stores the parameters of the run."""
    for name, value in parameters.items():
        values = value if isinstance(value, list) else [value]
        for text in values:
            if isinstance(text, str) and PASSWORD.match(text):
                raise SettingsError(f"{name}: Prefect would store the password in this URL; use the environment")


def _with_options(command: Callable[..., None], function: Callable[..., Any], *, is_plain: bool) -> Callable[..., None]:
    """Gives the command the signature of the function, with a help text per parameter."""
    hints = get_type_hints(function)
    helps = parameter_docstrings(inspect.getdoc(function))
    parameters = []
    for name, parameter in inspect.signature(function).parameters.items():
        kind: Any = typer.Argument if parameter.default is inspect.Parameter.empty else typer.Option
        names = []
        if name.endswith("_"):  # a keyword of Python, such as as_
            names.append(f"--{name.rstrip('_')}")
        hint: Any = Annotated[(hints[name], kind(*names, help=helps.get(name)))]
        parameters.append(parameter.replace(annotation=hint))
    parameters.append(_switch("verbose", "Show log lines, including retries and lost races."))
    if not is_plain:
        parameters.append(_switch("direct", "Run without a Prefect server, which will not record this run."))
    # A partial is a new object, so that the signature of `command` itself does not change.
    wrapped: Any = functools.partial(command)
    wrapped.__signature__ = inspect.Signature(parameters)
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    wrapped.__name__ = function.__name__
    return cast(Callable[..., None], wrapped)


def _switch(name: str, text: str) -> inspect.Parameter:
    """An option of every command that is off by default, with its help text."""
    hint: Any = Annotated[bool, typer.Option(f"--{name}", help=text)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=hint)


def resolved(location: str) -> str:
    """Returns an absolute path or URL. A relative path is refused in a deployment.

    Loads S3 credentials from the configured Prefect block, if any, into the environment. Raises SettingsError, also for
    a URL with a password.
    """
    _refuse_passwords({"a place": location})
    if location.startswith("s3://"):
        credentials.from_block()
    if "://" in location or Path(location).is_absolute():
        return location
    if deployment.id:
        raise SettingsError(
            f"{location!r} is relative, and a deployment can run on any machine: give a full path or a URL"
        )
    return str(Path(location).absolute())


class _Bar(Progress):
    """A progress bar of rich; several runs add up. A pickled copy is silent."""

    def __init__(self, shown: rich.progress.Progress, what: str) -> None:
        self._shown = shown
        self._task = shown.add_task(what, total=None)
        self._total = 0

    def begin(self, images: int) -> None:
        self._total += images
        self._shown.update(self._task, total=self._total)

    def advance(self, images: int) -> None:
        self._shown.advance(self._task, images)

    # Dask pickles what a task is called with, and a terminal cannot follow into another process.
    def __reduce__(self) -> tuple[type[Progress], tuple[()]]:
        return Progress, ()


class _Terminal:
    """A stream that drops output after its terminal is lost."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def bar(what: str) -> Iterator[Progress]:
    """Shows a progress bar on stderr if that is a terminal."""
    columns = (*rich.progress.Progress.get_default_columns(), rich.progress.MofNCompleteColumn())
    console = Console(file=cast(IO[str], _Terminal(sys.stderr)))
    with rich.progress.Progress(*columns, console=console, disable=not sys.stderr.isatty()) as shown:
        yield _Bar(shown, what)


def show_table(title: str, row: Mapping[str, Any]) -> None:
    """Prints a record as a table of two columns; None is a dash."""
    print_table(("", title), ((name.replace("_", " "), _shown(value)) for name, value in row.items()))


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    return str(value)
