"""Storage errors: one line each, which names the location and contains no credentials."""

import errno
import os
import re
from typing import Any

from codec.errors import ArchiveError

UNREADABLE = (
    # the name does not lead to a file that we may open
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    # the file is there, but its bytes are not
    errno.EIO,
    errno.EBADMSG,
    errno.ENXIO,
    errno.EINVAL,
    errno.EFBIG,
)
"""Errno values that mean the file itself cannot be read."""
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")


class StorageError(ArchiveError):
    """A storage request failed; the same request may succeed later."""


class UnreadableError(StorageError):
    """One object cannot be read: access denied, damaged, not a file, or archived in a class that needs a restore."""


class ReadOnlyError(StorageError):
    """The credentials or the file system do not permit writing here."""


class NotFoundError(ArchiveError):
    """No object has this name."""


def reply(error: BaseException) -> dict[str, Any]:
    """An S3 server's response; empty for any other error."""
    # s3fs translates botocore's errors into OSErrors; the response stays with the cause
    found = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    if not isinstance(found, dict):
        return {}  # errors of web clients have a response too, of another type
    return found


def code(error: BaseException) -> str:
    """The code of an S3 error; empty for any other error."""
    return str(reply(error).get("Error", {}).get("Code", ""))


def http_status(error: BaseException) -> int | None:
    """The HTTP status of an S3 error; None for any other error."""
    status: int | None = reply(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status


def denies_writing(error: BaseException) -> bool:
    """Whether a write failed because of the credentials or a read-only file system."""
    if http_status(error) is not None:
        return http_status(error) == 403
    return isinstance(error, OSError) and error.errno in _READ_ONLY


def reason(error: BaseException) -> str:
    """Returns the cause of an error in one line: code and status if an S3 server sends no message."""
    found = reply(error)
    if found:
        # Ceph sends no message
        said = str(found.get("Error", {}).get("Message") or code(error) or "no reason stated")
        first_line = said.partition("\n")[0]
        return without_secrets(f"{first_line} (HTTP {http_status(error)})")
    said = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    return without_secrets(said or type(error).__name__)


def without_secrets(text: str) -> str:
    """Removes passwords in URLs and secret values of the environment from a text."""
    text = re.sub(r"://[^/@\s]*@", "://", text)
    for variable in _SECRET_VARIABLES:
        value = os.environ.get(variable)
        if value:
            text = text.replace(value, "***")
    return text
