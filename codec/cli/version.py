"""fdc --version: the package, the file format it writes, and the bundle it encodes with."""

import importlib.metadata
import json

from codec.bundle_id import CONFIG, DEFAULT_BUNDLE, digest


def text() -> str:
    """One line, without loading torch."""
    from codec.format.bitstream import MINOR, VERSION

    try:
        package = importlib.metadata.version("fdcodec")
    except importlib.metadata.PackageNotFoundError:
        package = "(not installed)"
    data = json.loads((DEFAULT_BUNDLE / CONFIG).read_text())
    return (
        f"fdcodec {package}, format {VERSION}.{MINOR} (reads 1 and {VERSION}), "
        f"bundle {data['name']} {digest(data)[:16]}"
    )
