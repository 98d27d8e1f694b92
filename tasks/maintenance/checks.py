"""Checks of single files. Each returns the problem in one line, empty if there is none."""

from collections.abc import Callable
from pathlib import Path

from codec.errors import ArchiveError
from tasks.archive import escrow, layout, manifest
from tasks.storage.store import sha256_of

Wrong = Callable[[Path], str]
"""Returns the problem of a file in one line; empty if there is none."""


def no_document(path: Path) -> str:
    """Checks a JSON document against the hash in it."""
    try:
        manifest.from_json(path.read_bytes(), "")
    except ArchiveError as error:
        # without the location, which is empty here, and without the remedy
        return str(error).removeprefix(": ").partition(";")[0]
    return ""


def no_sums(path: Path) -> str:
    """Checks the lines of a SHA256SUMS against its last line."""
    if escrow.is_whole(path.read_bytes()):
        return ""
    return "not a valid SHA256SUMS, or damaged"


def not_hashed(sha256: str) -> Wrong:
    """Returns the check against a SHA-256 that another object states."""

    def wrong(path: Path) -> str:
        if sha256_of(path) == sha256:
            return ""
        return "its content does not match the hash of the object that names it"

    return wrong


def not_named(tar: str) -> Wrong:
    """Returns the check against the beginning of a SHA-256 in the name of a tar."""
    head = layout.hash_of(tar)

    def wrong(path: Path) -> str:
        if sha256_of(path).startswith(head):
            return ""
        return "its content does not match the hash in its name"

    return wrong
