"""Keys of pictures and names derived from them: stored names, tar members, paths of restored files."""

import hashlib
import os
import re
import urllib.parse
from pathlib import PurePosixPath

UNFINISHED = ".unfinished"
"""Suffix of the temporary files of writers; listings skip them."""
_READS_AS_ESCAPE = re.compile(rb"%(?=[0-9A-Fa-f]{2})")
_UNSAFE_PARTS = {"": "%00", ".": "%2E", "..": "%2E%2E"}


def key_of(name: str) -> str:
    """Returns the key of a stored name: its relative path as UTF-8, not normalized; `name_of` is the inverse.

    Bytes that are not UTF-8 become percent escapes; a percent sign that would read as an escape becomes `%25`.
    """
    raw = _READS_AS_ESCAPE.sub(b"%25", os.fsencode(name))
    characters = []
    for character in raw.decode("utf-8", "surrogateescape"):
        # PEP 383: byte 0x80..0xff that is not UTF-8 is decoded as U+DC80..U+DCFF
        if "\udc80" <= character <= "\udcff":
            byte = ord(character) - 0xDC00
            character = f"%{byte:02X}"
        characters.append(character)
    return "".join(characters)


def name_of(key: str) -> str:
    """Returns the stored name of a key, with undecodable bytes as surrogate escapes."""
    return os.fsdecode(urllib.parse.unquote_to_bytes(key))


def part_of(uri: str) -> tuple[str, int | None]:
    """Splits a URI into the URI of the file and the offset of the picture in it; None for a whole file.

    >>> part_of("s3://bucket/000000.tar#bytes=512-900")
    ('s3://bucket/000000.tar', 512)
    """
    address, found, extent = uri.rpartition("#bytes=")
    if not found:
        return uri, None
    offset = extent.partition("-")[0]
    return address, int(offset)


def root_and_name(address: str) -> tuple[str, str]:
    """Splits a URI into the root of a store and a name in it, which may begin with slashes.

    >>> root_and_name("s3://bucket//x.png")
    ('s3://bucket', '/x.png')
    """
    scheme, _, rest = address.partition("://")
    authority = rest.partition("/")[0]
    if authority:
        root = f"{scheme}://{authority}"
    else:  # file:///folder
        root = f"{scheme}:///"
    return root, address[len(root) :].removeprefix("/")


def member(row: int, key: str, extension: str) -> str:
    """The name inside a tar of row 0..999999. WebDataset cuts names at the first dot, so it contains no key.

    >>> member(7, "photos/../a.b.jpg", "fdc")
    '000007-4f2783ee3f9b16a1.fdc'
    """
    return f"{row:06d}-{key_hash(key)}.{extension}"


def key_hash(key: str) -> str:
    """The first 16 hex digits of a key's SHA-256, as in the names of members."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def extension_of(key: str) -> str:
    """The lowercase extension of a key, letters and digits only; `bin` without one."""
    extension = PurePosixPath(key).suffix[1:].lower()
    if not re.fullmatch(r"[a-z0-9]{1,8}", extension):
        return "bin"
    return extension


def restored(key: str, extension: str | None) -> str:
    """Returns the path of a restored picture, relative to the target folder and inside it.

    `extension` is appended unless the key already ends in it; None keeps the key unchanged. Empty, `.` and `..` parts
    are percent-escaped, so that no key escapes the target folder.
    """
    parts = []
    for part in name_of(key).split("/"):
        safe = _UNSAFE_PARTS.get(part, part)
        parts.append(safe.replace("\0", "%00"))  # no file system takes a NUL
    path = "/".join(parts)
    if extension is None or path.lower().endswith(f".{extension}"):
        return path
    return f"{path}.{extension}"
