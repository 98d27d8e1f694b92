"""Shows, before an archive depends on it, that of two writers who create one name in a store exactly one wins."""

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor

from codec.errors import ArchiveError
from tasks.storage import errors
from tasks.storage.store import StorageError, Store

FIRST, AGAIN = 5, 2
"""Rounds when an archive is created, and where one is found in another place than before."""
REFUSED = ("NotImplemented", "InvalidArgument", "InvalidRequest")
"""Codes of servers that know the header and do not serve it."""


class NotExclusiveError(ArchiveError):
    """Two writers can both create one name in this store."""


def probe(store: Store, rounds: int = FIRST) -> str:
    """Try it, and say how the store does it; raises NotExclusiveError where it does not.

    On S3 a large object comes into being in another way than a small one, and servers have been seen that honor
    If-None-Match for the one and not for the other: both are tried.
    """
    if store.folder is not None:
        ways, how = {"hard links": False}, "exclusive creation by link"
    elif store.has_etags:
        ways = {"If-None-Match on PUT": False, "If-None-Match on CompleteMultipartUpload": True}
        how = "exclusive creation by If-None-Match"
    else:
        ways, how = {"exclusive creation": False}, "exclusive creation"
    for way, in_parts in ways.items():
        for _ in range(rounds):
            if not one_wins(store, in_parts):
                raise NotExclusiveError(
                    f"{store}: this store does not honor {way}, so two writers could both take one name; write the "
                    "archive to a local folder, copy that here and read it here, or, where only one writer ever runs, "
                    "begin with compress-archive --single-writer"
                )
    return how


def one_wins(store: Store, in_parts: bool) -> bool:
    """Whether of two writers that create one name at the same time one wins; `in_parts` as large files are created."""
    name, contents, together = f"probe-{secrets.token_hex(8)}", (b"first", b"second"), threading.Barrier(2)
    writer = Store(store.url)
    if in_parts:
        writer.largest_put = 0

    def create(content: bytes) -> bool:
        together.wait()
        return writer.publish(name, content)

    try:
        with ThreadPoolExecutor(2) as writers:
            won = list(writers.map(create, contents))
        return sum(won) == 1 and store.read(name) == contents[won.index(True)]
    except StorageError as error:
        if errors.code(error.__cause__ or error) in REFUSED:
            return False
        raise
    finally:
        store.remove(name)
