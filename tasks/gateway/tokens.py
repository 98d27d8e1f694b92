"""The token that a gateway asks for: read from a file or the environment, compared in constant time."""

import base64
import binascii
import hashlib
import hmac
import os
from pathlib import Path

from codec.errors import SettingsError

VARIABLE = "FDC_GATEWAY_TOKEN"
SHORTEST = 16


def read_token(path: str) -> str | None:
    """Returns the token in a file, else the one in the environment variable, which is removed; None without both.

    Neither shows in the list of processes. Raises SettingsError for a token that is too short or unreadable.
    """
    given = os.environ.pop(VARIABLE, None)
    where = VARIABLE
    if path:
        where = path
        try:
            given = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise SettingsError(f"--token {path}: this file cannot be read; it must hold the token") from None
    if given is None:
        return None
    token = given.strip()
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable():
        raise SettingsError(f"{where}: a token needs at least {SHORTEST} printable ASCII characters")
    return token


class Gate:
    """Lets requests in that carry the token, as `Bearer TOKEN` or as the password of `Basic`, for browsers."""

    def __init__(self, token: str | None) -> None:
        self._digest = None if token is None else _digest(token.encode())

    @property
    def is_open(self) -> bool:
        """Whether no token is needed."""
        return self._digest is None

    def lets_in(self, authorization: bytes) -> bool:
        """Whether an Authorization header has the token."""
        if self._digest is None:
            return True
        scheme, _, given = authorization.partition(b" ")
        if scheme.lower() == b"basic":
            given = _password(given)
        elif scheme.lower() != b"bearer":
            given = b""
        # hashes have one length, so that the comparison takes the same time for every guess
        return hmac.compare_digest(_digest(given.strip()), self._digest)


def _password(given: bytes) -> bytes:
    try:
        return base64.b64decode(given.strip(), validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
