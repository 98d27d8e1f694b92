"""Reads and writes the files of a command: errors name them, and an output is whole or absent."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from codec.errors import BitstreamError, BundleError, ImageError, SettingsError

if TYPE_CHECKING:
    from codec.format.bitstream import FdcFile

PIPE = "-"
"""In place of a file: standard input or standard output."""


def shown(source: str | Path) -> str:
    """The name of an input in messages."""
    return "standard input" if str(source) == PIPE else str(source)


def target(output: str) -> str:
    """The name of an output in messages."""
    return "standard output" if output == PIPE else output


def content(source: str | Path, error: type[ImageError] | type[BitstreamError]) -> bytes:
    """The bytes of a file or of standard input. Raises `error` if it cannot be read."""
    if str(source) == PIPE:
        return sys.stdin.buffer.read()
    try:
        return Path(source).read_bytes()
    except OSError as failure:
        raise error(f"cannot read {source}: {failure.strerror}") from None


def parsed(source: str | Path) -> "tuple[bytes, FdcFile]":
    """Reads and parses a compressed picture. Raises BitstreamError that names it."""
    data = content(source, BitstreamError)
    from codec.format.bitstream import parse

    if not data:
        raise BitstreamError(f"{shown(source)}: is empty")
    with naming(source):
        return data, parse(data)


@contextmanager
def naming(source: str | Path) -> Iterator[None]:
    """Adds the file name to errors about a coded picture."""
    try:
        yield
    except (BitstreamError, BundleError) as error:
        raise type(error)(f"{shown(source)}: {error}") from None


def check_output(output: Path, overwrite: bool) -> None:
    """Raises SettingsError before any work if the output could not be written."""
    if output.is_dir():
        raise SettingsError(f"{output} is a folder; name a file, or give the folder to --output-folder")
    if output.exists() and not overwrite:
        raise _exists(output)
    if not os.access(output.parent, os.W_OK):
        raise SettingsError(f"cannot write {output}: {output.parent} is not a writable folder")


def publish(data: bytes, output: Path, *, overwrite: bool) -> None:
    """Writes a file under a temporary name beside it and renames it, so that it is never there in part.

    Raises SettingsError, also if the output has come to exist and may not be replaced.
    """
    # One process writes one file at a time. Names with a dot are never taken for inputs.
    temporary = output.with_name(f".{os.getpid()}.partial")
    try:
        temporary.write_bytes(data)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # before the name: after a power failure a renamed file could be empty
        if not overwrite:
            _link(temporary, output)
        else:
            temporary.replace(output)
    except OSError as error:
        raise SettingsError(f"cannot write {output}: {error.strerror}") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _link(temporary: Path, output: Path) -> None:
    """Gives a file its name unless something has that name, even if another process is just making it."""
    try:
        os.link(temporary, output)
    except FileExistsError:
        raise _exists(output) from None
    except OSError:  # a file system without hard links
        if output.exists():
            raise _exists(output) from None
        temporary.replace(output)


def _exists(output: Path) -> SettingsError:
    return SettingsError(f"{output} already exists; choose another name, or replace it with --overwrite")


def check_pipe() -> None:
    """Raises SettingsError before any work if standard output is a terminal."""
    if sys.stdout.isatty():
        raise SettingsError("standard output is a terminal; redirect it, or name a file with --output")


def send(data: bytes) -> None:
    """Writes a file to standard output."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
