"""Runs one function over many files in processes of one thread each. A process that dies costs its file alone."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from codec.cli.plan import Planned
from codec.cli.rows import FAILED, Row

if TYPE_CHECKING:  # a command for one file needs no processes
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

SECONDS_TO_END = 5.0
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Converter(Protocol):
    """Converts files with models that it loads once."""

    def __call__(self, own: Planned) -> Row: ...


class Settings(Protocol):
    """What a process needs to make its converter; it is sent there."""

    def open(self) -> Converter: ...


@dataclass(frozen=True)
class _Worker:
    process: "BaseProcess"
    connection: "Connection"


def convert(files: Sequence[Planned], settings: Settings, count: int) -> Iterator[Row]:
    """Yields a row for each file, in the order in which they are finished; in this process if `count` is 1."""
    if count > 1:
        yield from _in_processes(files, settings, count)
        return
    converter = settings.open()
    for own in files:
        yield _row(converter, own)


def _row(converter: Converter, own: Planned) -> Row:
    """The converter's row; a failed one for an exception that it does not expect, such as too little memory."""
    try:
        return converter(own)
    except Exception as error:
        return Row(own.source, own.output, FAILED, error=f"{type(error).__name__}: {' '.join(str(error).split())}")


def _in_processes(files: Sequence[Planned], settings: Settings, count: int) -> Iterator[Row]:
    from multiprocessing.connection import Connection, wait

    left = list(reversed(files))
    busy: dict[Connection, tuple[_Worker, Planned]] = {}
    try:
        for _ in range(min(count, len(files))):
            _give(busy, _started(settings), left.pop())
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                worker, own = busy.pop(ready)
                row = _received(worker)
                if left:
                    _give(busy, worker if row is not None else _started(settings), left.pop())
                elif row is not None:
                    worker.connection.close()  # nothing is left for it: it ends
                    worker.process.join(SECONDS_TO_END)
                yield row or _death(worker, own)
    finally:
        # Only after an interruption are there any left.
        for worker, _ in busy.values():
            worker.process.terminate()
        for worker, _ in busy.values():
            worker.process.join(SECONDS_TO_END)
            worker.process.kill()


def _started(settings: Settings) -> _Worker:
    import multiprocessing

    # Not forked: a copy of a process in which torch has threads can hang.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, settings), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _give(busy: "dict[Connection, tuple[_Worker, Planned]]", worker: _Worker, own: Planned) -> None:
    with suppress(OSError):  # it has just died: then nothing comes back either
        worker.connection.send(own)
    busy[worker.connection] = (worker, own)


def _received(worker: _Worker) -> Row | None:
    """The row of a file; None if its process has died."""
    try:
        row = worker.connection.recv()
    except (EOFError, OSError):
        return None
    assert isinstance(row, Row)
    return row


def _death(worker: _Worker, own: Planned) -> Row:
    worker.connection.close()
    worker.process.join(SECONDS_TO_END)
    code = worker.process.exitcode
    how = f"exit status {code}"
    if code is not None and code < 0:
        how = signal.Signals(-code).name
    hint = ", perhaps for want of memory: try fewer --jobs" if code == -signal.SIGKILL else ""
    return Row(own.source, own.output, FAILED, error=f"its process ended with {how}{hint}")


def _serve(connection: "Connection", settings: Settings) -> None:
    """Converts what arrives until the other end is closed."""
    for name in THREADS:
        os.environ[name] = "1"  # read when torch is imported
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the first process ends the others
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # removes what is half written
    converter = settings.open()
    while True:
        try:
            own = connection.recv()
            connection.send(_row(converter, own))
        except (EOFError, BrokenPipeError):
            return
