"""Tests that a store creates names exclusively: of two writers of one name, exactly one succeeds."""

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor

from codec.errors import ArchiveError
from tasks.storage import errors
from tasks.storage.store import StorageError, Store

FIRST = 5
"""Rounds when an archive is created."""
AGAIN = 2
"""Rounds when an archive is found in a new location."""
REFUSED = ("NotImplemented", "InvalidArgument", "InvalidRequest")
"""Error codes of servers that recognize the header but do not support it."""


class NotExclusiveError(ArchiveError):
    """The store lets two writers create the same name."""


def probe(store: Store, rounds: int = FIRST) -> str:
    """Tests exclusive creation and returns the mechanism. Raises NotExclusiveError if the store fails the test.

    S3 creates large objects by another request than small ones, and some servers honor If-None-Match for only one of
    the two, so both are tested.
    """
    if store.folder is not None:
        ways = {"hard links": False}
        how = "exclusive creation by link"
    elif store.has_etags:
        ways = {"If-None-Match on PUT": False, "If-None-Match on CompleteMultipartUpload": True}
        how = "exclusive creation by If-None-Match"
    else:
        ways = {"exclusive creation": False}
        how = "exclusive creation"
    for way, in_parts in ways.items():
        # one round may end well by chance: in a store that looks and then writes, the two writers need not meet
        for _ in range(rounds):
            if not one_wins(store, in_parts):
                raise NotExclusiveError(
                    f"{store}: the store ignores {way}, so two writers could both create one name; "
                    "write the archive to a local folder and copy it here, or, if only one writer ever runs, "
                    "start with compress-archive --single-writer"
                )
    return how


def one_wins(store: Store, in_parts: bool) -> bool:
    """Whether exactly one of two simultaneous writers creates a name; with `in_parts`, by a multipart upload."""
    name = f"probe-{secrets.token_hex(8)}"
    contents = (b"first", b"second")
    together = threading.Barrier(2)
    writer = Store(store.url)  # without a claim, which publishes by replacing
    if in_parts:
        writer.largest_put = 0

    def create(content: bytes) -> bool:
        together.wait()
        return writer.publish(name, content)

    try:
        with ThreadPoolExecutor(2) as writers:
            won = list(writers.map(create, contents))
        if won.count(True) != 1:
            return False
        return store.read(name) == contents[won.index(True)]
    except StorageError as error:
        if errors.code(error.__cause__ or error) in REFUSED:
            return False
        raise
    finally:
        store.remove(name)
