"""Rebuilds a wheel of the installed package: equal files give equal bytes, also for an editable installation.

The wheel excludes the embedded bundles, since an archive has those that it needs; the build tag marks this.
"""

import base64
import functools
import hashlib
import importlib.metadata
import importlib.util
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

from codec.errors import ArchiveError

DISTRIBUTION = "fdcodec"
PACKAGES = ("codec", "flows", "tasks")
BUNDLES = "codec/bundles/"
BUILD = "0decoder"
KEPT_METADATA = ("METADATA", "entry_points.txt", "top_level.txt", "licenses/LICENSE")
_OLDEST = (1980, 1, 1, 0, 0, 0)
"""The earliest time that ZIP can state; a fixed time keeps the bytes of a wheel equal."""


@functools.cache
def build() -> tuple[str, bytes]:
    """Builds the wheel; returns its file name and bytes. Raises ArchiveError if the package is not installed."""
    installation = installed()
    contents: dict[str, bytes] = {}
    for package in PACKAGES:
        for name, content in files(package):
            if not name.startswith(BUNDLES):
                contents[name] = content
    metadata: dict[str, bytes] = {}
    for name in KEPT_METADATA:
        text = installation.read_text(name) or ""
        metadata[name] = text.encode()
    return pack(DISTRIBUTION, installation.version, contents, metadata, build=BUILD)


def pack(
    distribution: str, version: str, contents: Mapping[str, bytes], metadata: Mapping[str, bytes], *, build: str = ""
) -> tuple[str, bytes]:
    """Packs a wheel from its files and those of its .dist-info folder, by name; returns file name and bytes."""
    name = f"{distribution.replace('-', '_')}-{version}"  # a wheel's name separates its parts by hyphens
    info = f"{name}.dist-info"
    about = "Wheel-Version: 1.0\nGenerator: fdcodec\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    if build:
        about += f"Build: {build}\n"
        name += f"-{build}"
    members = dict(contents)
    for file, text in metadata.items():
        members[f"{info}/{file}"] = text
    members[f"{info}/WHEEL"] = about.encode()
    record = [f"{member},sha256={_digest(content)},{len(content)}" for member, content in members.items()]
    record.append(f"{info}/RECORD,,")  # it cannot state its own hash
    members[f"{info}/RECORD"] = ("\n".join(record) + "\n").encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as wheel:
        for member, content in members.items():
            entry = zipfile.ZipInfo(member, _OLDEST)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16  # the upper half is the file's mode in Unix
            wheel.writestr(entry, content)
    return f"{name}-py3-none-any.whl", buffer.getvalue()


def installed() -> importlib.metadata.Distribution:
    """Returns the metadata of the installation; raises ArchiveError if there is none."""
    # In a checkout, the folder that a build leaves (fdcodec.egg-info) comes first, and it has no METADATA.
    for found in importlib.metadata.distributions(name=DISTRIBUTION):
        if found.read_text("METADATA"):
            return found
    raise ArchiveError("fdcodec is not installed here, so its wheel cannot be built; run `pip install .`")


def folder(package: str) -> Path:
    """Returns the installed folder of a package of this distribution."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None, "this module belongs to the package"
    return Path(spec.origin).parent


def files(package: str) -> list[tuple[str, bytes]]:
    """Returns name and content of each file of a package, sorted by name."""
    root = folder(package)
    found = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root.parent)
        # Caches and hidden files depend on what was run here, and the wheel must not.
        is_left_over = any(part.startswith((".", "__pycache__")) for part in name.parts)
        if path.is_file() and not is_left_over:
            found.append((name.as_posix(), path.read_bytes()))
    return found


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
