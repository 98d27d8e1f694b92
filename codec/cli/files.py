"""Reads and writes the files of a command: errors name them, and an output is whole or absent."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from codec.errors import BitstreamError, BundleError, SettingsError

if TYPE_CHECKING:
    from codec.format.bitstream import FdcFile


def parsed(source: Path) -> "tuple[bytes, FdcFile]":
    """Reads and parses a compressed picture. Raises BitstreamError that names it."""
    try:
        data = source.read_bytes()
    except OSError as error:
        raise BitstreamError(f"cannot read {source}: {error.strerror}") from None
    from codec.format.bitstream import parse

    if not data:
        raise BitstreamError(f"{source}: is empty")
    with naming(source):
        return data, parse(data)


@contextmanager
def naming(source: Path) -> Iterator[None]:
    """Adds the file name to errors about a coded picture."""
    try:
        yield
    except (BitstreamError, BundleError) as error:
        raise type(error)(f"{source}: {error}") from None


def check_output(output: Path, force: bool) -> None:
    """Raises FdcError before any work if the output could not be written."""
    if output.exists() and not force:
        raise SettingsError(f"{output} already exists; choose another name, or overwrite it with --force")
    if not os.access(output.parent, os.W_OK):
        raise SettingsError(f"cannot write {output}: {output.parent} is not a writable folder")


@contextmanager
def written(output: Path) -> Iterator[Path]:
    """Yields a temporary file next to the output, which is renamed on success and removed on failure."""
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(output)
    except OSError as error:
        raise SettingsError(f"cannot write {output}: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
