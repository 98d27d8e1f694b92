"""Addresses of pictures: the key and, after its last dot, what is asked for.

A key may contain anything: the last suffix of the path never belongs to it, so `a.png` as PNG is `/a.png.png`. Browsers
drop `.` and `..` from paths and join slashes; keys with such parts are given as `/key.png?key=KEY`. No key becomes the
name of a file: it is looked up in the report.
"""

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote_to_bytes

from tasks.gateway.refusals import Refusal

KINDS = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp", "avif": "image/avif"}
"""Media types of pictures by suffix."""
FDC = "fdc"
ORIGINAL = "original"
STORED = (FDC, ORIGINAL)
"""Suffixes of stored files: an .fdc file, and a file that was kept whole."""
FDC_TYPE = "image/vnd.fdcodec"
WIDEST = 16_384
"""Largest width that may be asked for."""
LONGEST = 8_192
"""Most bytes of a path or of a query."""
_UNSAFE = re.compile(r"(^|/)\.{0,2}(/|$)|\\|[\x00-\x1f]")
"""Keys whose path form a browser or a proxy may change: empty, `.` and `..` parts, backslashes, control characters."""


@dataclass(frozen=True)
class Address:
    """What is asked for: a key, a suffix, and a width in pixels or the stored preview."""

    key: str
    suffix: str
    width: int | None = None
    preview: bool = False

    @property
    def is_stored(self) -> bool:
        """Whether a stored file is asked for, not a picture."""
        return self.suffix in STORED


def parse(raw_path: bytes, query: bytes) -> Address:
    """Parses the path and query of a request, as sent. Raises Refusal."""
    if max(len(raw_path), len(query)) > LONGEST:
        raise Refusal(414, f"a path or query of more than {LONGEST} bytes")
    path = _text(raw_path.partition(b"?")[0])
    key, dot, suffix = path.removeprefix("/").rpartition(".")
    if not dot or (suffix not in KINDS and suffix not in STORED):
        suffixes = ", ".join([*KINDS, *STORED])
        raise Refusal(404, f"a picture is asked for as /KEY.SUFFIX, with one of {suffixes}")
    options = _options(query)
    key = options.pop("key", key)
    width = options.pop("width", None)
    preview = options.pop("preview", "0")
    if options:
        raise Refusal(400, f"unknown option {min(options)!r}; known are width, preview and key")
    if not key:
        raise Refusal(404, "no key")
    if preview not in ("0", "1") or (width is not None and preview == "1"):
        raise Refusal(400, "preview must be 0 or 1, and excludes width")
    address = Address(key, suffix, None if width is None else _width(width), preview == "1")
    if address.is_stored and (address.width is not None or address.preview):
        raise Refusal(400, "a stored file has no width")
    return address


def _text(raw: bytes) -> str:
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise Refusal(404, "the path is not UTF-8; keys are") from None


def _options(query: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, strict_parsing=bool(query), errors="strict", max_num_fields=8
        )
    except ValueError:
        raise Refusal(400, "the query is not valid") from None
    options = dict(pairs)
    if len(options) != len(pairs):
        raise Refusal(400, "an option is given twice")
    return options


def _width(text: str) -> int:
    # isdecimal alone would accept digits of other scripts, and int() thousands of them
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= WIDEST):
        raise Refusal(400, f"width must be 1 to {WIDEST} pixels")
    return int(text)


def link(key: str, suffix: str, option: str = "") -> str:
    """The path and query of a picture, safe in a page: browsers send back exactly this key."""
    if _UNSAFE.search(key):
        return f"/key.{suffix}?key={quote(key, safe='')}" + (f"&{option}" if option else "")
    return f"/{quote(key, safe='/')}.{suffix}" + (f"?{option}" if option else "")
