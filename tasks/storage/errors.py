"""What storage raises, each in one line that names the place and holds no credentials."""

import errno
import os
import re
from typing import Any

from codec.errors import ArchiveError

UNREADABLE = (
    *(errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.EIO, errno.EBADMSG, errno.ENXIO, errno.EINVAL, errno.EFBIG),
)
"""What the system says when a file itself cannot be read."""
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")


class StorageError(ArchiveError):
    """Storage did not do what was asked; the same request may succeed later."""


class UnreadableError(StorageError):
    """This one object cannot be read: denied, damaged, no file, or to be restored from its storage class first."""


class ReadOnlyError(StorageError):
    """These credentials, or this file system, let nothing be written here."""


class NotFoundError(ArchiveError):
    """Nothing is stored under this name."""


def reply(error: BaseException) -> dict[str, Any]:
    """What an S3 server answered, empty for any other error."""
    found = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    return found if isinstance(found, dict) else {}


def code(error: BaseException) -> str:
    """The code of an S3 server's error, empty for any other."""
    return str(reply(error).get("Error", {}).get("Code", ""))


def http_status(error: BaseException) -> int | None:
    """The HTTP status of an S3 server's error, None for any other."""
    status: int | None = reply(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status


def denies_writing(error: BaseException) -> bool:
    """Whether a failure to write is that of the credentials or of a file system mounted for reading."""
    if http_status(error) is not None:
        return http_status(error) == 403
    return isinstance(error, OSError) and error.errno in _READ_ONLY


def reason(error: BaseException) -> str:
    """Why something failed, in one line. Some S3 servers send no message: code and status stand in for it."""
    if found := reply(error):
        said = str(found.get("Error", {}).get("Message") or code(error) or "no reason given")
        return without_secrets(f"{said.partition(chr(10))[0]} (HTTP {http_status(error)})")
    return without_secrets(getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__)


def without_secrets(text: str) -> str:
    """The text without passwords in URLs and without what the environment keeps secret."""
    text = re.sub(r"://[^/@\s]*@", "://", text)
    for variable in _SECRET_VARIABLES:
        if value := os.environ.get(variable):
            text = text.replace(value, "***")
    return text
