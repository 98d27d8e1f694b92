"""Conditions of a request (RFC 9110): entity tags and byte ranges."""

import hashlib
import re
from collections.abc import Mapping

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_TAG = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')


class RangeError(Exception):
    """No byte of the range exists (416)."""


def entity_tag(*content: object) -> str:
    """Returns a strong entity tag of what determines a response's bytes."""
    digest = hashlib.sha256(repr(content).encode()).hexdigest()
    return f'"{digest[:40]}"'


def is_known(tag: str, headers: Mapping[str, str]) -> bool:
    """Whether If-None-Match says that the client has the response."""
    given = headers.get("if-none-match", "")
    return given.strip() == "*" or tag in _TAG.findall(given)


def chosen_range(headers: Mapping[str, str], tag: str, size: int) -> tuple[int, int] | None:
    """Returns the first and the last byte that Range asks for, or None for the whole.

    The whole is also sent for several ranges, other units, and an If-Range with another tag. Raises RangeError.
    """
    given = headers.get("range")
    if given is None or headers.get("if-range", tag) != tag:
        return None
    match = _RANGE.fullmatch(given.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:  # the last bytes
        first = max(0, size - int(match[2]))
        last = size - 1
    else:
        first = int(match[1])
        last = min(size - 1, int(match[2])) if match[2] else size - 1
        if match[2] and int(match[2]) < first:  # not a valid range, so ignored
            return None
    if first > last:
        raise RangeError
    return first, last
